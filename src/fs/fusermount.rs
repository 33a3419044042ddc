//! Mounting without root: the setuid helper of fuse3 opens the device, mounts, and passes the descriptor back over a
//! socket (libfuse's `mount_util` protocol: `_FUSE_COMMFD`, one byte, SCM_RIGHTS).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::mount::{MountError, Spec};

const PROGRAMS: [&str; 2] = ["fusermount3", "fusermount"];

pub(super) fn mount(spec: &Spec) -> Result<OwnedFd, MountError> {
    let failed = |detail: String| MountError::Failed { what: "fusermount3", path: spec.mountpoint.into(), detail };
    let (ours, theirs) = UnixStream::pair().map_err(|e| failed(e.to_string()))?;
    let fd = theirs.as_raw_fd();
    let child = spawn(|command| {
        command.arg("-o").arg(options(spec)).arg("--").arg(spec.mountpoint).env("_FUSE_COMMFD", fd.to_string());
        // SAFETY: fcntl is async-signal-safe, and `theirs` stays open until after the spawn.
        unsafe { command.pre_exec(move || keep_over_exec(fd)) };
    })
    .map_err(|e| not_spawned(e, spec.mountpoint))?;
    drop(theirs);
    // The helper's exit closes its end, so this ends in any case.
    let received = receive_descriptor(&ours);
    let said = words(child);
    received.map_err(|e| refused(spec.mountpoint, if said.is_empty() { e.to_string() } else { said }))
}

/// By fusermount3, or where that cannot, by umount(8). fusermount3 looks for the user's mount in /etc/mtab, which a machine without
/// systemd may not have; umount, setuid root as well, goes by the kernel's own list and lets users take their FUSE mounts away
/// (util-linux 2.34).
pub(super) fn unmount(path: &Path, lazy: bool) -> Result<(), MountError> {
    let by_helper = spawn(|command| {
        command.arg("-u").args(lazy.then_some("-z")).arg("--").arg(path);
    });
    let said = match by_helper {
        Ok(child) => match refusal(child) {
            None => return Ok(()),
            Some(said) if said.contains("busy") => return Err(MountError::Busy(path.into())),
            Some(said) => said,
        },
        Err(e) => not_spawned(e, path).to_string(),
    };
    let mut umount = quiet("umount");
    umount.args(lazy.then_some("-l")).arg("--").arg(path);
    let also = match umount.spawn().map(refusal) {
        Ok(None) => return Ok(()),
        Ok(Some(also)) if also.contains("busy") => return Err(MountError::Busy(path.into())),
        Ok(Some(also)) => also,
        Err(e) => format!("umount: {e}"),
    };
    Err(MountError::Failed { what: "unmounting", path: path.into(), detail: format!("{said}; {also}") })
}

/// What a program said that ended with an error.
fn refusal(child: Child) -> Option<String> {
    match child.wait_with_output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_string()),
        Err(e) => Some(e.to_string()),
    }
}

/// A program whose words are kept for an error.
fn quiet(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// The helper knows its own allowlist of options; `\` escapes a comma in a name.
fn options(spec: &Spec) -> String {
    let source = spec.source.replace('\\', "\\\\").replace(',', "\\,");
    let mut options = format!("fsname={source},subtype=relayfile,nosuid,nodev,noatime,default_permissions");
    if spec.allow_other {
        options.push_str(",allow_other");
    }
    if spec.read_only {
        options.push_str(",ro");
    }
    options
}

fn spawn(arguments: impl Fn(&mut Command)) -> io::Result<Child> {
    let mut missing = None;
    for program in PROGRAMS {
        let mut command = quiet(program);
        arguments(&mut command);
        match command.spawn() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => missing = Some(e),
            other => return other,
        }
    }
    Err(missing.expect("the list of programs is not empty"))
}

fn not_spawned(e: io::Error, path: &Path) -> MountError {
    if e.kind() == io::ErrorKind::NotFound {
        return MountError::FusermountNotFound;
    }
    MountError::Failed { what: "fusermount3", path: path.into(), detail: e.to_string() }
}

fn words(child: Child) -> String {
    match child.wait_with_output() {
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_string(),
        Err(e) => e.to_string(),
    }
}

