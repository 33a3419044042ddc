//! The tables of the journal and the steps between their versions.

use rusqlite::Connection;

/// Each entry takes the schema from its index to the next `PRAGMA user_version`. Entries are never edited once released.
const STEPS: &[&str] = &[
    // 1: the tree, the remote snapshot, the operations.
    "
    CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;

    -- One inode. `content`: 0 not a regular file or nothing at the remote to fetch, 1 at the remote only, 2 the working file
    -- holds version (revision, hash), 3 the working file holds local changes on top of that version.
    CREATE TABLE node(
        id INTEGER PRIMARY KEY,
        kind INTEGER NOT NULL,
        mode INTEGER NOT NULL,
        uid INTEGER NOT NULL,
        gid INTEGER NOT NULL,
        rdev INTEGER NOT NULL,
        size INTEGER NOT NULL,
        size_known INTEGER NOT NULL,
        atime INTEGER NOT NULL,
        mtime INTEGER NOT NULL,
        ctime INTEGER NOT NULL,
        target BLOB,
        content INTEGER NOT NULL,
        origin TEXT,
        revision TEXT,
        hash BLOB,
        content_type TEXT,
        stamp_size INTEGER,
        stamp_ctime INTEGER,
        implied INTEGER NOT NULL,
        listed INTEGER NOT NULL
    ) STRICT;

    CREATE TABLE name(
        parent INTEGER NOT NULL,
        name BLOB NOT NULL,
        node INTEGER NOT NULL,
        PRIMARY KEY(parent, name)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE xattr(
        node INTEGER NOT NULL,
        name BLOB NOT NULL,
        value BLOB NOT NULL,
        PRIMARY KEY(node, name)
    ) STRICT, WITHOUT ROWID;

    -- The version of each path that the view is built on: the base of the next upload.
    CREATE TABLE remote(
        path TEXT PRIMARY KEY,
        revision TEXT NOT NULL,
        hash BLOB,
        content_type TEXT
    ) STRICT, WITHOUT ROWID;

    -- A newer version that was heard of while local work on the path is open. revision NULL: deleted there.
    CREATE TABLE seen(path TEXT PRIMARY KEY, revision TEXT, hash BLOB) STRICT, WITHOUT ROWID;

    -- state: 1 queued, 2 in flight, 3 waiting for the next attempt, 4 dead, 5 acknowledged, 6 superseded, 7 discarded.
    CREATE TABLE operation(
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        op_id TEXT NOT NULL UNIQUE,
        kind INTEGER NOT NULL,
        path TEXT NOT NULL,
        node INTEGER,
        state INTEGER NOT NULL,
        generation INTEGER NOT NULL,
        base_revision TEXT,
        base_hash BLOB,
        after_op TEXT,
        sent INTEGER NOT NULL DEFAULT 0,
        payload_hash BLOB,
        payload_size INTEGER,
        content_type TEXT,
        attempts INTEGER NOT NULL DEFAULT 0,
        not_before INTEGER NOT NULL,
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL,
        last_status INTEGER,
        last_code TEXT,
        last_error TEXT,
        remote_op TEXT,
        result_revision TEXT
    ) STRICT;
    CREATE INDEX operation_of_path ON operation(path) WHERE state <= 4;
    CREATE INDEX operation_due ON operation(not_before) WHERE state IN (1, 3);
    CREATE INDEX operation_after ON operation(after_op) WHERE after_op IS NOT NULL AND state IN (1, 3);
    CREATE INDEX operation_done ON operation(path) WHERE state = 5;
    CREATE INDEX operation_dead ON operation(last_code) WHERE state = 4;
    CREATE INDEX operation_finished ON operation(seq) WHERE state >= 5;
    -- Promise: at most one operation of a path in flight.
    CREATE UNIQUE INDEX operation_one_in_flight ON operation(path) WHERE state = 2;
    ",
    // 2: dead letters that can be told, retried and discarded.
    "
    -- 1: the view shows what this operation sends. 0: the remote's version has taken the path (a conflict, an import).
    ALTER TABLE operation ADD COLUMN in_view INTEGER NOT NULL DEFAULT 1;
    -- 1: somebody said that it goes on top of whatever the remote has; used up by the next attempt.
    ALTER TABLE operation ADD COLUMN force INTEGER NOT NULL DEFAULT 0;
    -- Attempts that a retry has forgiven: they stay told, and do not count against the budget.
    ALTER TABLE operation ADD COLUMN forgiven INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE operation ADD COLUMN last_body TEXT;

    -- Failed attempts, for people. status NULL: no response, or found out by asking.
    CREATE TABLE attempt(
        op_id TEXT NOT NULL,
        at INTEGER NOT NULL,
        status INTEGER,
        code TEXT NOT NULL,
        message TEXT NOT NULL
    ) STRICT;
    CREATE INDEX attempt_of ON attempt(op_id);

    -- The most recent refusal of each provider, which outlives the operation that met it.
    CREATE TABLE provider_error(
        provider TEXT PRIMARY KEY,
        op_id TEXT NOT NULL,
        path TEXT NOT NULL,
        status INTEGER,
        code TEXT NOT NULL,
        message TEXT NOT NULL,
        at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;

    -- Unfinished operations whose own event was seen in the remote's feed: they were applied, whatever is there now.
    CREATE TABLE applied(op_id TEXT PRIMARY KEY, revision TEXT, hash BLOB) STRICT, WITHOUT ROWID;

    DROP INDEX operation_dead;
    CREATE INDEX operation_dead ON operation(seq) WHERE state = 4;
    CREATE INDEX operation_linked ON operation(after_op) WHERE state = 6 AND last_code = 'linked';
    ",
    // 3: what the remote has accepted, on its way to the provider.
    "
    -- 1: the remote has applied this operation, and its provider has refused it: a retry asks for another delivery and sends
    -- nothing.
    ALTER TABLE operation ADD COLUMN replay INTEGER NOT NULL DEFAULT 0;

    -- Acknowledged operations whose delivery is not at its end. remote_op NULL: the response that named it was lost, it is
    -- found by its correlation id.
    CREATE TABLE delivery(
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        op_id TEXT NOT NULL UNIQUE,
        remote_op TEXT,
        path TEXT NOT NULL,
        kind INTEGER NOT NULL,
        since INTEGER NOT NULL,
        next_look INTEGER NOT NULL,
        checks INTEGER NOT NULL DEFAULT 0,
        state TEXT NOT NULL
    ) STRICT;
    CREATE INDEX delivery_due ON delivery(next_look);
    CREATE INDEX delivery_of_path ON delivery(path);

    -- A partial index serves only a query that repeats its very condition, and most about a path do not: they read the whole
    -- table.
    DROP INDEX operation_of_path;
    DROP INDEX operation_done;
    CREATE INDEX operation_path ON operation(path);
    CREATE INDEX operation_refused ON operation(seq) WHERE state = 4 AND replay = 1;
    ",
    // 4: what was sent together with others.
    "
    -- 1: a request for it was part of a batch: the event of that carries no correlation id, and the remote knows the operation
    -- by its content identity.
    ALTER TABLE operation ADD COLUMN batched INTEGER NOT NULL DEFAULT 0;
    ",
];

/// The version that this program writes.
pub const CURRENT: u32 = STEPS.len() as u32;

/// Brings the schema to [`CURRENT`], each step one transaction. `Err(found)` holds the version of a newer program's journal.
pub fn migrate(db: &mut Connection) -> rusqlite::Result<Result<(), u32>> {
    let found: u32 = db.query_row("PRAGMA user_version", [], |r| r.get(0))?;
    if found > CURRENT {
        return Ok(Err(found));
    }
    for (i, step) in STEPS.iter().enumerate().skip(found as usize) {
        let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        tx.execute_batch(step)?;
        tx.pragma_update(None, "user_version", i as u32 + 1)?;
        tx.commit()?;
    }
    Ok(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_of_the_second_version_keeps_its_operations() {
        let mut db = Connection::open_in_memory().unwrap();
        STEPS[..2].iter().for_each(|step| db.execute_batch(step).unwrap());
        db.pragma_update(None, "user_version", 2).unwrap();
        db.execute_batch(
            "INSERT INTO operation(op_id, kind, path, state, generation, not_before, created_at, updated_at, remote_op)
             VALUES('op_0123456789', 1, '/f', 5, 1, 0, 1, 1, 'op_1'), ('op_0123456790', 1, '/f', 4, 1, 0, 1, 1, NULL)",
        )
        .unwrap();
        assert_eq!(migrate(&mut db).unwrap(), Ok(()));
        let kept: (i64, i64) =
            db.query_row("SELECT count(*), sum(replay) FROM operation", [], |r| Ok((r.get(0)?, r.get(1)?))).unwrap();
        assert_eq!(kept, (2, 0));
        assert_eq!(migrate(&mut db).unwrap(), Ok(()), "a second time changes nothing");
    }
}
