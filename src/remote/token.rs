//! Where the token comes from. Files are read again when they change, so that a launcher can renew a token under a running
//! mount. A token is never printed.

use std::fmt;
use std::path::PathBuf;

/// Largest file that is read for a token, in bytes.
const FILE_MAX: u64 = 64 * 1024;

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

impl TokenSource {
    /// The token as it is now; `Err` says why there is none, without it.
    pub fn read(&self) -> Result<String, String> {
        let token = match self {
            TokenSource::Literal(token) => token.clone(),
            TokenSource::File(path) => {
                use std::io::Read;
                let mut text = String::new();
                std::fs::File::open(path)
                    .and_then(|f| f.take(FILE_MAX).read_to_string(&mut text))
                    .map_err(|e| format!("the token file {} cannot be read: {e}", path.display()))?;
                match serde_json::from_str::<serde_json::Value>(&text) {
                    Ok(serde_json::Value::Object(creds)) => ["token", "accessToken", "relayfileToken"]
                        .iter()
                        .find_map(|k| creds.get(*k)?.as_str())
                        .ok_or_else(|| format!("{} holds no \"token\"", path.display()))?
                        .to_owned(),
                    _ => text,
                }
            }
        };
        let token = token.trim();
        if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("the token is empty or holds characters that cannot be sent".into());
        }
        Ok(token.to_owned())
    }
}
