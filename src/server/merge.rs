//! Three-way merge on the server (`/fs/merge`): writes one merged version, or nothing at all.

use axum::http::StatusCode;
use diffy::{ConflictStyle, MergeOptions};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::task::block_in_place;

use super::dispatch::Call;
use super::paths;
use super::reply::{ApiError, Reply, now_ns, ok};
use super::store::{ContentIdentity, FileWrite, OpRow, rev_name};

const STRATEGY: &str = "three-way-lines-v1";
/// Longest content and base, in bytes.
const CONTENT_MAX: usize = 512 * 1024;
/// Most lines of any side.
const LINES_MAX: usize = 3000;
/// How often the merge is made again because the file moved on in between.
const ATTEMPTS: usize = 5;
/// Length of the marks around a conflict; longer than any that people write.
const MARK: usize = 43;
/// Where the operation keeps what a repeat has to answer.
const RESULT_KEY: &str = "goal_b_merge";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MergeBody {
    strategy: Option<String>,
    content: Option<String>,
    base_revision: Option<String>,
    base_content: Option<String>,
    content_type: Option<String>,
    content_identity: Option<ContentIdentity>,
}

fn ineligible(reason: &str) -> ApiError {
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "merge_ineligible", format!("merge ineligible: {reason}"))
        .with("reason", reason)
}

fn base_unavailable() -> ApiError {
    ApiError::new(StatusCode::CONFLICT, "merge_base_unavailable", "merge base unavailable")
}

pub(crate) async fn merge(mut call: Call) -> Result<Reply, ApiError> {
    let path = paths::normalize(call.path()?);
    let body: MergeBody = call.json().await?;
    let base_revision = body.base_revision.unwrap_or_default().trim().to_owned();
    if base_revision.is_empty() {
        return Err(ApiError::invalid_input());
    }
    let strategy = body.strategy.unwrap_or_default();
    if strategy != STRATEGY {
        return Err(ineligible(&format!("unsupported strategy {strategy:?}")));
    }
    let mine = body.content.unwrap_or_default();
    let base = body.base_content.unwrap_or_default();
    if mine.len() > CONTENT_MAX || base.len() > CONTENT_MAX {
        return Err(ineligible("content exceeds merge size limit"));
    }
    let identity = body.content_identity.map(ContentIdentity::trimmed);
    let content_type = body.content_type.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
    let store = call.app.store.clone();

    for _ in 0..ATTEMPTS {
        if let Some(identity) = &identity
            && let Some(op) = store.op_with_identity(&call.workspace, identity, now_ns())?
        {
            return Ok(ok(&repeated(&op)));
        }
        check_base(&call, &path, &base_revision, &base)?;
        let Some((live, theirs)) = store.file(&call.workspace, &path)? else {
            return Err(ineligible("live file no longer exists"));
        };
        if live.base64 {
            return Err(ineligible("live content is not text"));
        }
        let merged = match block_in_place(|| three_way(&base, &mine, &theirs)) {
            Ok(merged) => merged,
            Err(Refused::TooLong) => {
                return Err(ineligible(&format!("content exceeds {LINES_MAX} lines, too large for {STRATEGY}")));
            }
            Err(Refused::Conflicts(conflicts)) => {
                let message = format!("merge conflict: {} unit(s) concurrently changed", conflicts.len());
                return Err(ApiError::new(StatusCode::CONFLICT, "merge_conflict", message)
                    .with("currentRevision", rev_name(live.revision))
                    .with("conflicts", conflicts));
            }
        };
        let against = rev_name(live.revision);
        let file = FileWrite {
            path: path.clone(),
            if_match: Some(against.clone()),
            content_type: content_type.clone().unwrap_or_else(|| "text/plain".into()),
            base64: false,
            hash: Sha256::digest(merged.as_bytes()).into(),
            body: merged,
            semantics: None,
            correlation_id: call.correlation_id.clone(),
            identity: identity.clone(),
        };
        let workspace = call.workspace.clone();
        let note =
            json!({ RESULT_KEY: { "strategy": STRATEGY, "baseRevision": base_revision, "mergedAgainstRevision": against } });
        let outcome = store
            .write(move |tx| {
                let outcome = tx.put(&workspace, file)?;
                if let Ok(written) = &outcome {
                    tx.set_provider_result(written.op, &note)?;
                }
                Ok(outcome)
            })
            .await?;
        if let Ok(written) = outcome {
            return Ok(ok(&answer(&rev_name(written.revision), &base_revision, &against)));
        }
        // The file moved on between reading and writing it: merge with what it is now.
    }
    Err(ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal_error",
        format!("merge did not converge after {ATTEMPTS} attempts"),
    ))
}

fn answer(target: &str, base: &str, against: &str) -> Value {
    json!({ "targetRevision": target, "strategy": STRATEGY, "baseRevision": base, "mergedAgainstRevision": against })
}

