//! The names in `.relay` and the inode numbers that they have.

use std::ffi::{OsStr, OsString};

use crate::ids::{ContentHash, Ino, OpId};
use crate::workspace::{FsError, FsResult, Kind};

/// The reserved name in the root of the mount.
pub const NAME: &str = ".relay";

/// The inode number of the directory, the first of the virtual range. Journal file ids count up from 1 and never get here.
pub const DIR: Ino = Ino(1 << 62);

/// Operations are numbered by a hash of their id, above all fixed nodes: the number is the same in `readdir`, in `stat`
/// and after a remount, without a table of its own.
const OPERATIONS: u64 = (1 << 62) | (1 << 61);

/// True for the inode numbers of `.relay` and everything below it.
pub fn owns(ino: Ino) -> bool {
    ino >= DIR
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Dir,
    Readme,
    GitIgnore,
    Status,
    StateJson,
    Pending,
    Operation(OpId),
}

impl Node {
    /// What is in `.relay`, in the order of a listing.
    pub(super) const TOP: [Node; 5] = [Node::Readme, Node::GitIgnore, Node::Status, Node::StateJson, Node::Pending];

    pub(super) fn ino(&self) -> Ino {
        match self {
            Node::Dir => DIR,
            Node::Readme => Ino(DIR.0 + 1),
            Node::Status => Ino(DIR.0 + 2),
            Node::StateJson => Ino(DIR.0 + 3),
            Node::Pending => Ino(DIR.0 + 4),
            Node::GitIgnore => Ino(DIR.0 + 5),
            Node::Operation(op) => {
                let hash = ContentHash::of(op.as_str().as_bytes()).0;
                let low = u64::from_le_bytes(std::array::from_fn(|i| hash[i]));
                Ino(OPERATIONS | (low & ((1 << 61) - 1)))
            }
        }
    }

    /// The node of a number that is always the same; `None` for operations.
    pub(super) fn fixed(ino: Ino) -> Option<Node> {
        if ino == DIR { Some(Node::Dir) } else { Node::TOP.into_iter().find(|n| n.ino() == ino) }
    }

    pub(super) fn parent(&self) -> Ino {
        match self {
            Node::Dir => Ino::ROOT,
            Node::Operation(_) => Node::Pending.ino(),
            _ => DIR,
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Node::Dir | Node::Pending => Kind::Dir,
            _ => Kind::File,
        }
    }

    pub(super) fn name(&self) -> OsString {
        match self {
            Node::Dir => NAME.into(),
            Node::Readme => "README".into(),
            Node::GitIgnore => ".gitignore".into(),
            Node::Status => "status".into(),
            Node::StateJson => "state.json".into(),
            Node::Pending => "pending".into(),
            Node::Operation(op) => format!("{op}.json").into(),
        }
    }

    /// The node that a name in this directory means; says nothing of whether an operation of that id exists.
    pub(super) fn child(&self, name: &OsStr) -> FsResult<Node> {
        let child = match self {
            Node::Dir => Node::TOP.into_iter().find(|n| n.name() == name),
            Node::Pending => {
                name.to_str().and_then(|n| n.strip_suffix(".json")).and_then(|id| id.parse().ok()).map(Node::Operation)
            }
            _ => return Err(FsError::Errno(libc::ENOTDIR)),
        };
        child.ok_or(FsError::Errno(libc::ENOENT))
    }
}
