//! Listings of names: `/fs/tree` and `/fs/query`.

use serde::Serialize;
use tokio::task::block_in_place;

use super::dispatch::Call;
use super::paths;
use super::reply::{ApiError, Items, Reply, ok, timestamp};
use super::store::{FileRow, QueryFilter, TreeRow, rev_name};

/// Entries of one page of a tree.
const TREE_PAGE: usize = 1000;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TreeBody {
    path: String,
    entries: Vec<Entry>,
    next_cursor: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    total_files: u64,
}

#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct Entry {
    path: String,
    #[serde(rename = "type")]
    kind: &'static str,
    revision: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    content_hash: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    provider: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_object_id: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    updated_at: String,
    #[serde(skip_serializing_if = "is_zero")]
    property_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    relation_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    permission_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    comment_count: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl From<TreeRow> for Entry {
    fn from(row: TreeRow) -> Entry {
        match row {
            TreeRow::Dir(path) => Entry { path, kind: "dir", revision: "dir".into(), ..Entry::default() },
            TreeRow::File(file) => Entry {
                kind: "file",
                revision: rev_name(file.revision),
                content_hash: hex::encode(file.hash),
                size: file.size,
                updated_at: timestamp(file.edited_ns),
                property_count: file.semantics.properties.len() as u64,
                relation_count: file.semantics.relations.len() as u64,
                permission_count: file.semantics.permissions.len() as u64,
                comment_count: file.semantics.comments.len() as u64,
                path: file.path,
                provider: file.provider,
                provider_object_id: file.object_id,
            },
        }
    }
}

pub(crate) async fn tree(call: Call) -> Result<Reply, ApiError> {
    let base = paths::normalize(call.query.get("path"));
    // Absent, malformed and below 1 mean the default; the recordings have no error for any of them.
    let depth = call.query.bounded("depth", 10, 1, 100);
    let cursor = Some(call.query.get("cursor")).filter(|c| !c.is_empty());
    let mut gate = call.gate();
    let page = block_in_place(|| call.app.store.tree(&call.workspace, &base, depth, cursor, TREE_PAGE, gate.as_mut()))?
        .ok_or_else(ApiError::invalid_input)?;
    Ok(ok(&TreeBody {
        entries: page.rows.into_iter().map(Entry::from).collect(),
        next_cursor: page.next,
        total_files: page.total,
        path: base,
    }))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    path: String,
    revision: String,
    content_type: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    provider: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_object_id: Option<String>,
    last_edited_at: String,
    size: u64,
    #[serde(flatten)]
    semantics: super::store::Semantics,
}

impl From<FileRow> for Item {
    fn from(file: FileRow) -> Item {
        Item {
            revision: rev_name(file.revision),
            last_edited_at: timestamp(file.edited_ns),
            size: file.size,
            path: file.path,
            content_type: file.content_type,
            provider: file.provider,
            provider_object_id: file.object_id,
            semantics: file.semantics,
        }
    }
}

pub(crate) async fn query(call: Call) -> Result<Reply, ApiError> {
    let limit = call.query.bounded("limit", 100, 1, 1000);
    let base = paths::normalize(call.query.get("path"));
    let cursor = Some(call.query.get("cursor")).filter(|c| !c.trim().is_empty()).map(paths::normalize);
    let text = |key: &str| call.query.get(key).trim().to_owned();
    let properties = call.query.pairs().filter_map(|(key, value)| {
        let name = key.strip_prefix("property.")?.trim();
        (!name.is_empty()).then(|| (name.to_owned(), value.trim().to_owned()))
    });
    let filter = QueryFilter {
        provider: text("provider").to_lowercase(),
        relation: text("relation"),
        permission: text("permission"),
        comment: text("comment"),
        properties: properties.collect(),
    };
    let mut gate = call.gate();
    let (files, more) =
        block_in_place(|| call.app.store.query(&call.workspace, &base, cursor.as_deref(), limit, &filter, gate.as_mut()))?
            .ok_or_else(ApiError::invalid_input)?;
    let items: Vec<Item> = files.into_iter().map(Item::from).collect();
    let next_cursor = if more { items.last().map(|item| item.path.clone()) } else { None };
    Ok(ok(&Items { items, next_cursor }))
}
