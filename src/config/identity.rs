//! Whose state a state directory holds.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{EMBEDDED_WORKSPACE, RemoteChoice};
use crate::path::RemotePath;

/// What a state directory belongs to. Two mounts with equal identities would drive one journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub workspace: String,
    /// The base URL, or `embedded:<data dir>`: the port of the embedded server changes with every start.
    pub base_url: String,
    pub remote_root: String,
}

impl Identity {
    pub fn new(remote: &RemoteChoice, remote_root: &RemotePath) -> Identity {
        let (workspace, base_url) = match remote {
            RemoteChoice::Embedded { data_dir } => (EMBEDDED_WORKSPACE.to_owned(), format!("embedded:{}", data_dir.display())),
            RemoteChoice::Http { base_url, workspace, .. } => (workspace.clone(), base_url.clone()),
        };
        Identity { workspace, base_url, remote_root: remote_root.as_str().to_owned() }
    }

    /// The first 8 hex digits of the SHA-256 of the three lines.
    pub fn short_hash(&self) -> String {
        let text = format!("{}\n{}\n{}", self.workspace, self.base_url, self.remote_root);
        hex::encode(&Sha256::digest(text)[..4])
    }

    /// The path at the remote of a path in the mount.
    pub fn full_path(&self, path: &RemotePath) -> String {
        match (self.remote_root.as_str(), path.is_root()) {
            ("/", _) => path.to_string(),
            (root, true) => root.to_owned(),
            (root, false) => format!("{root}{path}"),
        }
    }

    /// The path in the mount of a path at the remote; `None` when it lies outside of what is mounted.
    pub fn path_in_mount(&self, full: &str) -> Option<RemotePath> {
        match self.remote_root.as_str() {
            "/" => full.parse().ok(),
            root => full.strip_prefix(root).filter(|rest| rest.starts_with('/'))?.parse().ok(),
        }
    }

    /// The provider behind a path in the mount: the first segment of its path at the remote.
    pub fn provider(&self, path: &RemotePath) -> String {
        self.full_path(path).trim_start_matches('/').split('/').next().unwrap_or_default().to_owned()
    }

    /// The name of the default state directory.
    pub fn dir_name(&self) -> String {
        let safe = |c: char| if c.is_ascii_alphanumeric() || "_-.".contains(c) { c } else { '_' };
        let name: String = self.workspace.chars().take(64).map(safe).collect();
        format!("{}-{}", name.trim_start_matches('.'), self.short_hash())
    }
}

/// `identity.json` of a state directory: for people, for the commands, and against a directory used for two remotes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdentityFile {
    pub workspace_id: String,
    pub base_url: String,
    pub remote_root: String,
    /// Where it was mounted last.
    #[serde(default)]
    pub mountpoint: Option<String>,
}

impl IdentityFile {
    pub const NAME: &str = "identity.json";

    pub fn new(identity: Identity, mountpoint: Option<&Path>) -> IdentityFile {
        let Identity { workspace: workspace_id, base_url, remote_root } = identity;
        IdentityFile { workspace_id, base_url, remote_root, mountpoint: mountpoint.map(|m| m.display().to_string()) }
    }

    /// `None` when there is none.
    pub fn read(state_dir: &Path) -> io::Result<Option<IdentityFile>> {
        match std::fs::read(state_dir.join(Self::NAME)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(e) => Err(e),
        }
    }

    pub fn identity(&self) -> Identity {
        Identity { workspace: self.workspace_id.clone(), base_url: self.base_url.clone(), remote_root: self.remote_root.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(root: &str) -> Identity {
        Identity { workspace: "ws".into(), base_url: "http://h".into(), remote_root: root.into() }
    }

    #[test]
    fn paths_cross_the_border_of_the_mounted_directory_both_ways() {
        let path: RemotePath = "/issues/1.md".parse().unwrap();
        let (all, part) = (identity("/"), identity("/linear"));
        assert_eq!((all.full_path(&path), part.full_path(&path)), ("/issues/1.md".into(), "/linear/issues/1.md".into()));
        assert_eq!((all.provider(&path), part.provider(&path)), ("issues".into(), "linear".into()));
        assert_eq!(part.path_in_mount("/linear/issues/1.md"), Some(path));
        assert_eq!(part.path_in_mount("/linear-2/x"), None);
        assert_eq!(part.path_in_mount("/linear/../x"), None);
    }
}
