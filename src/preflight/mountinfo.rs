//! `/proc/self/mountinfo`: what is mounted where, asked of the kernel and never of the mounts themselves.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// How the kernel names the type of our mounts: `fuse.` and the subtype.
pub const FS_TYPE: &str = "fuse.relayfile";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    pub mountpoint: PathBuf,
    pub fs_type: String,
    pub source: String,
}

impl MountEntry {
    pub fn is_ours(&self) -> bool {
        self.fs_type == FS_TYPE
    }

    pub fn is_fuse(&self) -> bool {
        self.fs_type == "fuse" || self.fs_type.starts_with("fuse.")
    }
}

/// All mounts of this mount namespace, in the order of the kernel; a later one hides an earlier one at the same place.
pub fn mounts() -> std::io::Result<Vec<MountEntry>> {
    std::fs::read("/proc/self/mountinfo").map(|text| parse(&text))
}

/// The topmost mount exactly at `path`.
pub fn mounted_at(path: &Path) -> Option<MountEntry> {
    mounts().ok()?.into_iter().rfind(|m| m.mountpoint == path)
}

/// The mount that `path` lies on.
pub fn mount_of(path: &Path) -> Option<MountEntry> {
    let mut best: Option<MountEntry> = None;
    for mount in mounts().ok()? {
        let depth = |p: &Path| p.components().count();
        if path.starts_with(&mount.mountpoint) && best.as_ref().is_none_or(|b| depth(&b.mountpoint) <= depth(&mount.mountpoint)) {
            best = Some(mount);
        }
    }
    best
}

/// Format: proc_pid_mountinfo(5). Lines that do not look like it are left out.
fn parse(text: &[u8]) -> Vec<MountEntry> {
    let line = |line: &[u8]| {
        let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
        let dash = fields.iter().skip(6).position(|f| *f == b"-")? + 6;
        Some(MountEntry {
            mountpoint: PathBuf::from(unescape(fields.get(4)?)),
            fs_type: String::from_utf8_lossy(fields.get(dash + 1)?).into_owned(),
            source: unescape(fields.get(dash + 2)?).to_string_lossy().into_owned(),
        })
    };
    text.split(|b| *b == b'\n').filter_map(line).collect()
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        match octal {
            Some(value) if byte == b'\\' => {
                out.push(value);
                rest = &tail[3..];
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_escapes_and_optional_fields_is_read() {
        let text = b"36 35 98:0 / /mnt/my\\040ws rw,noatime shared:1 master:2 - fuse.relayfile relayfile:ws rw\nnonsense\n";
        assert_eq!(
            parse(text),
            [MountEntry { mountpoint: "/mnt/my ws".into(), fs_type: "fuse.relayfile".into(), source: "relayfile:ws".into() }]
        );
    }

    #[test]
    fn proc_is_a_mount_and_its_files_lie_on_it() {
        assert_eq!(mounted_at(Path::new("/proc")).unwrap().fs_type, "proc");
        assert_eq!(mount_of(Path::new("/proc/self/status")).unwrap().fs_type, "proc");
        assert_eq!(mounted_at(Path::new("/proc/self")), None);
    }
}
