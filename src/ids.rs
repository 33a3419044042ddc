//! The small values that everything else is made of. Each type can only hold what its name promises.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// An inode number: the journal's file id. Stable across remounts while the file lives, never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u64);

impl Ino {
    /// The root of the workspace; FUSE fixes it at 1.
    pub const ROOT: Ino = Ino(1);
}

impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ino({})", self.0)
    }
}

/// The id of one writeback operation: `op_` and 10 to 64 ASCII letters or digits.
///
/// Because it can hold nothing else it is safe as a file name, as an HTTP header and as a content identity.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(Box<str>);

/// The text is not `op_` followed by 10 to 64 ASCII letters or digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an operation id (expected op_ and 10 to 64 letters or digits): {0:?}")]
pub struct InvalidOpId(pub String);

impl OpId {
    /// A new id: `op_` and a ULID, so that ids sort by the time they were made.
    pub fn generate() -> OpId {
        OpId(format!("op_{}", ulid::Ulid::new()).into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for OpId {
    type Err = InvalidOpId;

    fn from_str(s: &str) -> Result<OpId, InvalidOpId> {
        let ok = s
            .strip_prefix("op_")
            .is_some_and(|rest| (10..=64).contains(&rest.len()) && rest.bytes().all(|b| b.is_ascii_alphanumeric()));
        if ok { Ok(OpId(s.into())) } else { Err(InvalidOpId(s.chars().take(80).collect())) }
    }
}

impl serde::Serialize for OpId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for OpId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<OpId, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for OpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for OpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A revision name given by the remote. Opaque: only equality means anything, and a restarted server may reuse names,
/// so a revision is never trusted without its [`ContentHash`].
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Revision(Box<str>);

impl Revision {
    pub fn new(s: &str) -> Revision {
        Revision(s.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// SHA-256 of a file's decoded bytes, as the remote's `contentHash` names it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentHash(pub [u8; 32]);

impl ContentHash {
    pub fn of(bytes: &[u8]) -> ContentHash {
        ContentHash(Sha256::digest(bytes).into())
    }

    /// Reads 64 hex digits, upper or lower case; anything else is `None`.
    pub fn from_hex(s: &str) -> Option<ContentHash> {
        let mut out = [0u8; 32];
        hex::decode_to_slice(s, &mut out).ok()?;
        Some(ContentHash(out))
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<ContentHash> {
        bytes.try_into().ok().map(ContentHash)
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_operation_id_is_valid() {
        let id = OpId::generate();
        assert_eq!(id.as_str().parse::<OpId>(), Ok(id));
    }

    #[test]
    fn an_operation_id_cannot_hold_a_path_trick() {
        for bad in
            ["", "op_", "op_123", "../op_0123456789", "op_0123456789/..", "op_0123456789\n", "/op_0123456789", "xp_0123456789"]
        {
            assert!(bad.parse::<OpId>().is_err(), "{bad:?} was accepted");
        }
        assert!(format!("op_{}", "a".repeat(65)).parse::<OpId>().is_err());
        assert!(format!("op_{}", "a".repeat(64)).parse::<OpId>().is_ok());
    }

    #[test]
    fn a_content_hash_reads_back_what_it_prints() {
        let h = ContentHash::of(b"hello\n");
        assert_eq!(h.to_string(), "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
        assert_eq!(ContentHash::from_hex(&h.to_string()), Some(h));
        assert_eq!(ContentHash::from_hex("5891"), None);
    }
}
