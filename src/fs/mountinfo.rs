//! What is mounted where, read from `/proc/self/mountinfo` (proc_pid_mountinfo(5)). Never touches a mount, so it answers
//! even when one of them is dead.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The filesystem type that our mounts show.
pub(super) const FSTYPE: &str = "fuse.relayfile";

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    pub mountpoint: PathBuf,
    pub fs_type: String,
    pub source: OsString,
    /// `major:minor` of the filesystem: tells two mounts on one path apart.
    pub device: String,
}

impl MountEntry {
    pub fn is_ours(&self) -> bool {
        self.fs_type == FSTYPE
    }

    pub fn is_fuse(&self) -> bool {
        self.fs_type == "fuse" || self.fs_type.starts_with("fuse.")
    }
}

/// All mounts of this mount namespace, in the order of the kernel; a later one hides an earlier one at the same place.
pub fn mounts() -> io::Result<Vec<MountEntry>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// The mounts that another process sees, which may live in a mount namespace of its own.
pub fn mounts_of(pid: u32) -> io::Result<Vec<MountEntry>> {
    Ok(parse(&std::fs::read(format!("/proc/{pid}/mountinfo"))?))
}

/// The topmost mount exactly at `path`, as written and absolute.
pub fn mounted_at(path: &Path) -> io::Result<Option<MountEntry>> {
    Ok(mounts()?.into_iter().rfind(|m| m.mountpoint == path))
}

/// The mount that `path` lies on.
pub fn mount_of(path: &Path) -> io::Result<Option<MountEntry>> {
    let depth = |m: &MountEntry| m.mountpoint.components().count();
    // The last of several equally deep ones is the one on top.
    Ok(mounts()?.into_iter().filter(|m| path.starts_with(&m.mountpoint)).max_by_key(depth))
}

fn parse(mountinfo: &[u8]) -> Vec<MountEntry> {
    mountinfo.split(|b| *b == b'\n').filter_map(parse_line).collect()
}

/// `id parent major:minor root mountpoint options [optional…] - fstype source options`
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|b| *b == b' ');
    let device = fields.nth(2)?;
    let mountpoint = fields.nth(1)?;
    let mut tail = fields.skip_while(|f| *f != b"-").skip(1);
    let fstype = tail.next()?;
    let source = tail.next()?;
    Some(MountEntry {
        mountpoint: PathBuf::from(unescape(mountpoint)),
        fs_type: String::from_utf8_lossy(unescape(fstype).as_bytes()).into_owned(),
        source: unescape(source),
        device: String::from_utf8_lossy(device).into_owned(),
    })
}

/// The kernel writes space, tab, newline, backslash and `#` as a backslash and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        match octal(rest) {
            Some(byte) => {
                out.push(byte);
                rest = &rest[4..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(out)
}

fn octal(at: &[u8]) -> Option<u8> {
    let [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] = at else { return None };
    Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &[u8] = b"\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:41 / /mnt/my\\040work\\134space rw,nosuid,nodev,noatime shared:5 master:2 - fuse.relayfile demo\\040one rw,user_id=0
31 30 0:42 / /mnt/x rw - fuse.sshfs host: rw
32 22 0:43 / /mnt/x rw - fuse.relayfile second rw

garbage
33 22 0:44 / /half rw -
";

    #[test]
    fn a_mount_is_found_by_its_real_name() {
        let mounts = parse(SAMPLE);
        let m = mounts.iter().find(|m| m.mountpoint == Path::new("/mnt/my work\\space")).unwrap();
        assert_eq!((m.fs_type.as_str(), m.source.to_str(), m.device.as_str()), (FSTYPE, Some("demo one"), "0:41"));
    }

    #[test]
    fn optional_fields_and_broken_lines_do_not_confuse() {
        let mounts = parse(SAMPLE);
        assert_eq!(mounts.len(), 4);
        assert_eq!(mounts[0].fs_type, "ext4");
    }

    #[test]
    fn only_whole_octal_escapes_are_unescaped() {
        assert_eq!(unescape(b"a\\011b\\04"), "a\tb\\04");
        assert_eq!(unescape(b"\\777\\"), "\\777\\");
        assert_eq!(unescape(b"\\043"), "#");
    }

    #[test]
    fn proc_is_a_mount_and_its_files_lie_on_it() {
        assert_eq!(mounted_at(Path::new("/proc")).unwrap().unwrap().fs_type, "proc");
        assert_eq!(mount_of(Path::new("/proc/self/status")).unwrap().unwrap().fs_type, "proc");
        assert_eq!(mounted_at(Path::new("/proc/self/no-such-mount")).unwrap(), None);
        assert!(mounts_of(std::process::id()).unwrap().iter().any(|m| m.fs_type == "proc"));
    }
}
