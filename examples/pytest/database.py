# SPDX-License-Identifier: Apache-2.0
"""What a function keeps between two invocations: a pool of connections to its database."""

from __future__ import annotations

from sqlalchemy import Engine, create_engine, text


def pool(address: str, **how: object) -> Engine:
    """One connection that is kept; `how` is what create_engine(...) is told besides."""
    return create_engine(f"postgresql+psycopg://postgres@{address}/postgres", pool_size=1, **how)


def server_process(engine: Engine) -> int:
    """The process of the database that serves us: another connection has another one."""
    with engine.connect() as connection:
        return connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
