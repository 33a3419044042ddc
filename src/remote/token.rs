//! Where the token comes from. A file is read again when it changes, so that a launcher can renew a token under a running
//! mount. A token is never printed: not by `Debug`, not in an error, not in a log.

use std::fmt;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use crate::access::Access;
use crate::path::RemotePath;

/// Largest file that is read for a token, in bytes.
const FILE_MAX: u64 = 64 * 1024;
/// Longest token, in bytes: what servers take as one header is 8 to 16 KiB.
const TOKEN_MAX: usize = 16 * 1024;

/// Where to get the token.
#[derive(Clone)]
pub enum TokenSource {
    Literal(String),
    /// A file with the bare token, or JSON with a `token` (also `accessToken`, `relayfileToken`).
    File(PathBuf),
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenSource::Literal(_) => f.write_str("Literal(…)"),
            TokenSource::File(path) => write!(f, "File({path:?})"),
        }
    }
}

/// A token that can be sent in a header: ASCII that shows, no spaces, not empty.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Arc<str>);

impl Token {
    fn checked(text: &str, place: &str) -> Result<Token, TokenError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(TokenError::Empty(place.into()));
        }
        if text.len() > TOKEN_MAX {
            return Err(TokenError::TooLong(place.into()));
        }
        match text.bytes().position(|b| !b.is_ascii_graphic()) {
            Some(at) => Err(TokenError::Unsendable { place: place.into(), at }),
            None => Ok(Token(text.into())),
        }
    }

    /// The secret itself, for the header and for nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// `text` without this token, should the remote have repeated it.
    pub(super) fn redact(&self, text: String) -> String {
        if text.contains(&*self.0) { text.replace(&*self.0, "[token]") } else { text }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// A token with what a credentials file says beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    pub token: Token,
    pub base_url: Option<String>,
    pub workspace: Option<String>,
    /// Milliseconds since the epoch.
    pub expires_at_ms: Option<i64>,
}

/// Why there is no token. Names the place, never the content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token file {0} cannot be read: {1}")]
    Unreadable(String, String),
    #[error("the token file {0} is no regular file")]
    NotAFile(String),
    #[error("the token in {0} is too long: a token has at most 16 KiB, its file at most 64 KiB")]
    TooLong(String),
    #[error("{place} is no valid JSON (line {line}, column {column})")]
    Json { place: String, line: usize, column: usize },
    #[error("{0} holds no \"token\", \"accessToken\" or \"relayfileToken\"")]
    Missing(String),
    #[error("the token in {0} is empty")]
    Empty(String),
    #[error("the token in {place} cannot be sent: byte {at} is a space, a control character or not ASCII")]
    Unsendable { place: String, at: usize },
}

impl TokenSource {
    /// The token as it is now.
    pub fn read(&self) -> Result<Credentials, TokenError> {
        match self {
            TokenSource::Literal(text) => {
                let token = Token::checked(text, "the configuration")?;
                Ok(Credentials { token, base_url: None, workspace: None, expires_at_ms: None })
            }
            TokenSource::File(path) => read_file(path).map(|(_, credentials)| credentials),
        }
    }
}

/// What tells one state of a file from the next: device, inode, length, mtime and ctime in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp(u64, u64, u64, i64, i64, i64, i64);

impl Stamp {
    fn of(m: &std::fs::Metadata) -> Stamp {
        Stamp(m.dev(), m.ino(), m.len(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec())
    }
}

fn read_file(path: &Path) -> Result<(Stamp, Credentials), TokenError> {
    let place = path.display().to_string();
    let unreadable = |e: std::io::Error| TokenError::Unreadable(place.clone(), e.to_string());
    // Asked before opening: the open of a FIFO without a writer would never return.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(TokenError::NotAFile(place));
    }
    let mut file = std::fs::File::open(path).map_err(unreadable)?;
    // Of the open file and before reading: a change during the read is seen the next time.
    let stamp = Stamp::of(&file.metadata().map_err(unreadable)?);
    let mut raw = Vec::new();
    (&mut file).take(FILE_MAX + 1).read_to_end(&mut raw).map_err(unreadable)?;
    if raw.len() as u64 > FILE_MAX {
        return Err(TokenError::TooLong(place));
    }
    let raw = raw.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&raw);
    Ok((stamp, parse(raw, &place)?))
}

