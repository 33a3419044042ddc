//! A reader sees one version or another of a file that the remote keeps changing, never parts of two.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fuse_tests::{Mount, Server, until};

/// How long each test reads.
const FOR: Duration = Duration::from_secs(4);

/// A version that tells by itself whether it is whole: its number and length, then bytes that follow from the number.
fn version(n: usize, length: usize) -> Vec<u8> {
    if length == 0 {
        return Vec::new();
    }
    let mut content = format!("{n:08} {length:08}\n").into_bytes();
    let filler = b'a' + (n % 26) as u8;
    content.resize(length.max(content.len()), filler);
    content
}

/// What is wrong with what was read, if anything is.
fn fault(content: &[u8]) -> Option<String> {
    if content.is_empty() {
        return None;
    }
    let number = |from: usize| -> Option<usize> { std::str::from_utf8(content.get(from..from + 8)?).ok()?.parse().ok() };
    let (Some(n), Some(length)) = (number(0), number(9)) else {
        return Some(format!("{} bytes without a beginning: {:?}", content.len(), &content[..content.len().min(40)]));
    };
    if content.len() != length.max(18) {
        return Some(format!("{} bytes of version {n}, which has {length}", content.len()));
    }
    let filler = b'a' + (n % 26) as u8;
    let other = content[18..].iter().position(|b| *b != filler)?;
    Some(format!("byte {} of version {n} ({length} bytes) is {:?}", other + 18, content[other + 18] as char))
}

/// An error is a fault as well: the file is there all the time.
fn or_fault(done: std::io::Result<Option<String>>) -> Option<String> {
    done.unwrap_or_else(|e| Some(e.to_string()))
}

/// Lets the remote change `/f` through these lengths while two readers read it in every way.
fn read_while_it_changes(server: &Server, mount: &Mount, lengths: &[usize]) {
    let over = AtomicBool::new(false);
    let began = Instant::now();
    let faults: Vec<String> = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|who| {
                let over = &over;
                scope.spawn(move || {
                    let mut reads = 0;
                    while !over.load(Ordering::Relaxed) {
                        reads += 1;
                        let what = or_fault(one_read(mount, reads + who));
                        if let Some(fault) = what {
                            over.store(true, Ordering::Relaxed);
                            return Some(format!("read {reads}: {fault}"));
                        }
                    }
                    None
                })
            })
            .collect();
        let mut n = 0;
        while began.elapsed() < FOR && !over.load(Ordering::Relaxed) {
            n += 1;
            server.put("/f", version(n, lengths[n % lengths.len()]));
        }
        let last = version(n, lengths[n % lengths.len()]);
        until("the last version shows", || over.load(Ordering::Relaxed) || fs::read(mount.at("f")).is_ok_and(|c| c == last));
        over.store(true, Ordering::Relaxed);
        readers.into_iter().filter_map(|r| r.join().unwrap()).collect()
    });
    assert!(faults.is_empty(), "{faults:?}");
}

fn one_read(mount: &Mount, kind: usize) -> std::io::Result<Option<String>> {
    let path = mount.at("f");
    match kind % 3 {
        0 => Ok(fault(&fs::read(path)?)),
        // As large as any version, so that no look at the size comes first.
        1 => {
            let file = File::open(path)?;
            let mut content = vec![0; 1 << 20];
            let length = file.read_at(&mut content, 0)?;
            Ok(fault(&content[..length]).map(|f| format!("in one call: {f}")))
        }
        _ => {
            let mut file = File::open(path)?;
            let mut first = Vec::new();
            file.read_to_end(&mut first)?;
            let size = file.metadata()?.size();
            let mut again = vec![0; 1 << 20];
            let length = file.read_at(&mut again, 0)?;
            if first.len() as u64 != size || first != again[..length] {
                return Ok(Some(format!("an open file changed: {} bytes, then {length}, stat says {size}", first.len())));
            }
            Ok(fault(&first))
        }
    }
}

