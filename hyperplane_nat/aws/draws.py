# SPDX-License-Identifier: Apache-2.0
"""What moto draws while it answers a request: the bits of its ids and keys, and the time.

Theory of operation
-------------------
A request that is repeated (`journal`) is to be answered as it was. `drawing` has everything that
moto draws in this thread meanwhile come from a seed and a moment; other threads go on as ever.
moto has one object for what is random and one function for the time, which its modules have taken
by name: so it is these that are changed and not the names. A few modules ask `os`, `time` or
`datetime` themselves; there the module's own name leads to a stand-in. What libraries draw, such as
the keys of RSA, is another one each time.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import random
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from moto.core import utils
from moto.moto_api._internal import mock_random
from moto.moto_api._internal.moto_random import MotoRandom


class _Here(threading.local):
    source: random.Random | None = None
    moment: float | None = None


_HERE = _Here()


@contextlib.contextmanager
def drawing(seed: int, moment: float) -> Iterator[None]:
    """Have moto draw from a seed, at a moment in seconds since the epoch."""
    _cover()
    before = _HERE.source, _HERE.moment
    _HERE.source, _HERE.moment = random.Random(seed), moment
    try:
        yield
    finally:
        _HERE.source, _HERE.moment = before


def now() -> float:
    """The time in seconds since the epoch, as moto is to see it."""
    return time.time() if _HERE.moment is None else _HERE.moment


def utcnow() -> datetime.datetime:
    """The same in UTC, without a zone."""
    return datetime.datetime.fromtimestamp(now(), datetime.UTC).replace(tzinfo=None)


class _Random(MotoRandom):
    """moto's, from this thread's seed where it has one."""

    def random(self) -> float:
        """`Random.random`, which everything that is no integer is made of."""
        return super().random() if _HERE.source is None else _HERE.source.random()

    def getrandbits(self, k: int, /) -> int:
        """`Random.getrandbits`, which all else is made of."""
        return super().getrandbits(k) if _HERE.source is None else _HERE.source.getrandbits(k)


class _Os:
    """`os`, with its random bytes from the seed."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def urandom(self, size: int) -> bytes:
        """`os.urandom`."""
        return os.urandom(size) if _HERE.source is None else _HERE.source.randbytes(size)


class _Time:
    """`time`, at the moment."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def time(self) -> float:
        """`time.time`."""
        return now()


class _Moment(datetime.datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> _Moment:
        """`datetime.now`."""
        return cls.fromtimestamp(now(), tz)


class _Datetime:
    """`datetime`, at the moment."""

    datetime = _Moment

    def __getattr__(self, name: str) -> Any:
        return getattr(datetime, name)


_STAND_INS: Mapping[str, Mapping[str, object]] = {
    "moto.iam.models": {"os": _Os()},
    "moto.kms.utils": {"os": _Os()},
    "moto.s3.models": {"os": _Os(), "datetime": _Datetime()},
    "moto.secretsmanager.models": {"time": _Time()},
    "moto.sts.utils": {"os": _Os()},
}
"""Names of modules that draw by themselves."""


def _utcnow() -> datetime.datetime:
    from hyperplane_nat.aws import draws

    return draws.utcnow()


def _cover() -> None:
    """See to it that moto draws here, modules that were imported lately included."""
    # Assigned again and again: it is the same.
    mock_random.__class__ = _Random
    utils.utcnow.__code__ = _utcnow.__code__
    for name, stand_ins in _STAND_INS.items():
        module = sys.modules.get(name)
        if module is not None:
            for each, stand_in in stand_ins.items():
                setattr(module, each, stand_in)
