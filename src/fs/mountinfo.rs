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
pub struct MountedAt {
    pub mountpoint: PathBuf,
    pub fstype: String,
    pub source: OsString,
    /// `major:minor` of the filesystem: tells two mounts on one path apart.
    pub device: String,
}

/// True when `path`, as written and absolute, is a mountpoint.
pub fn is_mounted(path: &Path) -> io::Result<bool> {
    Ok(top(&read()?, path).is_some())
}

/// The mounts of relayfile, in the order in which they were made.
pub fn our_mounts() -> io::Result<Vec<MountedAt>> {
    Ok(read()?.into_iter().filter(|m| m.fstype == FSTYPE).collect())
}

/// The device of what is mounted on `path`, the uppermost if several are.
pub(super) fn device_at(path: &Path) -> io::Result<Option<String>> {
    Ok(top(&read()?, path).map(|m| m.device.clone()))
}

fn top<'a>(mounts: &'a [MountedAt], path: &Path) -> Option<&'a MountedAt> {
    mounts.iter().rev().find(|m| m.mountpoint == path)
}

fn read() -> io::Result<Vec<MountedAt>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

fn parse(mountinfo: &[u8]) -> Vec<MountedAt> {
    mountinfo.split(|b| *b == b'\n').filter_map(parse_line).collect()
}

/// `id parent major:minor root mountpoint options [optional…] - fstype source options`
fn parse_line(line: &[u8]) -> Option<MountedAt> {
    let mut fields = line.split(|b| *b == b' ');
    let device = fields.nth(2)?;
    let mountpoint = fields.nth(1)?;
    let mut tail = fields.skip_while(|f| *f != b"-").skip(1);
    let fstype = tail.next()?;
    let source = tail.next()?;
    Some(MountedAt {
        mountpoint: PathBuf::from(unescape(mountpoint)),
        fstype: String::from_utf8_lossy(unescape(fstype).as_bytes()).into_owned(),
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
        let m = top(&mounts, Path::new("/mnt/my work\\space")).unwrap();
        assert_eq!((m.fstype.as_str(), m.source.to_str(), m.device.as_str()), (FSTYPE, Some("demo one"), "0:41"));
    }

    #[test]
    fn the_uppermost_of_two_mounts_on_one_path_counts() {
        assert_eq!(top(&parse(SAMPLE), Path::new("/mnt/x")).unwrap().device, "0:43");
    }

    #[test]
    fn optional_fields_and_broken_lines_do_not_confuse() {
        let mounts = parse(SAMPLE);
        assert_eq!(mounts.len(), 4);
        assert_eq!(mounts[0].fstype, "ext4");
    }

    #[test]
    fn only_whole_octal_escapes_are_unescaped() {
        assert_eq!(unescape(b"a\\011b\\04"), "a\tb\\04");
        assert_eq!(unescape(b"\\777\\"), "\\777\\");
        assert_eq!(unescape(b"\\043"), "#");
    }

    #[test]
    fn the_root_of_this_machine_is_mounted() {
        assert!(is_mounted(Path::new("/proc")).unwrap());
        assert!(!is_mounted(Path::new("/proc/self/no-such-mount")).unwrap());
    }
}
