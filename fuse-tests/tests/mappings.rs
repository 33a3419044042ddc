//! Mapped files. That stores through a shared mapping reach the remote is in `programs.rs`.

use std::process::Command;

use fuse_tests::{Mount, Server, require, run};

fn with_file() -> (Server, Mount) {
    require(&["python3"]);
    let server = Server::start();
    server.put("/f", "content");
    let mount = Mount::start(&server);
    (server, mount)
}

fn python(mount: &Mount, script: &str) -> String {
    run(Command::new("python3").args(["-c", script]).current_dir(mount.path()))
}

#[test]
fn stores_through_a_private_mapping_stay_private() {
    let (server, mount) = with_file();
    server.reset_counts();
    let script = "
import mmap, os
with open('f', 'r+b') as f:
    m = mmap.mmap(f.fileno(), 0, flags=mmap.MAP_PRIVATE)
    m[0:7] = b'PRIVATE'
    print(m[:], os.pread(f.fileno(), 100, 0))
    m.close()
print(open('f').read())
";
    assert_eq!(python(&mount, script), "b'PRIVATE' b'content'\ncontent\n");
    mount.wait_clean();
    assert_eq!((server.writes(), server.text("/f").as_str()), (0, "content"));
}

#[test]
fn two_processes_see_each_others_stores_and_writes_through_one_shared_mapping() {
    let (server, mount) = with_file();
    let script = "
import mmap, os, subprocess, sys
fd = os.open('f', os.O_RDWR)
m = mmap.mmap(fd, 0, mmap.MAP_SHARED)
other = '''
import mmap, os
fd = os.open('f', os.O_RDWR)
m = mmap.mmap(fd, 0, mmap.MAP_SHARED)
print(m[:])
m[0:1] = b'C'
os.pwrite(fd, b'T', 6)
'''
m[3:4] = b'T'
print(subprocess.check_output([sys.executable, '-c', other], text=True), end='')
print(m[:])
";
    assert_eq!(python(&mount, script), "b'conTent'\nb'ConTenT'\n");
    fuse_tests::until("the remote has it", || server.text("/f") == "ConTenT");
}

#[test]
fn a_mapping_keeps_an_unlinked_file_alive() {
    let (_server, mount) = with_file();
    let script = "
import mmap, os
fd = os.open('f', os.O_RDWR)
m = mmap.mmap(fd, 0)
os.close(fd)
os.unlink('f')
m[0:1] = b'C'
print(m[:])
";
    assert_eq!(python(&mount, script), "b'Content'\n");
}
