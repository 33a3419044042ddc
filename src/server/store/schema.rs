//! The database file: pragmas, tables, migrations.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::StoreError;

/// What `PRAGMA user_version` says when every migration has run.
const VERSION: i64 = MIGRATIONS.len() as i64;

/// Entry `n` brings a database from version `n` to `n + 1`. Never edited once released, only appended to.
const MIGRATIONS: &[&str] = &["
CREATE TABLE counters (
    id        INTEGER PRIMARY KEY CHECK (id = 1),
    revision  INTEGER NOT NULL,
    operation INTEGER NOT NULL,
    event     INTEGER NOT NULL
) STRICT;
INSERT INTO counters VALUES (1, 0, 0, 0);

CREATE TABLE workspaces (
    id         INTEGER PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    file_count INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Files and the directories that they imply, in one ordering, so that a page of a tree is one range scan. A path may be
-- both: kind 0 is the file and sorts first. files_below is kept for directories and makes totals free.
CREATE TABLE entries (
    ws           INTEGER NOT NULL,
    path         TEXT    NOT NULL,
    kind         INTEGER NOT NULL CHECK (kind IN (0, 1)),
    files_below  INTEGER NOT NULL DEFAULT 0,
    revision     INTEGER,
    hash         BLOB,
    size         INTEGER,
    base64       INTEGER NOT NULL DEFAULT 0,
    edited_ns    INTEGER,
    content      INTEGER,
    acl          INTEGER NOT NULL DEFAULT 0,
    content_type TEXT,
    provider     TEXT,
    object_id    TEXT,
    semantics    TEXT,
    PRIMARY KEY (ws, path, kind)
) STRICT, WITHOUT ROWID;
CREATE INDEX entries_acl ON entries (ws) WHERE acl = 1;
CREATE INDEX entries_object ON entries (ws, provider, object_id) WHERE object_id IS NOT NULL;

-- Apart from the entries so that listings never page through bodies.
CREATE TABLE contents (
    id   INTEGER PRIMARY KEY,
    body TEXT NOT NULL
) STRICT;

CREATE TABLE providers (
    ws   INTEGER NOT NULL,
    name TEXT NOT NULL,
    PRIMARY KEY (ws, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    seq            INTEGER PRIMARY KEY,
    ws             INTEGER NOT NULL,
    type           INTEGER NOT NULL,
    origin         INTEGER NOT NULL,
    path           TEXT NOT NULL,
    revision       INTEGER NOT NULL,
    hash           BLOB,
    provider       TEXT NOT NULL,
    correlation_id TEXT NOT NULL,
    at_ns          INTEGER NOT NULL
) STRICT;
CREATE INDEX events_ws ON events (ws, seq);

CREATE TABLE ops (
    seq             INTEGER PRIMARY KEY,
    ws              INTEGER NOT NULL,
    path            TEXT NOT NULL,
    revision        INTEGER NOT NULL,
    action          TEXT NOT NULL,
    provider        TEXT NOT NULL,
    status          TEXT NOT NULL,
    attempts        INTEGER NOT NULL DEFAULT 0,
    last_error      TEXT,
    provider_result TEXT,
    identity_kind   TEXT,
    identity_key    TEXT,
    identity_ttl    INTEGER,
    correlation_id  TEXT NOT NULL,
    created_ns      INTEGER NOT NULL,
    updated_ns      INTEGER NOT NULL,
    completed_ns    INTEGER
) STRICT;
CREATE INDEX ops_ws ON ops (ws, seq);
CREATE INDEX ops_pending ON ops (ws, seq) WHERE status = 'pending';
CREATE INDEX ops_identity ON ops (ws, identity_kind, identity_key, seq) WHERE identity_key IS NOT NULL;
"];

/// Opens the one writing connection and brings the schema up to date.
pub(super) fn open_writer(path: &Path) -> Result<Connection, StoreError> {
    let mut conn = Connection::open(path)?;
    conn.busy_timeout(Duration::from_secs(10))?;
    // WAL with FULL: each commit is one fsync of the log, which is what an acknowledgement promises.
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)?;
    conn.pragma_update(None, "cache_size", -16 * 1024)?;
    conn.pragma_update(None, "foreign_keys", false)?;
    conn.set_prepared_statement_cache_capacity(128);

    let found: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found > VERSION {
        return Err(StoreError::TooNew { found, known: VERSION });
    }
    for (step, sql) in MIGRATIONS.iter().enumerate().skip(found as usize) {
        let tx = conn.transaction()?;
        tx.execute_batch(sql)?;
        tx.pragma_update(None, "user_version", step as i64 + 1)?;
        tx.commit()?;
    }
    Ok(conn)
}

/// Opens one reading connection; it cannot change anything.
pub(super) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.busy_timeout(Duration::from_secs(10))?;
    conn.pragma_update(None, "query_only", true)?;
    conn.pragma_update(None, "cache_size", -4 * 1024)?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(conn)
}
