# SPDX-License-Identifier: Apache-2.0
"""Ids as AWS writes them: `vpc-`, `subnet-`, `sg-`, `eni-` and 17 hexadecimal digits.

People write the name of an environment as `env-7`, after its number.

Randomness is a parameter: a function that gives so many hexadecimal digits. `secrets.token_hex`
stands behind the default, a seeded generator behind tests that want to see the same ids twice.
"""

from __future__ import annotations

import random
import re
import secrets
from collections.abc import Callable

RandomHex = Callable[[int], str]

_DIGITS = 17
_ENVIRONMENT = re.compile(r"(?:env-?)?([1-9][0-9]{0,5})")


def system_hex(digits: int) -> str:
    """So many random hexadecimal digits."""
    return secrets.token_hex((digits + 1) // 2)[:digits]


def seeded_hex(seed: int) -> RandomHex:
    """A source that gives the same digits for the same seed."""
    generator = random.Random(seed)

    def digits(count: int) -> str:
        return f"{generator.getrandbits(4 * count):0{count}x}"

    return digits


def resource_id(prefix: str, source: RandomHex) -> str:
    """An id such as `eni-0a1b2c3d4e5f67890` (EC2 User Guide, "Resource IDs")."""
    return f"{prefix}-{source(_DIGITS)}"


def uuid(source: RandomHex) -> str:
    """A UUID in its usual form, as in the description of Lambda's interfaces."""
    digits = source(32)
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def account_id(source: RandomHex) -> str:
    """Twelve decimal digits, the first not 0."""
    return str(10**11 + int(source(16), 16) % (9 * 10**11))


def link_name(interface_id: str) -> str:
    """A link name for an interface: the kernel takes 15 characters."""
    return interface_id[:15]


def environment_name(number: int) -> str:
    """The name of environment `number`, counted from 1."""
    return f"env-{number}"


def environment_number(name: str) -> int | None:
    """The number in `env-7`, `env7` or `7`; None when it is none of these."""
    match = _ENVIRONMENT.fullmatch(name)
    return int(match[1]) if match else None
