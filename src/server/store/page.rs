//! Listings: range scans of the one ordering of entries, that never look at what they do not show.

use std::collections::BTreeMap;
use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension, params};

use super::read::{content, file_row, workspace_id};
use super::types::{FileRow, Semantics, TreeRow};
use super::{Store, StoreError};
use crate::server::acl::Gate;
use crate::server::paths;

/// A page of a tree. `total` counts the files below the base, on all pages.
#[derive(Debug, Default)]
pub(crate) struct TreePage {
    pub rows: Vec<TreeRow>,
    pub next: Option<String>,
    pub total: u64,
}

/// What `GET /fs/query` can ask for; empty fields ask for nothing.
#[derive(Debug, Default)]
pub(crate) struct QueryFilter {
    pub provider: String,
    pub relation: String,
    pub permission: String,
    pub comment: String,
    pub properties: BTreeMap<String, String>,
}

impl QueryFilter {
    fn matches(&self, file: &FileRow) -> bool {
        let has = |list: &[String], want: &str| want.is_empty() || list.iter().any(|v| v == want);
        (self.provider.is_empty() || file.provider == self.provider)
            && has(&file.semantics.relations, &self.relation)
            && has(&file.semantics.comments, &self.comment)
            && self.properties.iter().all(|(k, v)| file.semantics.properties.get(k) == Some(v))
    }
}

/// Rows of one statement; a scan goes on with the next when it has to skip.
const CHUNK: i64 = 1001;

impl Store {
    /// One page of the entries below `base`, at most `depth` levels deep, in byte order of their paths. `None` if the
    /// cursor is not an entry of this listing.
    pub(crate) fn tree(
        &self,
        workspace: &str,
        base: &str,
        depth: usize,
        cursor: Option<&str>,
        limit: usize,
        gate: Option<&mut Gate<'_>>,
    ) -> Result<Option<TreePage>, StoreError> {
        self.read(|conn| {
            let Some(ws) = workspace_id(conn, workspace)? else { return Ok(Some(TreePage::default())) };
            let prefix = paths::below(base);
            let mut from = Bound { at: prefix.clone(), inclusive: true };
            if let Some(cursor) = cursor {
                if !cursor.starts_with(&prefix) || level(&prefix, cursor) > depth || !entry_exists(conn, ws, cursor)? {
                    return Ok(None);
                }
                from = Bound { at: cursor.to_owned(), inclusive: false };
            }
            let mut page = TreePage { total: total_below(conn, ws, base)?, ..TreePage::default() };
            let more = scan_tree(conn, ws, &prefix, depth, from, limit, &mut page.rows)?;
            page.next = more.then(|| page.rows.last().map(|r| r.path().to_owned())).flatten();
            if let Some(gate) = gate
                && has_rules(conn, ws)?
            {
                hide(conn, ws, base, gate, &mut page)?;
            }
            Ok(Some(page))
        })
    }

    /// Files at or below `base`, in byte order of their paths, and whether there are more. `None` if the cursor is not a
    /// file.
    pub(crate) fn query(
        &self,
        workspace: &str,
        base: &str,
        cursor: Option<&str>,
        limit: usize,
        filter: &QueryFilter,
        mut gate: Option<&mut Gate<'_>>,
    ) -> Result<Option<(Vec<FileRow>, bool)>, StoreError> {
        self.read(|conn| {
            let Some(ws) = workspace_id(conn, workspace)? else { return Ok(cursor.is_none().then(|| (Vec::new(), false))) };
            if let Some(cursor) = cursor
                && file_row(conn, ws, cursor)?.is_none()
            {
                return Ok(None);
            }
            let rules = has_rules(conn, ws)?;
            let mut out = Vec::new();
            let mut more = false;
            scan_files(conn, ws, base, cursor, |file| {
                if !filter.matches(&file) {
                    return Ok(true);
                }
                if rules || !filter.permission.is_empty() {
                    let effective = Gate::effective(conn, ws, &file)?;
                    if !filter.permission.is_empty() && !effective.iter().any(|p| p.trim() == filter.permission) {
                        return Ok(true);
                    }
                    if let Some(gate) = &mut gate
                        && !gate.permits(&effective)
                    {
                        return Ok(true);
                    }
                }
                if out.len() == limit {
                    more = true;
                    return Ok(false);
                }
                out.push(file);
                Ok(true)
            })?;
            Ok(Some((out, more)))
        })
    }