/// The helper has only words and one exit status for everything.
fn refused(path: &Path, said: String) -> MountError {
    let path = path.to_owned();
    if said.contains("user_allow_other") {
        MountError::AllowOtherRefused
    } else if said.contains("/dev/fuse") || said.contains("device not found") {
        MountError::FuseUnavailable(io::Error::other(said))
    } else if said.contains("bad mount point") {
        let kind = if said.contains("No such file") { io::ErrorKind::NotFound } else { io::ErrorKind::Other };
        MountError::Mountpoint { path, source: io::Error::new(kind, said) }
    } else if said.contains("ermission denied") || said.contains("not permitted") || said.contains("no write access") {
        MountError::PermissionDenied { path, detail: said }
    } else {
        MountError::Failed { what: "fusermount3", path, detail: said }
    }
}

fn keep_over_exec(fd: RawFd) -> io::Result<()> {
    // SAFETY: F_SETFD takes an integer; a bad descriptor is an error, not undefined.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn receive_descriptor(socket: &UnixStream) -> io::Result<OwnedFd> {
    /// Room for one descriptor and its header, aligned as the kernel wants it.
    #[repr(C, align(8))]
    struct Control([u8; 64]);

    let mut byte = 0u8;
    let mut data = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let mut control = Control([0; 64]);
    // SAFETY: msghdr is plain data for which all zeroes is a value.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut data;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>() as _;
    loop {
        // SAFETY: the message points at one byte and at 64 bytes of control room, both alive and mutable.
        let n = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        match n {
            0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "fusermount3 ended without a descriptor")),
            1.. => break,
            _ => {
                let e = io::Error::last_os_error();
                if e.kind() != io::ErrorKind::Interrupted {
                    return Err(e);
                }
            }
        }
    }
    // SAFETY: the kernel filled `message`; CMSG_FIRSTHDR checks that a header fits and CMSG_DATA follows it.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if header.is_null()
            || (*header).cmsg_level != libc::SOL_SOCKET
            || (*header).cmsg_type != libc::SCM_RIGHTS
            || ((*header).cmsg_len as usize) < libc::CMSG_LEN(size_of::<RawFd>() as u32) as usize
        {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "fusermount3 sent no descriptor"));
        }
        let fd = libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned();
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_the_source_is_no_option() {
        let spec = Spec { mountpoint: Path::new("/x"), source: "a,suid\\b", allow_other: true, read_only: true };
        assert_eq!(
            options(&spec),
            "fsname=a\\,suid\\\\b,subtype=relayfile,nosuid,nodev,noatime,default_permissions,allow_other,ro"
        );
    }

    #[test]
    fn a_descriptor_comes_through_a_socket() {
        let (a, b) = UnixStream::pair().unwrap();
        let sent = tempfile::tempfile().unwrap();
        send_descriptor(&a, sent.as_raw_fd());
        let received = receive_descriptor(&b).unwrap();
        assert_ne!(received.as_raw_fd(), sent.as_raw_fd());
        drop(a);
        assert_eq!(receive_descriptor(&b).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_byte_without_a_descriptor_is_an_error() {
        use std::io::Write;
        let (mut a, b) = UnixStream::pair().unwrap();
        a.write_all(b"x").unwrap();
        assert_eq!(receive_descriptor(&b).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn the_words_of_the_helper_become_codes() {
        let code = |said: &str| refused(Path::new("/x"), said.into()).code();
        assert_eq!(
            code("fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf"),
            "ALLOW_OTHER_REFUSED"
        );
        assert_eq!(code("fusermount3: bad mount point /x: No such file or directory"), "MOUNTPOINT_NOT_FOUND");
        assert_eq!(code("fusermount3: failed to open /dev/fuse: Permission denied"), "FUSE_UNAVAILABLE");
        assert_eq!(code("fusermount3: mount failed: Operation not permitted"), "MOUNT_PERMISSION_DENIED");
        assert_eq!(code("fusermount3: user has no write access to mountpoint /x"), "MOUNT_PERMISSION_DENIED");
        assert_eq!(code("something new"), "MOUNT_FAILED");
    }

    fn send_descriptor(socket: &UnixStream, fd: RawFd) {
        let mut byte = 0u8;
        let mut data = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
        let mut control = [0u64; 8];
        // SAFETY: plain data, zeroes are valid; the pointers below live until sendmsg returns.
        unsafe {
            let mut message: libc::msghdr = MaybeUninit::zeroed().assume_init();
            message.msg_iov = &raw mut data;
            message.msg_iovlen = 1;
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as _;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
            libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(fd);
            assert_eq!(libc::sendmsg(socket.as_raw_fd(), &raw const message, 0), 1);
        }
    }
}
