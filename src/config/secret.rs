//! Tokens, and where they come from.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::preflight::{Code, Problem, shell_word};

/// A token. Printing it in any way shows that it is there, not what it is.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// Leading and trailing white space is not part of a token; files end in a newline.
    pub fn new(text: impl AsRef<str>) -> Secret {
        Secret(text.as_ref().trim().into())
    }

    /// The token itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

impl std::str::FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Secret, Self::Err> {
        Ok(Secret::new(text))
    }
}

/// Where the token comes from. Files are read again when they change, so that a renewed token needs no restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenChoice {
    /// Given in the environment or on the command line; cannot be renewed.
    Value(Secret),
    /// A file that holds nothing but the token.
    File(PathBuf),
    /// A JSON file `{"token": "…", …}` that a launcher keeps fresh. `fallback` serves while the file does not exist yet.
    Creds { path: PathBuf, fallback: Option<Secret> },
}

/// Longest token file that is read, in bytes. A token is some hundred bytes; this is not one.
const TOKEN_FILE_MAX: u64 = 64 * 1024;

impl TokenChoice {
    /// The token as it is now.
    pub fn read(&self) -> Result<Secret, Problem> {
        let secret = match self {
            TokenChoice::Value(secret) => secret.clone(),
            TokenChoice::File(path) => Secret::new(read_small(path)?),
            TokenChoice::Creds { path, fallback: Some(token) } if !path.exists() => {
                log::info!("{} does not exist yet; using the token given beside it", path.display());
                token.clone()
            }
            TokenChoice::Creds { path, .. } => token_of_creds(path)?,
        };
        if secret.is_empty() {
            return Err(Problem::new(
                Code::TokenMissing,
                format!("the token in {} is empty", self.place()),
                "write the token there, or set RELAYFILE_TOKEN",
            ));
        }
        Ok(secret)
    }

    /// Where the token is, in words, without the token.
    pub fn place(&self) -> String {
        match self {
            TokenChoice::Value(_) => "RELAYFILE_TOKEN".into(),
            TokenChoice::File(path) | TokenChoice::Creds { path, .. } => path.display().to_string(),
        }
    }
}

fn read_small(path: &Path) -> Result<String, Problem> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path).and_then(|file| file.take(TOKEN_FILE_MAX).read_to_string(&mut text)).map(|_| text).map_err(|e| {
        Problem::new(
            Code::TokenMissing,
            format!("cannot read the token from {}: {e}", path.display()),
            format!("ls -l {}", shell_word(path)),
        )
    })
}

fn token_of_creds(path: &Path) -> Result<Secret, Problem> {
    #[derive(serde::Deserialize)]
    struct Creds {
        token: String,
    }
    let text = read_small(path)?;
    // The parser's message could quote the text, and the text is a secret: only the place is said.
    serde_json::from_str::<Creds>(&text).map(|c| Secret::new(c.token)).map_err(|e| {
        Problem::new(
            Code::TokenMalformed,
            format!("{} is not JSON with a \"token\" (line {}, column {})", path.display(), e.line(), e.column()),
            "write {\"token\": \"…\"} there, or use --token-file for a file that holds only the token",
        )
    })
}

impl TokenChoice {
    /// The same for the client, which reads it again when it changes.
    pub fn source(&self) -> crate::remote::TokenSource {
        match self {
            TokenChoice::Value(secret) => crate::remote::TokenSource::Literal(secret.expose().to_owned()),
            TokenChoice::File(path) | TokenChoice::Creds { path, .. } => crate::remote::TokenSource::File(path.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_shows_itself() {
        let choice = TokenChoice::Creds { path: "/c".into(), fallback: Some(Secret::new("s3cr3t")) };
        assert!(!format!("{choice:?} {:#?}", Secret::new("s3cr3t")).contains("s3cr3t"));
    }

    #[test]
    fn a_token_is_read_from_each_kind_of_file() {
        let dir = tempfile::tempdir().unwrap();
        let (plain, creds, bad) = (dir.path().join("t"), dir.path().join("c"), dir.path().join("b"));
        std::fs::write(&plain, "abc\n").unwrap();
        std::fs::write(&creds, r#"{"token":"def","expiresAt":"2030-01-01T00:00:00Z"}"#).unwrap();
        std::fs::write(&bad, "s3cr3t-not-json").unwrap();
        assert_eq!(TokenChoice::File(plain).read().unwrap().expose(), "abc");
        assert_eq!(TokenChoice::Creds { path: creds, fallback: None }.read().unwrap().expose(), "def");
        let problem = TokenChoice::Creds { path: bad, fallback: None }.read().unwrap_err();
        assert_eq!(problem.code, Code::TokenMalformed);
        assert!(!problem.to_string().contains("s3cr3t"));
    }

    #[test]
    fn the_launch_token_serves_until_the_creds_file_is_there() {
        let choice = TokenChoice::Creds { path: "/nonexistent/creds".into(), fallback: Some(Secret::new("abc")) };
        assert_eq!(choice.read().unwrap().expose(), "abc");
        let none = TokenChoice::Creds { path: "/nonexistent/creds".into(), fallback: None };
        assert_eq!(none.read().unwrap_err().code, Code::TokenMissing);
    }
}
