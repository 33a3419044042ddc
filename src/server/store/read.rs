//! Point reads: one file, its content, events.

use rusqlite::{Connection, OptionalExtension, params};

use super::types::{EventRow, FileRow};
use super::{Store, StoreError};

pub(crate) fn workspace_id(conn: &Connection, name: &str) -> rusqlite::Result<Option<i64>> {
    conn.prepare_cached("SELECT id FROM workspaces WHERE name = ?1")?.query_row([name], |r| r.get(0)).optional()
}

pub(super) fn file_row(conn: &Connection, ws: i64, path: &str) -> rusqlite::Result<Option<FileRow>> {
    conn.prepare_cached(&format!("SELECT {} FROM entries WHERE ws = ?1 AND path = ?2 AND kind = 0", FileRow::COLUMNS))?
        .query_row(params![ws, path], FileRow::from_row)
        .optional()
}

pub(super) fn content(conn: &Connection, file: &FileRow) -> rusqlite::Result<String> {
    conn.prepare_cached("SELECT body FROM contents WHERE id = ?1")?.query_row([file.content], |r| r.get(0))
}

impl Store {
    /// The number of the workspace, `None` if nothing was ever written there.
    pub(crate) fn workspace(&self, name: &str) -> Result<Option<i64>, StoreError> {
        self.read(|conn| workspace_id(conn, name))
    }

    /// A file and its stored string.
    pub(crate) fn file(&self, workspace: &str, path: &str) -> Result<Option<(FileRow, String)>, StoreError> {
        self.read(|conn| {
            let Some(ws) = workspace_id(conn, workspace)? else { return Ok(None) };
            let Some(file) = file_row(conn, ws, path)? else { return Ok(None) };
            let body = content(conn, &file)?;
            Ok(Some((file, body)))
        })
    }

    /// The content of `path`, if it still has `revision` and is at most `max` bytes.
    pub(crate) fn content_at(
        &self,
        ws: i64,
        path: &str,
        revision: i64,
        max: u64,
    ) -> Result<Option<(FileRow, String)>, StoreError> {
        self.read(|conn| {
            let Some(file) = file_row(conn, ws, path)? else { return Ok(None) };
            if file.revision != revision || file.size > max {
                return Ok(None);
            }
            let body = content(conn, &file)?;
            Ok(Some((file, body)))
        })
    }

    /// Events of a workspace, oldest first, after `cursor`. An event that is not known here (never was, or pruned, or of
    /// another provider) is no position: the answer starts at the first one. One more than `limit` is read to know
    /// whether there is more.
    pub(crate) fn events(
        &self,
        workspace: &str,
        provider: &str,
        cursor: Option<i64>,
        limit: usize,
        newest_first: bool,
    ) -> Result<(Vec<EventRow>, bool), StoreError> {
        self.read(|conn| {
            let Some(ws) = workspace_id(conn, workspace)? else { return Ok((Vec::new(), false)) };
            let known = match cursor {
                Some(seq) => conn
                    .prepare_cached("SELECT 1 FROM events WHERE seq = ?1 AND ws = ?2 AND (?3 = '' OR provider = ?3)")?
                    .exists(params![seq, ws, provider])?,
                None => false,
            };
            let (sql, from) = if newest_first {
                let from = match cursor {
                    Some(seq) if known => seq,
                    Some(_) => return Ok((Vec::new(), false)),
                    None => i64::MAX,
                };
                ("seq < ?2 AND (?3 = '' OR provider = ?3) ORDER BY seq DESC", from)
            } else {
                ("seq > ?2 AND (?3 = '' OR provider = ?3) ORDER BY seq", cursor.filter(|_| known).unwrap_or(0))
            };
            let mut rows: Vec<EventRow> = conn
                .prepare_cached(&format!("SELECT {} FROM events WHERE ws = ?1 AND {sql} LIMIT ?4", EventRow::COLUMNS))?
                .query_map(params![ws, from, provider, limit as i64 + 1], EventRow::from_row)?
                .collect::<Result<_, _>>()?;
            let more = rows.len() > limit;
            rows.truncate(limit);
            Ok((rows, more))
        })
    }

    /// Whether the workspace has an event with this number.
    pub(crate) fn has_event(&self, ws: i64, seq: i64) -> Result<bool, StoreError> {
        self.read(|conn| conn.prepare_cached("SELECT 1 FROM events WHERE seq = ?1 AND ws = ?2")?.exists([seq, ws]))
    }

    /// The number of the event before the last `count` of the workspace: where a catch-up of `count` starts.
    pub(crate) fn before_last(&self, ws: i64, count: usize) -> Result<i64, StoreError> {
        self.read(|conn| {
            conn.prepare_cached("SELECT seq FROM events WHERE ws = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2")?
                .query_row(params![ws, count as i64], |r| r.get(0))
                .optional()
                .map(|seq| seq.unwrap_or(0))
        })
    }

    /// Events of a workspace after number `seq`, oldest first.
    pub(crate) fn events_after(&self, ws: i64, seq: i64, limit: usize) -> Result<Vec<EventRow>, StoreError> {
        self.read(|conn| {
            conn.prepare_cached(&format!(
                "SELECT {} FROM events WHERE ws = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3",
                EventRow::COLUMNS
            ))?
            .query_map(params![ws, seq, limit as i64], EventRow::from_row)?
            .collect()
        })
    }

    /// What the event log says of `path` at `revision`: `None` if it is not (or no longer) recorded, else the content
    /// hash, which a deletion does not have.
    ///
    /// Revisions grow with the event numbers, so that a binary search needs no index of its own.
    pub(crate) fn provenance(&self, ws: i64, path: &str, revision: i64) -> Result<Option<Option<[u8; 32]>>, StoreError> {
        self.read(|conn| {
            let mut at = conn.prepare_cached("SELECT seq, revision FROM events WHERE seq >= ?1 ORDER BY seq LIMIT 1")?;
            let (mut low, mut high): (i64, i64) = conn
                .prepare_cached("SELECT (SELECT min(seq) FROM events), (SELECT max(seq) FROM events)")?
                .query_row([], |r| Ok((r.get::<_, Option<i64>>(0)?.unwrap_or(0), r.get::<_, Option<i64>>(1)?.unwrap_or(0))))?;
            // The first event whose revision is at least the wanted one.
            while low < high {
                let middle = low + (high - low) / 2;
                let (seq, found): (i64, i64) = at.query_row([middle], |r| Ok((r.get(0)?, r.get(1)?)))?;
                if found >= revision { high = middle } else { low = seq + 1 }
            }
            // A rename puts two events under one revision.
            conn.prepare_cached("SELECT hash FROM events WHERE seq IN (?1, ?1 + 1) AND ws = ?2 AND path = ?3 AND revision = ?4")?
                .query_row(params![low, ws, path, revision], |r| r.get(0))
                .optional()
        })
    }
}