fn repeated(op: &OpRow) -> Value {
    let note: Value = op.provider_result.as_deref().and_then(|t| serde_json::from_str(t).ok()).unwrap_or_default();
    let text = |key: &str| note[RESULT_KEY][key].as_str().unwrap_or("").to_owned();
    answer(&rev_name(op.revision), &text("baseRevision"), &text("mergedAgainstRevision"))
}

/// Refuses a base that the event log does not confirm: unknown or forgotten revision, a deletion, other content.
fn check_base(call: &Call, path: &str, revision: &str, base: &str) -> Result<(), ApiError> {
    let Some(number) = super::reply::sequence("rev_", revision) else { return Err(base_unavailable()) };
    let Some(ws) = call.app.store.workspace(&call.workspace)? else { return Err(base_unavailable()) };
    let recorded = call.app.store.provenance(ws, path, number)?.flatten();
    let hash: [u8; 32] = Sha256::digest(base.as_bytes()).into();
    if recorded == Some(hash) { Ok(()) } else { Err(base_unavailable()) }
}

#[derive(Debug, PartialEq)]
enum Refused {
    TooLong,
    Conflicts(Vec<Value>),
}

fn three_way(base: &str, mine: &str, theirs: &str) -> Result<String, Refused> {
    if mine == theirs || theirs == base {
        return Ok(mine.to_owned());
    }
    if mine == base {
        return Ok(theirs.to_owned());
    }
    if [base, mine, theirs].iter().any(|text| text.split_inclusive('\n').count() > LINES_MAX) {
        return Err(Refused::TooLong);
    }
    MergeOptions::new()
        .set_conflict_style(ConflictStyle::Diff3)
        .set_conflict_marker_length(MARK)
        .merge(base, mine, theirs)
        .map_err(|marked| Refused::Conflicts(conflicts(base, &marked)))
}

/// Reads the conflicts back from the marks around them.
fn conflicts(base: &str, marked: &str) -> Vec<Value> {
    #[derive(PartialEq)]
    enum Side {
        Outside,
        Mine,
        Base,
        Theirs,
    }
    let mark = |c: &str| c.repeat(MARK);
    let (open, origin, middle, close) = (mark("<"), mark("|"), mark("="), mark(">"));
    let mut side = Side::Outside;
    let (mut of_mine, mut of_base, mut of_theirs) = (String::new(), String::new(), String::new());
    // Lines of the base before the place that is being looked at.
    let mut passed = 0;
    let mut out = Vec::new();
    for line in marked.split_inclusive('\n') {
        if line.starts_with(&open) {
            side = Side::Mine;
        } else if line.starts_with(&origin) {
            side = Side::Base;
        } else if line.starts_with(&middle) {
            side = Side::Theirs;
        } else if line.starts_with(&close) {
            let unit = match find_lines(base, &of_base, passed) {
                Some((first, last)) => {
                    passed = last;
                    format!("base lines {}-{}", first + 1, last)
                }
                None => format!("insertion after base line {passed}"),
            };
            let mut conflict = json!({ "unit": unit, "reason": "concurrently changed" });
            for (name, text) in [("base", &mut of_base), ("mine", &mut of_mine), ("theirs", &mut of_theirs)] {
                if !text.is_empty() {
                    conflict[name] = std::mem::take(text).into();
                }
            }
            out.push(conflict);
            side = Side::Outside;
        } else {
            match side {
                Side::Outside => {
                    if let Some((_, last)) = find_lines(base, line, passed) {
                        passed = last;
                    }
                }
                Side::Mine => of_mine.push_str(line),
                Side::Base => of_base.push_str(line),
                Side::Theirs => of_theirs.push_str(line),
            }
        }
    }
    out
}

/// Where the lines of `part` stand in `base` at or after line `from`: first line and one past the last, from 0.
fn find_lines(base: &str, part: &str, from: usize) -> Option<(usize, usize)> {
    let base: Vec<&str> = base.lines().collect();
    let part: Vec<&str> = part.lines().collect();
    if part.is_empty() || from > base.len() {
        return None;
    }
    let at = base[from..].windows(part.len()).position(|window| window == part)?;
    Some((from + at, from + at + part.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disjoint_edits_merge() {
        assert_eq!(three_way("a\nb\nc\nd\ne\n", "A\nb\nc\nd\ne\n", "a\nb\nc\nd\nE\n"), Ok("A\nb\nc\nd\nE\n".into()));
    }

    #[test]
    fn edits_of_one_line_conflict_and_say_where() {
        let refused = three_way("a\nb\nc\nd\ne\n", "a\nb\nX\nd\ne\n", "a\nb\nY\nd\ne\n");
        let want =
            json!({"unit": "base lines 3-3", "reason": "concurrently changed", "base": "c\n", "mine": "X\n", "theirs": "Y\n"});
        assert_eq!(refused, Err(Refused::Conflicts(vec![want])));
    }

    #[test]
    fn too_many_lines_are_not_merged() {
        let long = "x\n".repeat(LINES_MAX + 1);
        assert_eq!(three_way(&long, "a", "b"), Err(Refused::TooLong));
    }
}
