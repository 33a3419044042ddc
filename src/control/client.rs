//! The commands' end.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::{LINE_MAX, Reply, Request, address};

/// How long a holder may take; what it does is local. One that is stopped never answers.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to say that it is there.
const HELLO: Duration = Duration::from_secs(2);

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// Nobody listens: the holder is starting, ending, or of an older version.
    #[error("nobody listens at control.sock: {0}")]
    Nobody(io::Error),
    #[error("control.sock: {0}")]
    Broken(#[from] io::Error),
}

/// Asks the holder of the lease of `state_dir`.
pub fn ask(state_dir: &Path, request: &Request) -> Result<Reply, Unanswered> {
    let patience = if *request == Request::Hello { HELLO } else { PATIENCE };
    let stream = send(state_dir, request, patience)?;
    let mut line = String::new();
    BufReader::new(stream.take(LINE_MAX)).read_line(&mut line)?;
    understand(&line)
}

/// Asks for the changes at these paths of the mount. After a reply of [`Reply::Watching`], each further line of the stream is one.
pub fn watch(state_dir: &Path, paths: Vec<String>) -> Result<(Reply, UnixStream), Unanswered> {
    let mut stream = send(state_dir, &Request::Watch { paths }, PATIENCE)?;
    // Byte by byte: what is behind the line belongs to whoever reads on.
    let mut line = Vec::new();
    let mut byte = [0];
    while line.last() != Some(&b'\n') && (line.len() as u64) < LINE_MAX {
        match stream.read(&mut byte) {
            Ok(0) => break,
            Ok(_) => line.push(byte[0]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    stream.set_read_timeout(None)?;
    Ok((understand(&String::from_utf8_lossy(&line))?, stream))
}

fn send(state_dir: &Path, request: &Request, patience: Duration) -> Result<UnixStream, Unanswered> {
    let (_dir, path) = address(state_dir).map_err(Unanswered::Nobody)?;
    let mut stream = UnixStream::connect(path).map_err(Unanswered::Nobody)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let mut text = serde_json::to_string(request).map_err(io::Error::from)?;
    text.push('\n');
    stream.write_all(text.as_bytes())?;
    Ok(stream)
}

fn understand(line: &str) -> Result<Reply, Unanswered> {
    serde_json::from_str(line).map_err(|e| Unanswered::Broken(io::Error::other(format!("not a reply: {e}"))))
}
