//! The directory of one server: its lock, its secrets, its address.
//!
//! ```text
//! server.lock   flock of the running server        token        its bearer token (0600)
//! url           where the running server listens   jwt-secret   what signs JWTs for it (0600)
//! server.sqlite everything it keeps
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::ServerError;

/// How long to wait for a server that has the lock but has not yet said where it listens.
const URL_WAIT: Duration = Duration::from_secs(2);
const LOCK_FILE: &str = "server.lock";
/// Random bytes in a token or a secret.
const SECRET_BYTES: usize = 32;

/// A data directory that this process alone drives, until dropped.
pub(super) struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Creates the directory if need be and takes its lock.
    pub(super) fn lock(path: &Path) -> Result<DataDir, ServerError> {
        let io = |what: &'static str, at: &Path, source: io::Error| ServerError::Io { what, path: at.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| io("create", path, e))?;
        let lock_path = path.join(LOCK_FILE);
        let mut options = OpenOptions::new();
        let lock = options
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|e| io("open", &lock_path, e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(in_use(path)),
            Err(fs::TryLockError::Error(e)) => return Err(io("lock", &lock_path, e)),
        }
        // The address of an earlier run must not be taken for ours.
        match fs::remove_file(path.join("url")) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io("remove", &path.join("url"), e)),
            _ => {}
        }
        Ok(DataDir { path: path.to_owned(), _lock: lock })
    }

    pub(super) fn database(&self) -> PathBuf {
        self.path.join("server.sqlite")
    }

    /// The secret in the file `name`, made on the first use.
    pub(super) fn secret(&self, name: &str, prefix: &str) -> Result<String, ServerError> {
        let path = self.path.join(name);
        let io = |what: &'static str, source: io::Error| ServerError::Io { what, path: path.clone(), source };
        match fs::read_to_string(&path) {
            Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(io("read", e)),
        }
        let mut bytes = [0; SECRET_BYTES];
        File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes)).map_err(|e| io("make a secret for", e))?;
        let secret = format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes));
        write_atomically(&path, &format!("{secret}\n")).map_err(|e| io("write", e))?;
        Ok(secret)
    }

    /// Says where the server listens.
    pub(super) fn publish_url(&self, url: &str) -> Result<(), ServerError> {
        let path = self.path.join("url");
        write_atomically(&path, &format!("{url}\n")).map_err(|source| ServerError::Io { what: "write", path, source })
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.path.join("url"));
    }
}

/// Whether a server has run on the directory before, so that taking its lock makes nothing new.
pub(super) fn was_used(path: &Path) -> bool {
    path.join(LOCK_FILE).exists()
}

fn in_use(path: &Path) -> ServerError {
    let deadline = Instant::now() + URL_WAIT;
    loop {
        match fs::read_to_string(path.join("url")) {
            Ok(url) if !url.trim().is_empty() => return ServerError::InUse { url: url.trim().to_owned() },
            _ if Instant::now() >= deadline => return ServerError::Locked { dir: path.to_owned() },
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// 0600, whole or not at all.
fn write_atomically(path: &Path, text: &str) -> io::Result<()> {
    let mut temp = path.as_os_str().to_owned();
    temp.push(".new");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temp)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temp, path)
}
