//! Everyone sees every change as it happens, through whatever happens to the stream of events.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fuse_tests::{Mount, Options, Server, require, sys, until};

fn read(mount: &Mount, name: &str) -> String {
    fs::read_to_string(mount.at(name)).unwrap_or_default()
}

fn feed(mount: &Mount) -> String {
    mount.state()["eventListener"]["status"].as_str().unwrap_or_default().to_owned()
}

fn streaming(server: &Server) -> Mount {
    let mount = Mount::start(server);
    wait_streaming(&mount);
    mount
}

fn wait_streaming(mount: &Mount) {
    until("the stream is open", || feed(mount) == "streaming");
}

#[test]
fn a_change_shows_much_sooner_than_a_poll_could_tell() {
    let server = Server::start();
    server.put("/f", "0");
    let mount = streaming(&server);
    assert_eq!(read(&mount, "f"), "0");
    let began = Instant::now();
    for n in 1..=20 {
        let content = format!("version {n}, {}", "x".repeat(n * 100));
        server.put("/f", &content);
        until("it shows", || read(&mount, "f") == content);
    }
    assert!(began.elapsed() < Duration::from_secs(5), "20 changes took {:?}: they were polled for", began.elapsed());
}

#[test]
fn own_saves_that_come_back_while_others_wait_are_neither_read_nor_asked_about() {
    let server = Server::start();
    server.put("/f", "0");
    let mount = streaming(&server);
    assert_eq!(read(&mount, "f"), "0");
    for n in 1..=10 {
        fs::write(mount.at("f"), format!("save {n}")).unwrap();
        until("it is at the remote", || server.text("/f") == format!("save {n}"));
    }
    mount.wait_clean();
    let own = mount.log().matches("GET /fs/file \"/f\"").count();
    assert_eq!(own, 1, "only the first read of the file: {}", mount.log());
}

#[test]
fn without_a_stream_the_feed_is_polled_and_status_says_why() {
    let server = Server::start();
    server.refuse_streams();
    let mount = Mount::start(&server);
    until("changes are polled for", || feed(&mount) == "polling");
    server.put("/f", "polled");
    until("a change shows", || read(&mount, "f") == "polled");
    let status = read(&mount, ".relay/status");
    assert!(status.contains("followed by polling (no event stream:") && status.contains("status 404"), "{status}");
    server.clear_faults();
    wait_streaming(&mount);
}

#[test]
fn a_restarted_server_is_followed_on_without_a_remount() {
    let mut server = Server::start();
    server.put("/f", "1");
    let mount = streaming(&server);
    assert_eq!(read(&mount, "f"), "1");
    server.stop();
    until("the mount notices", || feed(&mount) == "offline");
    server.start_again();
    server.put("/f", "2");
    until("a change shows", || read(&mount, "f") == "2");
    wait_streaming(&mount);
    server.put("/f", "3");
    until("the next change shows", || read(&mount, "f") == "3");
}

#[test]
fn a_server_that_has_forgotten_everything_is_compared_and_local_edits_stay() {
    let mut server = Server::start();
    server.seed([("/stays", "same"), ("/goes", "x"), ("/changes", "1")]);
    let mount = Mount::with(&server, Options::never_settle());
    wait_streaming(&mount);
    for name in ["stays", "goes", "changes"] {
        read(&mount, name);
    }
    fs::write(mount.at("mine"), "not sent yet").unwrap();
    server.stop();
    server.start_again_empty();
    server.seed([("/stays", "same"), ("/changes", "2")]);
    until("what changed shows", || read(&mount, "changes") == "2");
    until("what vanished is gone", || !mount.at("goes").exists());
    assert_eq!((read(&mount, "stays"), read(&mount, "mine")), ("same".into(), "not sent yet".into()));
    wait_streaming(&mount);
}

#[test]
fn a_mount_that_slept_while_thousands_of_things_happened_catches_up() {
    let server = Server::start();
    server.put("/f", "before");
    let mount = streaming(&server);
    assert_eq!(read(&mount, "f"), "before");
    sys::signal(mount.pid(), libc::SIGSTOP);
    until("every thread of the mount stands still", || sys::is_stopped(mount.pid()));
    // More than the queue of the server holds for one reader, so that it is cut off.
    for round in 0..50 {
        server.seed((0..100).map(|n| (format!("/many/{n}"), format!("{round} {}", "x".repeat(2000)))));
    }
    server.put("/f", "after");
    sys::signal(mount.pid(), libc::SIGCONT);
    until("the last change shows", || read(&mount, "f") == "after");
    for n in 0..100 {
        assert!(read(&mount, &format!("many/{n}")).starts_with("49 "), "/many/{n} is old");
    }
    wait_streaming(&mount);
}