/// Reads the content of a token file: JSON when it opens with a brace, else the token itself.
fn parse(raw: &[u8], place: &str) -> Result<Credentials, TokenError> {
    if raw.trim_ascii_start().first() != Some(&b'{') {
        let token = Token::checked(&String::from_utf8_lossy(raw), place)?;
        return Ok(Credentials { token, base_url: None, workspace: None, expires_at_ms: None });
    }
    // The parser's own message could quote the secret; only the place is said.
    let creds: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(raw).map_err(|e| TokenError::Json { place: place.into(), line: e.line(), column: e.column() })?;
    let text = |key: &str| creds.get(key).and_then(|v| v.as_str()).map(str::to_owned);
    let token = ["token", "accessToken", "relayfileToken"].into_iter().find_map(text);
    Ok(Credentials {
        token: Token::checked(&token.ok_or_else(|| TokenError::Missing(place.into()))?, place)?,
        base_url: text("baseUrl"),
        workspace: text("workspaceId"),
        expires_at_ms: text("expiresAt").as_deref().and_then(super::wire::millis),
    })
}

/// The token of a client, kept until its file changes.
pub(super) struct Tokens {
    source: TokenSource,
    /// What was read last. A leaf lock, held while the (small, local) file is read, so that it is read once and not by all.
    last: Mutex<Last>,
    /// What the token in `last` allows. A leaf lock, held to copy the pointer.
    access: RwLock<Arc<Access>>,
    /// For the words of a change.
    remote_root: RemotePath,
}

#[derive(Default)]
struct Last {
    stamp: Option<Stamp>,
    token: Option<Token>,
    /// The problem that was logged, to log each one once.
    problem: Option<TokenError>,
}

impl Tokens {
    pub fn new(source: TokenSource, remote_root: &RemotePath) -> Tokens {
        let tokens = Tokens { source, last: Mutex::default(), access: RwLock::default(), remote_root: remote_root.clone() };
        match &tokens.source {
            TokenSource::Literal(text) => *tokens.access.write() = Arc::new(Access::of_token(text.trim())),
            // A file need not exist yet; its token is taken up when it does.
            TokenSource::File(_) => drop(tokens.current(false)),
        }
        tokens
    }

    /// What the token that was taken up last allows.
    pub fn access(&self) -> Arc<Access> {
        Arc::clone(&self.access.read())
    }

    fn take_up(&self, token: &Token, is_first: bool) {
        let access = Access::of_token(token.expose());
        let mut now = self.access.write();
        if **now == access {
            return;
        }
        if !is_first {
            let limits = access.limits(&self.remote_root).unwrap_or_else(|| "it may write everything".into());
            log::warn!("another token was taken up: {limits}");
        }
        *now = Arc::new(access);
    }

