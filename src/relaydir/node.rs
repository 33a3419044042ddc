//! The names in `.relay` and the inode numbers that they have.

use std::ffi::{OsStr, OsString};

use crate::ids::{ContentHash, Ino, OpId};
use crate::workspace::{FsError, FsResult, Kind};

/// The reserved name in the root of the mount.
pub const NAME: &str = ".relay";

/// The inode number of the directory, the first of the virtual range. Journal file ids count up from 1 and never get here.
pub const DIR: Ino = Ino(1 << 62);

/// What belongs to an operation is numbered by a hash of its name, above all fixed nodes: the number is the same in
/// `readdir`, in `stat` and after a remount, without a table of its own.
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
    Metrics,
    Log,
    Pending,
    DeadLetter,
    Retry,
    Conflicts,
    Operation(OpId),
    Letter(OpId, Part),
    Conflict(OpId),
    Side(OpId, Side),
}

/// The files of a conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Base,
    Local,
    Remote,
}

impl Side {
    pub(super) const ALL: [Side; 3] = [Side::Base, Side::Local, Side::Remote];

    pub(super) fn name(self) -> &'static str {
        match self {
            Side::Base => "base",
            Side::Local => "local",
            Side::Remote => "remote",
        }
    }
}

/// The files of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Record,
    Sidecar,
    Payload,
}

impl Part {
    pub(super) const ALL: [Part; 3] = [Part::Record, Part::Sidecar, Part::Payload];

    fn suffix(self) -> &'static str {
        match self {
            Part::Record => ".json",
            Part::Sidecar => ".error.json",
            Part::Payload => ".payload",
        }
    }
}

impl Node {
    /// What is in `.relay`, in the order of a listing.
    pub(super) const TOP: [Node; 10] = [
        Node::Readme,
        Node::GitIgnore,
        Node::Status,
        Node::StateJson,
        Node::Metrics,
        Node::Log,
        Node::Pending,
        Node::DeadLetter,
        Node::Retry,
        Node::Conflicts,
    ];

    pub(super) fn ino(&self) -> Ino {
        match self {
            Node::Dir => DIR,
            Node::Readme => Ino(DIR.0 + 1),
            Node::Status => Ino(DIR.0 + 2),
            Node::StateJson => Ino(DIR.0 + 3),
            Node::Pending => Ino(DIR.0 + 4),
            Node::GitIgnore => Ino(DIR.0 + 5),
            Node::DeadLetter => Ino(DIR.0 + 6),
            Node::Retry => Ino(DIR.0 + 7),
            Node::Metrics => Ino(DIR.0 + 8),
            Node::Log => Ino(DIR.0 + 9),
            Node::Conflicts => Ino(DIR.0 + 10),
            Node::Operation(op) => Self::hashed("pending", op.as_str()),
            Node::Letter(op, part) => Self::hashed(part.suffix(), op.as_str()),
            Node::Conflict(op) => Self::hashed("conflict", op.as_str()),
            Node::Side(op, side) => Self::hashed(side.name(), op.as_str()),
        }
    }

    fn hashed(what: &str, op: &str) -> Ino {
        let hash = ContentHash::of(format!("{what} {op}").as_bytes()).0;
        let low = u64::from_le_bytes(std::array::from_fn(|i| hash[i]));
        Ino(OPERATIONS | (low & ((1 << 61) - 1)))
    }

    /// The node of a number that is always the same; `None` for what belongs to an operation.
    pub(super) fn fixed(ino: Ino) -> Option<Node> {
        if ino == DIR { Some(Node::Dir) } else { Node::TOP.into_iter().find(|n| n.ino() == ino) }
    }

    /// True for nodes whose number says nothing: their inode is remembered as long as the kernel knows it.
    pub(super) fn is_remembered(&self) -> bool {
        matches!(self, Node::Operation(_) | Node::Letter(..) | Node::Conflict(_) | Node::Side(..))
    }

    pub(super) fn parent(&self) -> Ino {
        match self {
            Node::Dir => Ino::ROOT,
            Node::Operation(_) => Node::Pending.ino(),
            Node::Letter(..) => Node::DeadLetter.ino(),
            Node::Conflict(_) => Node::Conflicts.ino(),
            Node::Side(op, _) => Node::Conflict(op.clone()).ino(),
            _ => DIR,
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Node::Dir | Node::Pending | Node::DeadLetter | Node::Retry | Node::Conflicts | Node::Conflict(_) => Kind::Dir,
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
            Node::Metrics => "metrics".into(),
            Node::Log => "log".into(),
            Node::Pending => "pending".into(),
            Node::DeadLetter => "dead-letter".into(),
            Node::Retry => "retry".into(),
            Node::Conflicts => "conflicts".into(),
            Node::Operation(op) => format!("{op}.json").into(),
            Node::Letter(op, part) => format!("{op}{}", part.suffix()).into(),
            Node::Conflict(op) => op.as_str().into(),
            Node::Side(_, side) => side.name().into(),
        }
    }

    /// The node that a name in this directory means; says nothing of whether an operation of that id exists.
    pub(super) fn child(&self, name: &OsStr) -> FsResult<Node> {
        let op = |suffix: &str| name.to_str().and_then(|n| n.strip_suffix(suffix)).and_then(|id| id.parse::<OpId>().ok());
        let child = match self {
            Node::Dir => Node::TOP.into_iter().find(|n| n.name() == name),
            Node::Pending => op(".json").map(Node::Operation),
            // An id holds no dot, so at most one suffix fits.
            Node::DeadLetter => Part::ALL.into_iter().find_map(|part| op(part.suffix()).map(|op| Node::Letter(op, part))),
            Node::Retry => None,
            Node::Conflicts => op("").map(Node::Conflict),
            Node::Conflict(op) => Side::ALL.into_iter().find(|s| name == s.name()).map(|s| Node::Side(op.clone(), s)),
            _ => return Err(FsError::Errno(libc::ENOTDIR)),
        };
        child.ok_or(FsError::Errno(libc::ENOENT))
    }
}
