//! A whole subtree in one answer (`/fs/export`), streamed from one consistent view.

use std::io::{self, Write};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream;
use tokio::sync::mpsc;

use super::acl::Gate;
use super::dispatch::Call;
use super::files::{FileBody, decode_base64};
use super::paths;
use super::reply::{ApiError, Reply};
use super::store::FileRow;

/// Bytes gathered before they are sent on.
const CHUNK: usize = 64 * 1024;
/// Chunks that may wait for a slow reader.
const CHUNKS: usize = 4;

/// How long a reader may not read.
const STALL_MAX: Duration = Duration::from_secs(60);

#[derive(Clone, Copy)]
enum Format {
    Json,
    Tar,
    Patch,
}

pub(crate) async fn export(call: Call) -> Result<Reply, ApiError> {
    let (format, content_type) = match call.query.get("format").trim().to_lowercase().as_str() {
        "" | "json" => (Format::Json, "application/json"),
        "tar" => (Format::Tar, "application/gzip"),
        "patch" => (Format::Patch, "text/x-diff; charset=utf-8"),
        _ => return Err(ApiError::bad_request("invalid format")),
    };
    let base = paths::normalize_trimmed(call.query.get("path"));
    let (chunks, received) = mpsc::channel(CHUNKS);
    tokio::task::spawn_blocking(move || {
        let mut out = ChunkWriter { chunks, buffer: Vec::with_capacity(CHUNK) };
        let written = match format {
            Format::Json => write_json(&call, &base, &mut out),
            Format::Tar => write_tar(&call, &base, &mut out),
            Format::Patch => write_patch(&call, &base, &mut out),
        };
        match written.and_then(|()| out.flush()).and_then(|()| out.send(Part::End)) {
            Ok(()) => {}
            Err(e) => log::info!("embedded server: an export ended early: {e}"),
        }
    });
    // Only an announced end is one: after a failure the reader must not take what it has for everything.
    let body = stream::unfold(Some(received), |received| async move {
        let mut received = received?;
        match received.recv().await {
            Some(Part::Bytes(bytes)) => Some((Ok(bytes), Some(received))),
            Some(Part::End) => None,
            None => Some((Err(io::Error::other("the export failed")), None)),
        }
    });
    let mut reply = Reply::new(Body::from_stream(body));
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Format::Tar = format {
        let name = HeaderValue::from_static("attachment; filename=\"workspace-export.tar.gz\"");
        reply.headers_mut().insert(header::CONTENT_DISPOSITION, name);
    }
    Ok(reply)
}

enum Part {
    Bytes(Bytes),
    End,
}

struct ChunkWriter {
    chunks: mpsc::Sender<Part>,
    buffer: Vec<u8>,
}

impl ChunkWriter {
    fn send(&self, part: Part) -> io::Result<()> {
        // A reader that stalls would keep the view open, and the database's log growing, for as long as it likes.
        let sending = tokio::time::timeout(STALL_MAX, self.chunks.send(part));
        match tokio::runtime::Handle::current().block_on(sending) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        self.send(Part::Bytes(chunk.into()))
    }
}

/// Gives every visible file to `each`; stops at its first error.
fn each_file(call: &Call, base: &str, mut each: impl FnMut(FileRow, String) -> io::Result<()>) -> io::Result<()> {
    let mut result = Ok(());
    let gate: Option<Gate<'_>> = call.gate();
    call.app
        .store
        .export(&call.workspace, base, gate, |file, content| {
            result = each(file, content);
            result.is_ok()
        })
        .map_err(io::Error::other)?;
    result
}

fn write_json(call: &Call, base: &str, out: &mut ChunkWriter) -> io::Result<()> {
    let mut first = true;
    out.write_all(b"[")?;
    each_file(call, base, |file, content| {
        if !std::mem::take(&mut first) {
            out.write_all(b",")?;
        }
        serde_json::to_writer(&mut *out, &FileBody::new(file, content)).map_err(io::Error::from)
    })?;
    out.write_all(b"]\n")
}

fn write_tar(call: &Call, base: &str, out: &mut ChunkWriter) -> io::Result<()> {
    let mut tar = tar::Builder::new(GzEncoder::new(out, Compression::fast()));
    each_file(call, base, |file, content| {
        let bytes = if file.base64 { decode_base64(&content).unwrap_or_default() } else { content.into_bytes() };
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        header.set_mtime((file.edited_ns / 1_000_000_000).max(0) as u64);
        tar.append_data(&mut header, tar_name(&file.path), bytes.as_slice())
    })?;
    tar.into_inner()?.finish()?;
    Ok(())
}

/// A name that stays below the place where the archive is unpacked: dots resolved, never above the root.
fn tar_name(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let name = parts.join("/").replace('\0', "\u{fffd}");
    if name.is_empty() { "root".into() } else { name }
}

fn write_patch(call: &Call, base: &str, out: &mut ChunkWriter) -> io::Result<()> {
    each_file(call, base, |file, content| {
        write!(out, "--- /dev/null\n+++ b{}\n", file.path)?;
        if file.base64 {
            return out.write_all(b"@@ -0,0 +1 @@\n+[binary content omitted; encoding=base64]\n");
        }
        writeln!(out, "@@ -0,0 +1,{} @@", content.split('\n').count())?;
        content.split('\n').try_for_each(|line| writeln!(out, "+{line}"))
    })
}

#[cfg(test)]
mod tests {
    use super::tar_name;

    #[test]
    fn names_in_an_archive_stay_below_its_root() {
        for (path, want) in
            [("/b/1.txt", "b/1.txt"), ("/x/../y", "y"), ("/../../etc/passwd", "etc/passwd"), ("/", "root"), ("/x//./y", "x/y")]
        {
            assert_eq!(tar_name(path), want);
        }
    }
}
