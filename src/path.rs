//! Paths of the remote. The remote normalises nothing and accepts anything as a path; a [`RemotePath`] is one that can be
//! shown in a directory tree: absolute, no empty, `.` or `..` segment, no NUL, every segment at most 255 bytes.

use std::fmt;
use std::str::FromStr;

/// Longest name of one directory entry, in bytes (`NAME_MAX` of Linux).
pub const NAME_MAX: usize = 255;
/// Longest whole path in bytes (`PATH_MAX` of Linux less the terminating NUL).
pub const PATH_MAX: usize = 4095;

/// An absolute, normalised path of the remote: `/` or `/a/b`. Never ends in a slash, except the root itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RemotePath(Box<str>);

/// Why a name that the remote sent cannot be shown in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPath {
    #[error("the path does not start with a slash")]
    NotAbsolute,
    #[error("the path has an empty segment")]
    EmptySegment,
    #[error("the path has a `.` or `..` segment")]
    DotSegment,
    #[error("the path holds a NUL byte")]
    Nul,
    #[error("a segment of the path is longer than 255 bytes")]
    NameTooLong,
    #[error("the path is longer than 4095 bytes")]
    PathTooLong,
}

impl RemotePath {
    pub fn root() -> RemotePath {
        RemotePath("/".into())
    }

    pub fn is_root(&self) -> bool {
        &*self.0 == "/"
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path one level below, or why `name` cannot be a segment.
    pub fn join(&self, name: &str) -> Result<RemotePath, InvalidPath> {
        check_segment(name)?;
        let joined = if self.is_root() { format!("/{name}") } else { format!("{}/{name}", self.0) };
        if joined.len() > PATH_MAX {
            return Err(InvalidPath::PathTooLong);
        }
        Ok(RemotePath(joined.into()))
    }

    /// The segments from the top; none for the root.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/').filter(|s| !s.is_empty())
    }

    /// The last segment; `None` for the root.
    pub fn name(&self) -> Option<&str> {
        self.segments().next_back()
    }

    /// The containing directory; `None` for the root.
    pub fn parent(&self) -> Option<RemotePath> {
        if self.is_root() {
            return None;
        }
        let cut = self.0.rfind('/').unwrap_or(0);
        Some(if cut == 0 { RemotePath::root() } else { RemotePath(self.0[..cut].into()) })
    }

    /// What is left of this path below `dir` (no leading slash), `None` when it is not strictly below it.
    pub fn below<'a>(&'a self, dir: &RemotePath) -> Option<&'a str> {
        if dir.is_root() {
            return (!self.is_root()).then(|| &self.0[1..]);
        }
        self.0.strip_prefix(&*dir.0)?.strip_prefix('/')
    }

    /// The first segment: relayfile names the provider behind a path by it.
    pub fn provider(&self) -> &str {
        self.segments().next().unwrap_or("")
    }
}

fn check_segment(s: &str) -> Result<(), InvalidPath> {
    match s {
        "" => Err(InvalidPath::EmptySegment),
        "." | ".." => Err(InvalidPath::DotSegment),
        _ if s.contains('/') => Err(InvalidPath::EmptySegment),
        _ if s.contains('\0') => Err(InvalidPath::Nul),
        _ if s.len() > NAME_MAX => Err(InvalidPath::NameTooLong),
        _ => Ok(()),
    }
}

impl FromStr for RemotePath {
    type Err = InvalidPath;

    fn from_str(s: &str) -> Result<RemotePath, InvalidPath> {
        if s == "/" {
            return Ok(RemotePath::root());
        }
        let rest = s.strip_prefix('/').ok_or(InvalidPath::NotAbsolute)?;
        if s.len() > PATH_MAX {
            return Err(InvalidPath::PathTooLong);
        }
        rest.split('/').try_for_each(check_segment)?;
        Ok(RemotePath(s.into()))
    }
}

impl fmt::Display for RemotePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for RemotePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hostile_paths_are_refused_with_their_reason() {
        for (bad, why) in [
            ("", InvalidPath::NotAbsolute),
            ("a", InvalidPath::NotAbsolute),
            ("/a/", InvalidPath::EmptySegment),
            ("//a", InvalidPath::EmptySegment),
            ("/x/../y", InvalidPath::DotSegment),
            ("/x/./y", InvalidPath::DotSegment),
            ("/a\0b", InvalidPath::Nul),
        ] {
            assert_eq!(bad.parse::<RemotePath>(), Err(why), "{bad:?}");
        }
        assert_eq!(format!("/{}", "n".repeat(256)).parse::<RemotePath>(), Err(InvalidPath::NameTooLong));
        assert!(format!("/{}", "n".repeat(255)).parse::<RemotePath>().is_ok());
        assert_eq!("/n".repeat(2048).parse::<RemotePath>(), Err(InvalidPath::PathTooLong));
    }

    proptest! {
        #[test]
        fn joining_the_segments_gives_the_path_back(s in "(/[a-z .\u{e9}]{1,6}){1,5}") {
            if let Ok(p) = s.parse::<RemotePath>() {
                let mut q = RemotePath::root();
                for seg in p.segments() { q = q.join(seg).unwrap(); }
                prop_assert_eq!(&p, &q);
                prop_assert_eq!(p.parent().unwrap().join(p.name().unwrap()).unwrap(), p);
            }
        }

        #[test]
        fn no_input_makes_a_path_with_a_dot_segment(s in "\\PC{0,40}") {
            if let Ok(p) = s.parse::<RemotePath>() {
                prop_assert!(p.segments().all(|x| x != "." && x != ".." && x.len() <= NAME_MAX));
            }
        }
    }
}