#[test]
fn a_server_that_stands_still_is_noticed_and_followed_on() {
    let server = Server::start();
    server.put("/f", "1");
    let mount = streaming(&server);
    assert_eq!(read(&mount, "f"), "1");
    server.freeze();
    let noticed = Instant::now() + Duration::from_secs(60);
    while feed(&mount) == "streaming" {
        assert!(Instant::now() < noticed, "a dead stream is taken for a living one");
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(read(&mount, "f"), "1", "what is cached stays readable");
    }
    server.thaw();
    server.put("/f", "2");
    until("a change shows", || read(&mount, "f") == "2");
}

#[test]
fn a_reader_follows_a_file_that_another_mount_appends_to() {
    let server = Server::start();
    server.put("/log", "line 0\n");
    let (writer, reader) = (streaming(&server), streaming(&server));
    let mut open = File::open(reader.at("log")).unwrap();
    let mut seen = String::new();
    open.read_to_string(&mut seen).unwrap();
    let inode = fs::metadata(reader.at("log")).unwrap().ino();
    for n in 1..=5 {
        let mut log = OpenOptions::new().append(true).open(writer.at("log")).unwrap();
        writeln!(log, "line {n}").unwrap();
        drop(log);
        until("the open file grows", || {
            open.read_to_string(&mut seen).unwrap();
            seen.ends_with(&format!("line {n}\n"))
        });
    }
    assert_eq!(seen, (0..=5).map(|n| format!("line {n}\n")).collect::<String>());
    assert_eq!(fs::metadata(reader.at("log")).unwrap().ino(), inode, "the same file all the time");
}

