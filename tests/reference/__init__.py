# SPDX-License-Identifier: Apache-2.0
"""A plain-Python NAT: the oracle that the compiled engine is compared with.

It is written from the rules, not from the engine: dictionaries instead of hash tables, whole
checksums instead of incremental ones, a scan instead of timers. It is slow and it is meant to be
obviously right. Where the engine may choose (the source port, the order of expiry under a
budget) the model is told the choice and checks that it was a legal one.
"""

from tests.reference.errors import IllegalChoiceError
from tests.reference.nat import ReferenceNat
from tests.reference.result import Result
from tests.reference.security_group import Policy, Rule
from tests.reference.settings import Behaviour, Interface, Ports, Slot, Timeouts

__all__ = [
    "Behaviour",
    "IllegalChoiceError",
    "Interface",
    "Policy",
    "Ports",
    "ReferenceNat",
    "Result",
    "Rule",
    "Slot",
    "Timeouts",
]
