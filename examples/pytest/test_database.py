# SPDX-License-Identifier: Apache-2.0
"""A pool whose connections are dead after 350 seconds idle, and what mends it."""

from __future__ import annotations

import pytest
from database import pool, server_process
from sqlalchemy.exc import OperationalError

IDLE_SECONDS = 350

pytestmark = pytest.mark.usefixtures("capture_on_failure")


def test_connection_is_kept(hyperplane_lab, postgresql):
    engine = pool(postgresql)
    first = hyperplane_lab.inside("env-1", server_process, engine)
    hyperplane_lab.advance(IDLE_SECONDS - 30)
    assert hyperplane_lab.inside("env-1", server_process, engine) == first


def test_idle_pool_breaks(hyperplane_lab, postgresql):
    engine = pool(postgresql)
    hyperplane_lab.inside("env-1", server_process, engine)
    hyperplane_lab.advance(IDLE_SECONDS)
    with pytest.raises(OperationalError):
        hyperplane_lab.inside("env-1", server_process, engine)


def test_connection_that_is_tried_before_it_is_used_is_replaced(hyperplane_lab, postgresql):
    engine = pool(postgresql, pool_pre_ping=True)
    first = hyperplane_lab.inside("env-1", server_process, engine)
    hyperplane_lab.advance(IDLE_SECONDS)
    second = hyperplane_lab.inside("env-1", server_process, engine)
    assert second != first
