//! The query of a request's URL, read as Go's `url.ParseQuery` reads it: a pair with a bad escape is not there.

use super::body::go_lossy;

#[derive(Debug, Default, Clone)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(raw: &str) -> Query {
        let pairs = raw.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';'));
        Query(
            pairs
                .filter_map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    Some((decode(key, true)?, decode(value, true)?))
                })
                .collect(),
        )
    }

    /// The first value of `key`; absent is empty.
    pub(crate) fn get(&self, key: &str) -> &str {
        self.all(key).next().unwrap_or("")
    }

    pub(crate) fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// A number within `min..=max`: absent, malformed or too small is `fallback`, too large is `max`.
    pub(crate) fn bounded(&self, key: &str, fallback: usize, min: i64, max: usize) -> usize {
        match self.get(key).trim().parse::<i64>() {
            Ok(n) if n < min => fallback,
            Ok(n) => usize::try_from(n).unwrap_or(max).min(max),
            Err(_) => fallback,
        }
    }
}

/// Decodes percent escapes, and `+` as a space in queries; `None` if an escape is not two hex digits.
pub(crate) fn decode(text: &str, plus: bool) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                let mut byte = [0];
                hex::decode_to_slice(bytes.get(at + 1..at + 3)?, &mut byte).ok()?;
                out.push(byte[0]);
                at += 3;
            }
            b'+' if plus => {
                out.push(b' ');
                at += 1;
            }
            b => {
                out.push(b);
                at += 1;
            }
        }
    }
    Some(go_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_as_go_reads_them() {
        let q = Query::parse("path=%2Fa%20b+c&path=2&bad=%zz&x;y=1&empty&n=7&big=99999&neg=-3&raw=%FF%FE");
        assert_eq!(q.get("path"), "/a b c");
        assert_eq!(q.all("path").count(), 2);
        assert_eq!(q.get("bad"), "");
        assert_eq!(q.get("empty"), "");
        assert_eq!(q.get("raw"), "\u{fffd}\u{fffd}");
        assert_eq!(q.bounded("n", 10, 1, 100), 7);
        assert_eq!(q.bounded("big", 10, 1, 100), 100);
        assert_eq!(q.bounded("neg", 10, 1, 100), 10);
        assert_eq!(q.bounded("none", 10, 1, 100), 10);
    }
}
