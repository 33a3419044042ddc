//! Extended attributes at their limits, xattr(7): what is too long, too much or not there has its errno.

use std::process::Command;

use fuse_tests::{Mount, Server, require, run};

/// What a Python script with `attempt(what, act)` prints: the result, or the name of the errno.
fn attempts(mount: &Mount, script: &str) -> String {
    const PRELUDE: &str = "
import ctypes, errno, os
def attempt(what, act):
    try:
        print(what, act())
    except OSError as e:
        print(what, errno.errorcode[e.errno])
";
    require(&["python3"]);
    run(Command::new("python3").args(["-c", &format!("{PRELUDE}{script}")]).current_dir(mount.path()))
}

fn with_file() -> (Server, Mount) {
    let server = Server::start();
    server.put("/f", "content");
    let mount = Mount::start(&server);
    (server, mount)
}

#[test]
fn the_longest_value_and_name_survive_a_remount_and_longer_ones_are_refused() {
    let (_server, mut mount) = with_file();
    let script = "
name = 'user.' + 'n' * 250
attempt('longest', lambda: os.setxattr('f', name, b'v' * 65536))
attempt('value', lambda: os.setxattr('f', 'user.v', b'v' * 65537))
attempt('name', lambda: os.setxattr('f', name + 'n', b'v'))
attempt('empty', lambda: os.setxattr('f', 'user.empty', b''))
";
    assert_eq!(attempts(&mount, script), "longest None\nvalue E2BIG\nname ERANGE\nempty None\n");
    mount.remount();
    let script = "
name = 'user.' + 'n' * 250
attempt('longest', lambda: os.getxattr('f', name) == b'v' * 65536)
attempt('empty', lambda: os.getxattr('f', 'user.empty'))
attempt('names', lambda: sorted(os.listxattr('f')) == ['user.empty', name])
";
    assert_eq!(attempts(&mount, script), "longest True\nempty b''\nnames True\n");
}

#[test]
fn a_buffer_that_is_too_short_is_erange_and_an_empty_one_tells_the_length() {
    let (_server, mount) = with_file();
    let script = "
os.setxattr('f', 'user.k', b'12345')
libc = ctypes.CDLL(None, use_errno=True)
def get(size):
    n = libc.getxattr(b'f', b'user.k', ctypes.create_string_buffer(8), size)
    return n if n >= 0 else errno.errorcode[ctypes.get_errno()]
def names(size):
    n = libc.listxattr(b'f', ctypes.create_string_buffer(8), size)
    return n if n >= 0 else errno.errorcode[ctypes.get_errno()]
print(get(0), get(4), get(5), names(0), names(6), names(7))
";
    assert_eq!(attempts(&mount, script), "5 ERANGE 5 7 ERANGE 7\n");
}

#[test]
fn create_replace_and_remove_have_their_errors() {
    let (_server, mount) = with_file();
    let script = "
attempt('replace nothing', lambda: os.setxattr('f', 'user.k', b'1', os.XATTR_REPLACE))
attempt('create', lambda: os.setxattr('f', 'user.k', b'1', os.XATTR_CREATE))
attempt('create again', lambda: os.setxattr('f', 'user.k', b'2', os.XATTR_CREATE))
attempt('replace', lambda: os.setxattr('f', 'user.k', b'3', os.XATTR_REPLACE))
attempt('get', lambda: os.getxattr('f', 'user.k'))
attempt('remove', lambda: os.removexattr('f', 'user.k'))
attempt('remove again', lambda: os.removexattr('f', 'user.k'))
attempt('other namespace', lambda: os.setxattr('f', 'trusted.k', b'1'))
attempt('our own', lambda: os.setxattr('f', 'user.relayfile.state', b'1'))
os.symlink('f', 'link')
attempt('of a link', lambda: os.setxattr('link', 'user.k', b'1', follow_symlinks=False))
";
    let expected = "replace nothing ENODATA\ncreate None\ncreate again EEXIST\nreplace None\nget b'3'\nremove None\n\
                    remove again ENODATA\nother namespace ENOTSUP\nour own EPERM\nof a link EPERM\n";
    assert_eq!(attempts(&mount, script), expected);
}

#[test]
fn too_many_bytes_of_names_or_values_are_enospc_and_what_was_there_can_be_replaced() {
    let (_server, mount) = with_file();
    let script = "
value = b'v' * 65536
stored = 0
try:
    while stored < 100:
        os.setxattr('f', f'user.{stored}', value)
        stored += 1
except OSError as e:
    print(stored, errno.errorcode[e.errno])
attempt('replace', lambda: os.setxattr('f', 'user.0', value))
attempt('small', lambda: os.setxattr('f', 'user.small', b'x'))
open('g', 'w').close()
listed = 0
try:
    while listed < 1000:
        os.setxattr('g', f'user.{listed:0250}', b'')
        listed += 1
except OSError as e:
    print(listed, errno.errorcode[e.errno])
attempt('names', lambda: len(os.listxattr('g')))
attempt('replace', lambda: os.setxattr('g', f'user.{0:0250}', b'again'))
";
    // 1 MiB in all; 65536 bytes of names with their NULs, 256 each.
    let expected = "15 ENOSPC\nreplace None\nsmall None\n256 ENOSPC\nnames 256\nreplace None\n";
    assert_eq!(attempts(&mount, script), expected);
}
