"""The spool's tables on PostgreSQL, and the steps that bring older ones up to date.

Contract
    The columns are those of store.schema, so that store.statements speaks to both; what PostgreSQL has besides:
    `node` (who works on this database; each holds an advisory lock for as long as it lives), `recipient.holder` (who is
    trying), `piece` (contents over INLINE_OCTETS). Several programs that start at once migrate one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from egressguard.store.schema import SchemaTooNew

LOCKS = 0x45474453
"""The first key of all our advisory locks (the second: 0 = migrating, else a node)."""

MIGRATIONS: Sequence[str] = (
    """
    CREATE TABLE message (
        number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id TEXT COLLATE "C" NOT NULL UNIQUE,
        reverse_path TEXT NOT NULL,
        smtputf8 BOOLEAN NOT NULL,
        body_8bit BOOLEAN NOT NULL,
        "binary" BOOLEAN NOT NULL,
        requiretls BOOLEAN NOT NULL,
        ret TEXT,
        envid TEXT,
        size_octets BIGINT NOT NULL,
        received_at DOUBLE PRECISION NOT NULL,
        client TEXT NOT NULL,
        listener TEXT NOT NULL,
        "user" TEXT,
        rule TEXT NOT NULL,
        policy_revision TEXT NOT NULL,
        tags TEXT NOT NULL,
        is_ascii BOOLEAN NOT NULL,
        front BYTEA  -- what stands before the pieces; NULL: the octets are in body
    );
    CREATE INDEX message_received ON message (received_at, id);
    CREATE TABLE body (
        number BIGINT PRIMARY KEY,
        octets BYTEA NOT NULL
    );
    ALTER TABLE body ALTER octets SET STORAGE EXTERNAL;
    CREATE TABLE piece (
        number BIGINT NOT NULL REFERENCES message (number) ON DELETE CASCADE,
        part INTEGER NOT NULL,
        octets BYTEA NOT NULL,
        PRIMARY KEY (number, part)
    );
    ALTER TABLE piece ALTER octets SET STORAGE EXTERNAL;
    CREATE TABLE node (
        id INTEGER GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        began TIMESTAMPTZ NOT NULL DEFAULT now()
    );
    CREATE TABLE recipient (
        message_id TEXT COLLATE "C" NOT NULL REFERENCES message (id) ON DELETE CASCADE,
        forward_path TEXT COLLATE "C" NOT NULL,
        destination TEXT COLLATE "C" NOT NULL,
        state TEXT COLLATE "C" NOT NULL CHECK (state IN ('queued', 'trying', 'held')),
        attempts INTEGER NOT NULL,
        next_at DOUBLE PRECISION NOT NULL,
        last_status TEXT NOT NULL,
        last_reply TEXT NOT NULL,
        via TEXT NOT NULL,
        notify TEXT,
        orcpt TEXT,
        holder INTEGER DEFAULT NULLIF(current_setting('egressguard.node', true), '')::INTEGER,
        PRIMARY KEY (message_id, forward_path)
    );
    CREATE INDEX recipient_due ON recipient (state, destination, next_at);
    CREATE INDEX recipient_holder ON recipient (holder) WHERE state = 'trying';
    CREATE TABLE source (
        source_id TEXT COLLATE "C" PRIMARY KEY,
        message_id TEXT NOT NULL
    );
    """,
    """
    ALTER TABLE message ADD COLUMN verdict TEXT NOT NULL DEFAULT '';
    CREATE TABLE suspended (
        destination TEXT COLLATE "C" PRIMARY KEY,
        why TEXT NOT NULL,
        ordered_by TEXT NOT NULL,
        since DOUBLE PRECISION NOT NULL
    );
    CREATE TABLE suppressed (
        address TEXT COLLATE "C" PRIMARY KEY,
        why TEXT NOT NULL,
        since DOUBLE PRECISION NOT NULL,
        until DOUBLE PRECISION NOT NULL
    );
    """,
)
"""As in store.schema: a step that was released is never changed; add another."""


def migrate(connection: psycopg.Connection[Any], migrations: Sequence[str] = MIGRATIONS) -> None:
    """Bring the database up to date, in one transaction. Raises SchemaTooNew, psycopg.Error."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s, 0)", (LOCKS,))
        connection.execute("CREATE TABLE IF NOT EXISTS egressguard_schema (version INTEGER NOT NULL)")
        row = connection.execute("SELECT version FROM egressguard_schema").fetchone()
        version = row[0] if row else 0
        if version > len(migrations):
            raise SchemaTooNew(
                f"the database has schema {version}, this program knows {len(migrations)}: use the newer one"
            )
        if version == len(migrations):
            return
        for step in migrations[version:]:
            connection.execute(step.encode())
        connection.execute("DELETE FROM egressguard_schema")
        connection.execute("INSERT INTO egressguard_schema VALUES (%s)", (len(migrations),))