fn feed(mount: &Mount) -> String {
    mount.state()["eventListener"]["status"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn small_files_are_read_whole_while_the_stream_brings_others() {
    let server = Server::start();
    server.put("/f", version(0, 100));
    let mount = Mount::start(&server);
    until("the stream is open", || feed(&mount) == "streaming");
    read_while_it_changes(&server, &mount, &[100, 5000, 0, 30, 4096, 4097, 70_000, 20, 20, 9000]);
}

#[test]
fn large_files_are_read_whole_while_the_stream_brings_others() {
    let server = Server::start();
    server.put("/f", version(0, 100));
    let mount = Mount::start(&server);
    until("the stream is open", || feed(&mount) == "streaming");
    read_while_it_changes(&server, &mount, &[900_000, 100, 899_999, 0, 500_000, 900_000, 900_000]);
}

#[test]
fn files_are_read_whole_while_changes_are_polled_for() {
    let server = Server::start();
    server.refuse_streams();
    server.put("/f", version(0, 100));
    let mount = Mount::start(&server);
    until("changes are polled for", || feed(&mount) == "polling");
    read_while_it_changes(&server, &mount, &[100, 5000, 0, 30, 4096, 4097, 70_000, 20, 20, 9000]);
}

/// A line that tells by itself whether it is whole.
fn line(who: &str, n: usize, length: usize) -> String {
    format!("{who} {n} {length} {}\n", "x".repeat(length))
}

/// The first line that is not as it was written.
fn broken_line(text: &str) -> Option<&str> {
    text.split_inclusive('\n').find(|l| {
        let words: Vec<&str> = l.trim_end_matches('\n').split(' ').collect();
        let [who, n, length, filler] = words[..] else { return true };
        let whole = n.parse::<usize>().is_ok() && length.parse() == Ok(filler.len()) && l.ends_with('\n');
        !whole || !["remote", "mine"].contains(&who) || filler.bytes().any(|b| b != b'x')
    })
}

#[test]
fn a_file_that_grows_is_always_a_beginning_of_what_it_becomes() {
    let server = Server::start();
    let mut whole = line("remote", 0, 7);
    server.put("/f", &whole);
    let mount = Mount::start(&server);
    until("the stream is open", || feed(&mount) == "streaming");
    let over = AtomicBool::new(false);
    let began = Instant::now();
    let read = |how: &mut dyn FnMut() -> std::io::Result<Vec<u8>>| {
        let mut reads = 0;
        while !over.load(Ordering::Relaxed) {
            let content = how().unwrap();
            reads += 1;
            let text = String::from_utf8_lossy(&content);
            if content.is_empty() || broken_line(&text).is_some() {
                over.store(true, Ordering::Relaxed);
                return Some(format!("read {reads}: {} bytes, with {:?}", content.len(), broken_line(&text)));
            }
        }
        None
    };
    let read = &read;
    let faults: Vec<String> = std::thread::scope(|scope| {
        let anew = scope.spawn(|| read(&mut || fs::read(mount.at("f"))));
        // One look at a time: the parts of a longer one could belong to two versions, as with any file that grows.
        let open = File::open(mount.at("f")).unwrap();
        let through = scope.spawn(move || {
            read(&mut || {
                let mut content = vec![0; 1 << 20];
                let length = open.read_at(&mut content, 0)?;
                content.truncate(length);
                Ok(content)
            })
        });
        let stat = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                fs::metadata(mount.at("f")).unwrap();
            }
        });
        let mut n = 0;
        while began.elapsed() < FOR && whole.len() < 900_000 && !over.load(Ordering::Relaxed) {
            n += 1;
            whole.push_str(&line("remote", n, n * 37 % 3000));
            server.put("/f", &whole);
        }
        until("the last version shows", || over.load(Ordering::Relaxed) || fs::read(mount.at("f")).unwrap() == whole.as_bytes());
        over.store(true, Ordering::Relaxed);
        stat.join().unwrap();
        [anew, through].into_iter().filter_map(|r| r.join().unwrap()).collect()
    });
    assert!(faults.is_empty(), "{faults:?}");
}

#[test]
fn an_append_that_meets_a_change_of_the_remote_breaks_no_line() {
    let server = Server::start();
    server.put("/f", line("remote", 0, 7));
    let mount = Mount::start(&server);
    until("the stream is open", || feed(&mount) == "streaming");
    let over = AtomicBool::new(false);
    let mut contents = std::thread::scope(|scope| {
        let appender = scope.spawn(|| {
            let (mut n, mut refused) = (0, BTreeSet::new());
            while !over.load(Ordering::Relaxed) {
                n += 1;
                let mut file = OpenOptions::new().append(true).open(mount.at("f")).unwrap();
                file.write_all(line("mine", n, n % 50).as_bytes()).unwrap();
                drop(file);
                // So that the remote's versions are shown in between.
                until("it is at the remote, or a letter", || {
                    over.load(Ordering::Relaxed) || mount.number("pendingWriteback") == 0
                });
                // Those that are there now: the next append that arrives settles them.
                if mount.number("pendingWriteback") == 0 {
                    refused.extend(mount.letters().iter().map(|l| l.payload().unwrap()));
                }
            }
            refused
        });
        let began = Instant::now();
        let mut n = 0;
        while began.elapsed() < FOR {
            n += 1;
            server.put("/f", (0..n % 5 + 1).map(|i| line("remote", n, n * (i + 1) * 97 % 2000)).collect::<String>());
        }
        over.store(true, Ordering::Relaxed);
        appender.join().unwrap()
    });
    mount.wait_synced();
    assert!(mount.number("failedWritebacks") > 0, "nothing met anything");
    contents.extend(mount.letters().iter().map(|l| l.payload().unwrap()));
    contents.insert(server.get("/f").unwrap().content);
    for content in contents {
        let content = String::from_utf8(content).unwrap();
        assert_eq!(broken_line(&content), None, "in {content:?}");
    }
}
