//! Locks among the processes of this machine; that they exclude at all is in `programs.rs`.

use std::process::Command;

use fuse_tests::{Mount, Server, require, run};

#[test]
fn record_locks_are_of_ranges_and_go_with_their_process() {
    require(&["python3"]);
    let server = Server::start();
    let mount = Mount::start(&server);
    let script = "
import fcntl, os, subprocess, sys
holder_code = '''
import fcntl, os, sys
fd = os.open(\"lock\", os.O_RDWR | os.O_CREAT)
fcntl.lockf(fd, fcntl.LOCK_EX, 10, 100)
print(\"locked\", flush=True)
sys.stdin.read()
'''
holder = subprocess.Popen([sys.executable, '-c', holder_code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
holder.stdout.readline()
fd = os.open('lock', os.O_RDWR)
def probe(length, start):
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
        fcntl.lockf(fd, fcntl.LOCK_UN, length, start)
        return 'free'
    except BlockingIOError:
        return 'held'
print(probe(100, 0), probe(10, 100), probe(1, 109), probe(5, 110))
holder.kill()
holder.wait()
print(probe(10, 100))
";
    assert_eq!(run(Command::new("python3").args(["-c", script]).current_dir(mount.path())), "free held held free\nfree\n");
}

#[test]
fn a_waiting_lock_is_granted_when_the_holder_lets_go() {
    require(&["flock"]);
    let server = Server::start();
    let mount = Mount::start(&server);
    let script = "
exec 9> lock; flock 9
( flock lock echo granted >> order ) &
echo first >> order
flock -u 9
wait
cat order";
    assert_eq!(fuse_tests::sh(&mount.path(), script), "first\ngranted\n");
}
