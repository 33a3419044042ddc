//! Paths as this API means them: bytes of a string, never normalised, except that one leading slash is added and one
//! trailing slash is taken away. Any string is a path.

/// Longest path taken, in bytes.
pub(crate) const PATH_MAX: usize = 16 * 1024;
/// Levels for which directories are kept: more than a tree listing can show at once (100).
const LEVELS_MAX: usize = 256;

/// `a/b/` and `/a/b` are `/a/b`; the empty path is `/`.
pub(crate) fn normalize(path: &str) -> String {
    let mut out = String::with_capacity(path.len() + 1);
    if !path.starts_with('/') {
        out.push('/');
    }
    out.push_str(path);
    if out.len() > 1 && out.ends_with('/') {
        out.pop();
    }
    out
}

/// [`normalize`] after trimming white space: what the listing and bulk routes do.
pub(crate) fn normalize_trimmed(path: &str) -> String {
    normalize(path.trim())
}

/// The first segment, trimmed, in lower case: who the file is delivered to. May be empty.
pub(crate) fn provider_of(path: &str) -> String {
    let rest = path.strip_prefix('/').unwrap_or(path);
    rest.split('/').next().unwrap_or("").trim().to_lowercase()
}

/// The start of what is below `base`: a path is below it when it starts with this.
pub(crate) fn below(base: &str) -> String {
    if base == "/" { "/".into() } else { format!("{base}/") }
}

/// The directories that a file at `path` implies, outermost first. They are the prefixes before each slash, whatever the
/// segments are: `/x//y` implies `/x` and `/x/`.
pub(crate) fn directories(path: &str) -> impl Iterator<Item = &str> {
    let start = if path.starts_with("//") { 2 } else { 1 };
    path.bytes().enumerate().skip(start).filter(|(_, b)| *b == b'/').map(|(at, _)| &path[..at]).take(LEVELS_MAX)
}

/// The ancestors whose markers govern `path`: `/` and every directory above it.
pub(crate) fn ancestors(path: &str) -> Vec<String> {
    let mut out = vec!["/".to_owned()];
    let parent = &path[..path.rfind('/').unwrap_or(0)];
    let mut current = String::new();
    for part in parent.split('/').filter(|p| !p.is_empty()).take(LEVELS_MAX) {
        current.push('/');
        current.push_str(part);
        out.push(current.clone());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_gains_one_leading_and_loses_one_trailing_slash() {
        for (given, want) in
            [("", "/"), ("/", "/"), ("rel.txt", "/rel.txt"), ("/trail/", "/trail"), ("/x/../y", "/x/../y"), (" ", "/ ")]
        {
            assert_eq!(normalize(given), want, "{given:?}");
        }
        assert_eq!(normalize_trimmed(" b/rel.txt "), "/b/rel.txt");
    }

    #[test]
    fn directories_are_the_prefixes_before_each_slash() {
        let dirs = |p| directories(p).collect::<Vec<_>>();
        assert_eq!(dirs("/a/b/c"), ["/a", "/a/b"]);
        assert_eq!(dirs("/x//y"), ["/x", "/x/"]);
        assert_eq!(dirs("/a"), Vec::<&str>::new());
        assert_eq!(dirs("/"), Vec::<&str>::new());
        assert_eq!(dirs("//a/b"), ["//a"]);
    }

    #[test]
    fn the_provider_is_the_first_segment() {
        assert_eq!(provider_of("/ lead"), "lead");
        assert_eq!(provider_of("/Dir/x"), "dir");
        assert_eq!(provider_of("/"), "");
        assert_eq!(provider_of("/ "), "");
    }
}
