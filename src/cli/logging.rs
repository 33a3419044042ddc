//! The log: stderr, or a file. `RUST_LOG` wins over `-v` and `-q`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use log::LevelFilter;
use parking_lot::Mutex;

use crate::logring;

/// Starts logging at `level` for this project and at warnings for the crates below it.
pub fn start(level: LevelFilter, file: Option<File>) {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(LevelFilter::Warn.min(level)).filter_module("relayfile", level).parse_default_env();
    // It would write down the request for the event stream, whose address holds the token.
    builder.filter_module("tungstenite::handshake::client", LevelFilter::Info);
    let file = file.map(Mutex::new);
    builder.format(move |out, record| {
        let at = out.timestamp_millis();
        let line = format!("[{at} {:<5} {}] {}\n", record.level(), record.target(), record.args());
        logring::push(&line);
        // One write a line, so that lines of several threads and processes do not mix.
        match &file {
            Some(file) => file.lock().write_all(line.as_bytes()),
            None => out.write_all(line.as_bytes()),
        }
    });
    // A second call, in a test, is no error.
    let _ = builder.try_init();
}

/// Opens a log for appending; a new one is readable by its owner only, because it names the files of the workspace.
pub fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// The last lines of a log that were written after `from` bytes, at most 2 KiB.
pub fn tail(path: &Path, from: u64) -> String {
    const MOST: u64 = 2048;
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(from.max(end.saturating_sub(MOST))))?;
        let mut bytes = Vec::new();
        file.take(MOST).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    };
    read().unwrap_or_default()
}