    /// Calls `each` with every visible file at or below `base` and its stored string, in byte order of the paths, until
    /// it returns `false`. All of it is one consistent view.
    pub(crate) fn export(
        &self,
        workspace: &str,
        base: &str,
        mut gate: Option<Gate<'_>>,
        mut each: impl FnMut(FileRow, String) -> bool,
    ) -> Result<(), StoreError> {
        self.read(|conn| {
            let Some(ws) = workspace_id(conn, workspace)? else { return Ok(()) };
            let rules = gate.is_some() && has_rules(conn, ws)?;
            scan_files(conn, ws, base, None, |file| {
                if rules
                    && let Some(gate) = &mut gate
                    && !gate.permits(&Gate::effective(conn, ws, &file)?)
                {
                    return Ok(true);
                }
                let body = content(conn, &file)?;
                Ok(each(file, body))
            })
        })
    }

    /// The providers of all files and operations that the workspace has seen, sorted.
    pub(crate) fn providers(&self, workspace: &str) -> Result<Vec<String>, StoreError> {
        self.read(|conn| {
            let Some(ws) = workspace_id(conn, workspace)? else { return Ok(Vec::new()) };
            conn.prepare_cached("SELECT name FROM providers WHERE ws = ?1 ORDER BY name")?
                .query_map([ws], |r| r.get(0))?
                .collect()
        })
    }
}

/// Whether any file of the workspace carries access rules.
pub(crate) fn has_rules(conn: &Connection, ws: i64) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT 1 FROM entries WHERE ws = ?1 AND acl = 1")?.exists([ws])
}

/// The permissions of the file at `path`, or those that its content states if it is JSON of the form
/// `{"semantics":{"permissions":[…]}}` (markers written in bulk have no other way). Empty if there is none.
pub(crate) fn permissions_at(conn: &Connection, ws: i64, path: &str) -> rusqlite::Result<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Marker {
        semantics: Semantics,
    }
    let Some(file) = file_row(conn, ws, path)? else { return Ok(Vec::new()) };
    if !file.semantics.permissions.is_empty() {
        return Ok(file.semantics.permissions);
    }
    let body = content(conn, &file)?;
    Ok(serde_json::from_str::<Marker>(&body).map(|m| m.semantics.permissions).unwrap_or_default())
}

struct Bound {
    at: String,
    inclusive: bool,
}

/// How many levels below `prefix` (which ends in a slash) the path is: 1 is a direct child.
fn level(prefix: &str, path: &str) -> usize {
    let rest = rest(prefix, path);
    1 + rest.bytes().filter(|b| *b == b'/').count()
}

/// What follows `prefix`. Below the root a second slash is swallowed as well: `//a` is a child of `/`.
fn rest<'p>(prefix: &str, path: &'p str) -> &'p str {
    let rest = &path[prefix.len()..];
    if prefix == "/" { rest.strip_prefix('/').unwrap_or(rest) } else { rest }
}

/// Fills `rows` up to `limit`; returns whether there is at least one more.
fn scan_tree(
    conn: &Connection,
    ws: i64,
    prefix: &str,
    depth: usize,
    mut from: Bound,
    limit: usize,
    rows: &mut Vec<TreeRow>,
) -> rusqlite::Result<bool> {
    // '0' follows '/': everything below the base lies before it.
    let end = format!("{}0", &prefix[..prefix.len() - 1]);
    let columns = FileRow::COLUMNS;
    let mut after = conn.prepare_cached(&format!(
        "SELECT {columns}, kind FROM entries WHERE ws = ?1 AND path > ?2 AND path < ?3 ORDER BY path, kind LIMIT ?4"
    ))?;
    let mut starting = conn.prepare_cached(&format!(
        "SELECT {columns}, kind FROM entries WHERE ws = ?1 AND path >= ?2 AND path < ?3 ORDER BY path, kind LIMIT ?4"
    ))?;
    // After a skip, few rows: the next subtree may have to be skipped as well.
    let mut want = CHUNK;
    'seek: loop {
        let statement = if from.inclusive { &mut starting } else { &mut after };
        let mut found = statement.query(params![ws, from.at, end, want])?;
        let mut seen = 0;
        let mut last = String::new();
        while let Some(row) = found.next()? {
            seen += 1;
            let path: String = row.get(0)?;
            if level(prefix, &path) > depth {
                let shown = ancestor(prefix, &path, depth);
                from = Bound { at: format!("{shown}0"), inclusive: true };
                want = 64;
                continue 'seek;
            }
            let is_dir = row.get::<_, i64>(11)? == 1;
            // A file hides the directory of its name; a file that is the base itself is not below it.
            let hidden = if is_dir { rows.last().is_some_and(|r| r.path() == path) } else { rest(prefix, &path).is_empty() };
            if !hidden {
                if rows.len() == limit {
                    return Ok(true);
                }
                rows.push(if is_dir { TreeRow::Dir(path.clone()) } else { TreeRow::File(Box::new(FileRow::from_row(row)?)) });
            }
            last = path;
        }
        if seen < want {
            return Ok(false);
        }
        // The chunk may have ended between a file and the directory of the same name: take that path again, and drop
        // what was shown already by the rule above.
        let again = rows.last().is_some_and(|r| matches!(r, TreeRow::File(_)) && r.path() == last);
        if again {
            rows.pop();
        }
        from = Bound { at: last, inclusive: again };
        want = CHUNK;
    }
}