#[test]
fn tail_shows_every_line_once_that_another_mount_appends() {
    require(&["tail"]);
    let server = Server::start();
    server.put("/log", "line 0\n");
    let (writer, reader) = (streaming(&server), streaming(&server));
    let shown = reader.home().join("shown");
    let mut tail = Command::new("tail")
        .args(["-n", "+1", "-s", "0.1", "-F"])
        .arg(reader.at("log"))
        .stdout(File::create(&shown).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = |upto: usize| (0..=upto).map(|n| format!("line {n}\n")).collect::<String>();
    let shows = |n: usize| until(&format!("tail shows line {n}"), || fs::read_to_string(&shown).unwrap() == lines(n));
    shows(0);
    for n in 1..=8 {
        let mut log = OpenOptions::new().append(true).open(writer.at("log")).unwrap();
        writeln!(log, "line {n}").unwrap();
        drop(log);
        shows(n);
    }
    tail.kill().unwrap();
    tail.wait().unwrap();
}

#[test]
fn five_mounts_that_write_different_files_converge_within_a_second_of_the_last_save() {
    let server = Server::start();
    server.put("/start", "");
    let mounts: Vec<Mount> = (0..5).map(|_| streaming(&server)).collect();
    std::thread::scope(|scope| {
        for (who, mount) in mounts.iter().enumerate() {
            scope.spawn(move || {
                for n in 0..20 {
                    fs::create_dir_all(mount.at("shared")).unwrap();
                    fs::write(mount.at(&format!("shared/{who}-{n}")), format!("{who} {n}")).unwrap();
                }
            });
        }
    });
    mounts.iter().for_each(|m| m.wait_clean());
    let acknowledged = Instant::now();
    let whole: BTreeSet<String> = (0..5).flat_map(|w| (0..20).map(move |n| format!("{w}-{n}"))).collect();
    for mount in &mounts {
        until("every file of every mount shows", || {
            let there: BTreeSet<String> =
                fs::read_dir(mount.at("shared")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            there == whole
        });
    }
    let took = acknowledged.elapsed();
    for mount in &mounts {
        for name in &whole {
            assert_eq!(read(mount, &format!("shared/{name}")), name.replace('-', " "));
        }
    }
    assert!(took < Duration::from_secs(2), "it took {took:?} after the last acknowledgement");
}

#[test]
fn five_mounts_that_write_one_file_end_with_one_content_and_lose_none() {
    let server = Server::start();
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    server.put("/f", "the beginning\n");
    let mounts: Vec<Mount> = (0..5).map(|_| streaming(&server)).collect();
    mounts.iter().for_each(|m| drop(read(m, "f")));
    std::thread::scope(|scope| {
        for (who, mount) in mounts.iter().enumerate() {
            scope.spawn(move || {
                let mut pauses = fuse_tests::noise(8, seed + who as u64).into_iter();
                for n in 0..8 {
                    // The interleaving is what is tested, so it is random.
                    std::thread::sleep(Duration::from_millis(u64::from(pauses.next().unwrap())));
                    fs::write(mount.at("f"), format!("mount {who} save {n}\n")).unwrap();
                }
            });
        }
    });
    mounts.iter().for_each(|m| m.wait_synced());
    let last = server.text("/f");
    for mount in &mounts {
        until("every mount shows what the remote has", || read(mount, "f") == last);
    }
    // What each mount saved last is at the remote, in its history, or in a letter; earlier saves may have been replaced by it.
    for (who, mount) in mounts.iter().enumerate() {
        let content = format!("mount {who} save 7\n");
        let letter = mount.letters().iter().any(|l| l.payload().is_ok_and(|p| p == content.as_bytes()));
        assert!(letter || server.had("/f", content.as_bytes()), "{content:?} is nowhere (seed {seed})");
    }
}

/// What inotify(7) tells of a path until `wanted` has been told.
fn told(path: &std::path::Path, wanted: u32, act: impl FnOnce()) -> Vec<(u32, String)> {
    use std::os::fd::FromRawFd;
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: the calls take a path that ends with NUL, and return a new descriptor that the File owns.
    let mut inotify = unsafe {
        let fd = libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC);
        assert!(fd >= 0 && libc::inotify_add_watch(fd, name.as_ptr(), libc::IN_ATTRIB | libc::IN_MODIFY) >= 0);
        File::from_raw_fd(fd)
    };
    act();
    let mut events = Vec::new();
    until("the watcher is told", || {
        let mut buffer = [0; 4096];
        if let Ok(n) = inotify.read(&mut buffer) {
            let mut rest = &buffer[..n];
            while rest.len() >= 16 {
                let word = |i: usize| u32::from_ne_bytes(rest[i..i + 4].try_into().unwrap());
                let (mask, length) = (word(4), word(12) as usize);
                let name = String::from_utf8_lossy(&rest[16..16 + length]).trim_end_matches('\0').to_owned();
                events.push((mask, name));
                rest = &rest[16 + length..];
            }
        }
        events.iter().any(|(mask, _)| mask & wanted != 0)
    });
    events
}

#[test]
fn programs_that_watch_a_file_are_told_of_remote_changes() {
    let server = Server::start();
    server.put("/d/f", "1");
    let mount = streaming(&server);
    assert_eq!(read(&mount, "d/f"), "1");
    let before = fs::metadata(mount.at("d/f")).unwrap().mtime();
    told(&mount.at("d/f"), libc::IN_MODIFY, || drop(server.put("/d/f", "2, longer")));
    until("it shows", || read(&mount, "d/f") == "2, longer");
    let told_of = told(&mount.at("d"), libc::IN_ATTRIB, || drop(server.put("/d/f", "3")));
    assert!(told_of.iter().any(|(_, name)| name == "f"), "{told_of:?}");
    let told_of = told(&mount.at("d"), libc::IN_ATTRIB, || drop(server.put("/d/new", "x")));
    assert!(told_of.iter().any(|(_, name)| name == "new"), "{told_of:?}");
    assert!(fs::metadata(mount.at("d/f")).unwrap().mtime() >= before);
    mount.wait_clean();
    assert_eq!(server.history("/d/f").len(), 3, "waking watchers is no change");
}

#[test]
fn watchers_are_left_alone_when_that_is_asked_for() {
    let server = Server::start();
    server.put("/f", "1");
    let mount = Mount::with(&server, Options::default().flag("--no-watch-events"));
    wait_streaming(&mount);
    assert_eq!(read(&mount, "f"), "1");
    let told_of = told(&mount.at("f"), libc::IN_MODIFY, || {
        server.put("/f", "two");
        // Without opening it: an open file would get a new inode, which nobody watches.
        until("it shows", || fs::metadata(mount.at("f")).unwrap().len() == 3);
        // A change through the mount is told in any case, and after whatever came before.
        OpenOptions::new().append(true).open(mount.at("f")).unwrap().write_all(b"!").unwrap();
    });
    assert_eq!(told_of.iter().filter(|(mask, _)| mask & libc::IN_ATTRIB != 0).count(), 0, "{told_of:?}");
}

#[test]
fn a_killed_mount_leaves_no_process_behind_while_watchers_are_being_woken() {
    let server = Server::start();
    server.seed((0..200).map(|n| (format!("/{n}"), "x".to_owned())));
    let mut mount = streaming(&server);
    (0..200).for_each(|n| drop(read(&mount, &n.to_string())));
    let children = || {
        let file = format!("/proc/{0}/task/{0}/children", mount.pid());
        fs::read_to_string(file).unwrap().split_whitespace().map(|p| p.parse().unwrap()).collect::<Vec<u32>>()
    };
    let helpers = children();
    assert_eq!(helpers.len(), 1, "the helper that wakes watchers");
    for round in 0..3 {
        server.seed((0..200).map(|n| (format!("/{n}"), round.to_string())));
    }
    mount.kill9();
    until("the helper has ended", || !std::path::Path::new(&format!("/proc/{}", helpers[0])).exists());
    mount.detach();
    mount.start_again();
    until("the last change shows", || read(&mount, "199") == "2");
}

#[test]
fn one_path_that_the_remote_cannot_tell_about_holds_nobody_up() {
    let server = Server::start();
    server.seed([("/bad", "1"), ("/good", "1")]);
    let mount = streaming(&server);
    assert_eq!((read(&mount, "bad"), read(&mount, "good")), ("1".into(), "1".into()));
    server.fault(serde_json::json!({ "method": "GET", "file_path": "/bad", "status": 500 }));
    // Heard of while somebody has it open for writing; asked about when that ends.
    let writer = OpenOptions::new().write(true).open(mount.at("bad")).unwrap();
    server.put("/bad", "2");
    server.put("/good", "2");
    until("the mount has heard of both", || read(&mount, "good") == "2");
    drop(writer);
    until("it was asked about", || server.fault_hits() > 0);
    fs::write(mount.at("mine"), "sent").unwrap();
    until("a save arrives", || server.get("/mine").is_some_and(|f| f.content == b"sent"));
    server.put("/good", "3");
    until("changes of others show", || read(&mount, "good") == "3");
    assert_eq!(feed(&mount), "streaming");
    server.clear_faults();
    until("the path follows", || read(&mount, "bad") == "2");
}

#[test]
fn waking_watchers_fetches_nothing() {
    let server = Server::start();
    server.put("/d/f", "1234");
    let mount = streaming(&server);
    assert_eq!(fs::read_dir(mount.at("d")).unwrap().count(), 1);
    for n in 0..20 {
        // A length that a listing cannot tell from base64, so that its size would have to be fetched.
        server.seed([(format!("/d/new-{n}"), "12345678")]);
    }
    let told_of = told(&mount.at("d"), libc::IN_ATTRIB, || drop(server.put("/d/last", "1234")));
    assert!(!told_of.is_empty());
    assert!(!mount.log().contains("GET /fs/file"), "{}", mount.log());
}

#[test]
fn a_token_for_one_directory_follows_that_directory_as_it_happens() {
    let mut server = Server::start();
    server.seed([("/m/f", "1"), ("/other/f", "x")]);
    let mut mount = Mount::unstarted(&server, Options::default().flag("--remote-path").flag("/m"));
    let token = mount.home().join("scoped-token");
    let scopes = ["relayfile:fs:read:/m/**", "relayfile:fs:write:/m/**"];
    fs::write(&token, server.token_for("bob", &scopes)).unwrap();
    mount.set_token_file(&token);
    mount.start_again();
    wait_streaming(&mount);
    assert_eq!(read(&mount, "f"), "1");
    for n in 2..12 {
        server.put("/other/f", n.to_string());
        server.put("/m/f", n.to_string());
        until("a change shows", || read(&mount, "f") == n.to_string());
    }
    fs::write(mount.at("mine"), "sent").unwrap();
    mount.wait_clean();
    assert_eq!(server.text("/m/mine"), "sent");
    // What happens while it is not connected is found by listing.
    server.stop();
    until("the mount notices", || feed(&mount) == "offline");
    server.start_again();
    server.put("/m/f", "while away");
    server.put("/m/new", "new");
    server.delete("/m/mine");
    until("all of it shows", || read(&mount, "f") == "while away" && read(&mount, "new") == "new" && !mount.at("mine").exists());
    wait_streaming(&mount);
    server.put("/m/f", "and on");
    until("the next change shows", || read(&mount, "f") == "and on");
}