    /// The token to send. Read again when the file is another one than last time, and always with `fresh` (after a 401).
    /// While the file cannot be used (a launcher is replacing it), the last good token serves.
    pub fn current(&self, fresh: bool) -> Result<Token, TokenError> {
        let mut last = self.last.lock();
        let path = match &self.source {
            TokenSource::Literal(_) => return self.source.read().map(|c| c.token),
            TokenSource::File(path) => path,
        };
        if let (false, Some(token), Some(stamp)) = (fresh, &last.token, last.stamp)
            && std::fs::metadata(path).is_ok_and(|m| Stamp::of(&m) == stamp)
        {
            return Ok(token.clone());
        }
        match read_file(path) {
            Ok((stamp, Credentials { token, .. })) => {
                if last.token.as_ref() != Some(&token) {
                    self.take_up(&token, last.token.is_none());
                }
                *last = Last { stamp: Some(stamp), token: Some(token.clone()), problem: None };
                Ok(token)
            }
            Err(why) => {
                let known = last.token.clone().ok_or_else(|| why.clone())?;
                if last.problem.as_ref() != Some(&why) {
                    log::warn!("{why}; the last token serves on");
                    last.problem = Some(why);
                }
                Ok(known)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, content).unwrap();
        (dir, path)
    }

    #[test]
    fn a_token_file_holds_the_bare_token_or_json() {
        for (content, token) in [
            (&b"  abc.def\n"[..], "abc.def"),
            (b"\xef\xbb\xbfabc", "abc"),
            (br#"{"token":"t1","accessToken":"t2"}"#, "t1"),
            (br#" {"accessToken":"t2"}"#, "t2"),
            (br#"{"relayfileToken":"t3\n"}"#, "t3"),
        ] {
            let (_dir, path) = file(content);
            assert_eq!(TokenSource::File(path).read().unwrap().token.expose(), token);
        }
        let (_dir, path) =
            file(br#"{"token":"t","baseUrl":"https://h","workspaceId":"ws","expiresAt":"2030-01-01T00:00:00Z","x":{}}"#);
        let creds = TokenSource::File(path).read().unwrap();
        assert_eq!((creds.base_url.as_deref(), creds.workspace.as_deref()), (Some("https://h"), Some("ws")));
        assert_eq!(creds.expires_at_ms, Some(1_893_456_000_000));
    }

    #[test]
    fn what_cannot_be_a_token_is_refused_without_being_shown() {
        let long = "s3cr3t".repeat(20_000);
        for content in [
            "",
            " \n",
            "s3cr3t two",
            "s3cr3t\nBearer: x",
            "s3cr3t\u{e9}",
            "{\"token\":\"s3cr3t\"",
            "{\"tokens\":\"s3cr3t\"}",
            "{\"token\":5}",
            &long,
            &long[..20_000],
        ] {
            let (_dir, path) = file(content.as_bytes());
            let error = TokenSource::File(path).read().unwrap_err();
            assert!(!format!("{error} {error:?}").contains("s3cr3t"), "{error}");
        }
        assert!(TokenSource::Literal("a b".into()).read().is_err());
        assert!(matches!(TokenSource::File("/".into()).read(), Err(TokenError::NotAFile(_))));
    }

    #[test]
    fn no_debug_output_shows_a_token() {
        let source = TokenSource::Literal("s3cr3t".into());
        assert!(!format!("{source:?} {:?}", source.read().unwrap()).contains("s3cr3t"));
    }

    #[test]
    fn a_changed_file_is_read_again_and_a_broken_one_leaves_the_last_token() {
        let (dir, path) = file(b"one");
        let tokens = Tokens::new(TokenSource::File(path.clone()), &RemotePath::root());
        assert_eq!(tokens.current(false).unwrap().expose(), "one");
        std::fs::write(dir.path().join("next"), "two").unwrap();
        std::fs::rename(dir.path().join("next"), &path).unwrap();
        assert_eq!(tokens.current(false).unwrap().expose(), "two");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(tokens.current(true).unwrap().expose(), "two");
        std::fs::write(&path, "three").unwrap();
        assert_eq!(tokens.current(false).unwrap().expose(), "three");
        assert!(Tokens::new(TokenSource::File(dir.path().join("none")), &RemotePath::root()).current(false).is_err());
    }

    #[test]
    fn what_is_allowed_follows_the_token() {
        use base64::Engine as _;
        let jwt = |scopes: &str| {
            let part = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
            format!("{}.{}.c2ln", part("{}"), part(&format!("{{\"scopes\":{scopes}}}")))
        };
        let (dir, path) = file(jwt("[\"fs:read\"]").as_bytes());
        let tokens = Tokens::new(TokenSource::File(path.clone()), &RemotePath::root());
        assert!(!tokens.access().may_write("/a"), "known before the first request");
        std::fs::write(dir.path().join("next"), jwt("[\"fs:read\",\"fs:write\"]")).unwrap();
        std::fs::rename(dir.path().join("next"), &path).unwrap();
        tokens.current(false).unwrap();
        assert!(tokens.access().may_write("/a"));
        let literal = Tokens::new(TokenSource::Literal(jwt("[\"fs:read\"]")), &RemotePath::root());
        assert!(!literal.access().may_write("/a"));
    }
}