/// The first `depth` levels of `path` below `prefix`.
fn ancestor<'p>(prefix: &str, path: &'p str, depth: usize) -> &'p str {
    let skipped = path.len() - rest(prefix, path).len();
    let cut = path[skipped..].bytes().enumerate().filter(|(_, b)| *b == b'/').nth(depth.max(1) - 1).map(|(at, _)| at);
    &path[..cut.map_or(path.len(), |at| skipped + at)]
}

fn entry_exists(conn: &Connection, ws: i64, path: &str) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT 1 FROM entries WHERE ws = ?1 AND path = ?2")?.exists(params![ws, path])
}

fn total_below(conn: &Connection, ws: i64, base: &str) -> rusqlite::Result<u64> {
    let total: Option<i64> = if base == "/" {
        conn.prepare_cached(
            "SELECT file_count - (SELECT count(*) FROM entries WHERE ws = ?1 AND path = '/' AND kind = 0) \
             FROM workspaces WHERE id = ?1",
        )?
        .query_row([ws], |r| r.get(0))
        .optional()?
    } else {
        conn.prepare_cached("SELECT files_below FROM entries WHERE ws = ?1 AND path = ?2 AND kind = 1")?
            .query_row(params![ws, base], |r| r.get(0))
            .optional()?
    };
    Ok(total.unwrap_or(0).max(0) as u64)
}

/// Visits the files at and below `base` after `cursor`, until `each` returns `false`.
fn scan_files(
    conn: &Connection,
    ws: i64,
    base: &str,
    cursor: Option<&str>,
    mut each: impl FnMut(FileRow) -> rusqlite::Result<bool>,
) -> rusqlite::Result<()> {
    if base != "/"
        && cursor.is_none_or(|c| c < base)
        && let Some(file) = file_row(conn, ws, base)?
        && !each(file)?
    {
        return Ok(());
    }
    let prefix = paths::below(base);
    let end = format!("{}0", &prefix[..prefix.len() - 1]);
    let (op, from) = match cursor {
        Some(cursor) if cursor >= prefix.as_str() => (">", cursor),
        _ => (">=", prefix.as_str()),
    };
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {} FROM entries WHERE ws = ?1 AND path {op} ?2 AND path < ?3 AND kind = 0 ORDER BY path",
        FileRow::COLUMNS
    ))?;
    let mut found = statement.query(params![ws, from, end])?;
    while let Some(row) = found.next()? {
        if !each(FileRow::from_row(row)?)? {
            break;
        }
    }
    Ok(())
}

/// Takes from the page what the caller may not see, and counts only what it may.
fn hide(conn: &Connection, ws: i64, base: &str, gate: &mut Gate<'_>, page: &mut TreePage) -> rusqlite::Result<()> {
    let mut files = HashSet::new();
    let mut dirs = HashSet::new();
    let prefix = paths::below(base);
    scan_files(conn, ws, base, None, |file| {
        if file.path.starts_with(&prefix) && file.path != prefix && gate.permits(&Gate::effective(conn, ws, &file)?) {
            dirs.extend(paths::directories(&file.path).map(str::to_owned));
            files.insert(file.path);
        }
        Ok(true)
    })?;
    page.total = files.len() as u64;
    page.rows.retain(|row| match row {
        TreeRow::Dir(path) => dirs.contains(path),
        TreeRow::File(file) => files.contains(&file.path),
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_count_segments_below_the_base() {
        assert_eq!(level("/", "/a"), 1);
        assert_eq!(level("/", "/a/b"), 2);
        assert_eq!(level("/", "//a"), 1);
        assert_eq!(level("/d/", "/d/a/b/c"), 3);
        assert_eq!(ancestor("/d/", "/d/a/b/c", 2), "/d/a/b");
        assert_eq!(ancestor("/", "/a/b", 1), "/a");
    }
}
