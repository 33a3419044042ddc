//! `relayfile watch`: every change of a live mount as a line, for people and for programs that want to be woken.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use fuse_tests::{Mount, Options, PATIENCE, Server, eventually, output, sys, until};
use serde_json::{Value, json};

/// A running `relayfile watch`. Dropping it ends it.
struct Watch {
    process: Child,
    lines: Receiver<String>,
    said: Receiver<String>,
}

fn lines_of(stream: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (send, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

impl Watch {
    /// Starts it and waits until it has begun.
    #[track_caller]
    fn start(command: &mut Command) -> Watch {
        sys::die_with_parent(command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("relayfile watch starts");
        let (lines, said) = (lines_of(process.stdout.take().unwrap()), lines_of(process.stderr.take().unwrap()));
        let watch = Watch { process, lines, said };
        let first = watch.said.recv_timeout(PATIENCE).expect("it says that it has begun");
        assert!(first.starts_with("watching "), "{first}");
        watch
    }

    #[track_caller]
    fn json(mount: &Mount, args: &[&str]) -> Watch {
        Watch::start(mount.relayfile().args(["watch", "--json"]).arg(mount.path()).args(args))
    }

    #[track_caller]
    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line")
    }

    #[track_caller]
    fn next(&self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line}: {e}"))
    }

    /// The next change must be this event at this path.
    #[track_caller]
    fn expect(&self, event: &str, origin: &str, path: &str) -> Value {
        let change = self.next();
        assert_eq!(
            (&change["event"], &change["origin"], &change["path"]),
            (&event.into(), &origin.into(), &path.into()),
            "{change}"
        );
        change
    }

    #[track_caller]
    fn ended(&mut self) -> ExitStatus {
        eventually("the watch ends", || self.process.try_wait().unwrap())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn changes_of_the_remote_are_told_with_their_revision_and_their_writer() {
    let server = Server::start();
    server.seed([("/known", "before")]);
    let mount = Mount::start(&server);
    let watch = Watch::json(&mount, &[]);

    let revision = server.put("/d/new", "one");
    let created = watch.expect("created", "remote", "/d/new");
    assert_eq!(created["revision"], revision.as_str(), "{created}");
    assert_eq!(created["correlationId"], "somebody-else", "{created}");
    assert_eq!(created["localPath"], mount.at("d/new").to_str().unwrap());
    assert!(created["time"].as_str().unwrap().ends_with('Z') && created.get("opId").is_none(), "{created}");
    server.put("/known", "after");
    watch.expect("updated", "remote", "/known");
    server.delete("/d/new");
    watch.expect("deleted", "remote", "/d/new");
    // It is there when it is told.
    assert_eq!(fs::read_to_string(mount.at("known")).unwrap(), "after");
    assert!(!mount.at("d").exists());
}

#[test]
fn a_save_is_told_and_then_that_it_has_arrived() {
    let server = Server::start();
    let mount = Mount::start(&server);
    let watch = Watch::json(&mount, &[]);

    fs::write(mount.at("f"), "one").unwrap();
    let saved = watch.expect("created", "local", "/f");
    let arrived = watch.expect("acknowledged", "local", "/f");
    assert_eq!(saved["opId"], arrived["opId"], "{saved} {arrived}");
    assert_eq!(arrived["revision"], server.get("/f").unwrap().revision.as_str());
    fs::write(mount.at("f"), "two").unwrap();
    watch.expect("updated", "local", "/f");
    watch.expect("acknowledged", "local", "/f");
    fs::rename(mount.at("f"), mount.at("g")).unwrap();
    let renamed = watch.expect("renamed", "local", "/g");
    assert_eq!((&renamed["from"], &renamed["localFrom"]), (&json!("/f"), &json!(mount.at("f"))));
    watch.expect("acknowledged", "local", "/g");
    watch.expect("acknowledged", "local", "/f");
    fs::remove_file(mount.at("g")).unwrap();
    watch.expect("deleted", "local", "/g");
    watch.expect("acknowledged", "local", "/g");
    // What stays here is no news, and our own writes that come back are none either.
    fs::create_dir(mount.at(".git")).unwrap();
    fs::write(mount.at(".git/HEAD"), "ref").unwrap();
    fs::write(mount.at("last"), "").unwrap();
    watch.expect("created", "local", "/last");
}

#[test]
fn what_became_of_a_refused_save_is_told() {
    let server = Server::start();
    let mount = Mount::start(&server);
    server.fault(json!({ "file_path": "/f", "method": "PUT", "times": 2, "status": 400, "message": "schema says no" }));
    let watch = Watch::json(&mount, &["--event", "dead", "--event", "retried", "--event", "discarded"]);

    fs::write(mount.at("f"), "one").unwrap();
    let dead = watch.expect("dead", "local", "/f");
    assert_eq!(dead["message"], "schema says no", "{dead}");
    let op = dead["opId"].as_str().unwrap();
    mount.writeback_ends_with(&["retry", "--opId", op], 0);
    assert_eq!(watch.expect("retried", "local", "/f")["opId"], op);
    watch.expect("dead", "local", "/f");
    mount.writeback_ends_with(&["discard", op, "--yes"], 0);
    assert_eq!(watch.expect("discarded", "local", "/f")["opId"], op);
}

#[test]
fn only_what_was_asked_for_is_told_from_wherever_it_is_asked() {
    let server = Server::start();
    server.seed([("/docs/a", "1"), ("/docs-2/b", "1"), ("/src/c", "1")]);
    let mount = Mount::start(&server);
    let inside = |args: &[&str]| {
        let mut command = mount.relayfile();
        command.args(["watch", "--json"]).args(args).current_dir(mount.at("docs"));
        Watch::start(&mut command)
    };
    let absolute = mount.at("docs");
    let mut outside = mount.relayfile();
    outside.args(["watch", "--json"]).arg(&absolute);
    let watches = [
        Watch::json(&mount, &["docs"]),
        Watch::json(&mount, &["docs/", "nothing-there"]),
        inside(&["."]),
        inside(&["a"]),
        inside(&[mount.path().to_str().unwrap(), "../docs/a"]),
        Watch::start(&mut outside),
    ];
    server.put("/src/c", "2");
    server.put("/docs-2/b", "2");
    server.put("/docs/a", "2");
    for watch in &watches {
        watch.expect("updated", "remote", "/docs/a");
    }
    // A directory above it moves.
    fs::rename(mount.at("docs"), mount.at("moved")).unwrap();
    assert_eq!(watches[3].expect("renamed", "local", "/moved")["from"], "/docs");
}

#[test]
fn once_ends_with_the_first_change_and_a_timeout_with_a_code_of_its_own() {
    let server = Server::start();
    server.put("/inbox/a", "1");
    let mount = Mount::start(&server);
    let mut watch = Watch::json(&mount, &["-1", "inbox"]);
    let mut saved = Watch::json(&mount, &["--once", "--event=acknowledged", "--timeout=60s", "f"]);
    fs::write(mount.at("f"), "saved").unwrap();
    saved.expect("acknowledged", "local", "/f");
    assert_eq!(saved.ended().code(), Some(0));
    assert_eq!(server.text("/f"), "saved");
    server.put("/inbox/b", "1");
    watch.expect("created", "remote", "/inbox/b");
    assert_eq!(watch.ended().code(), Some(0));
    assert!(watch.lines.recv().is_err(), "there is more than one line");

    let done = output(mount.relayfile().args(["watch", "-1", "--timeout", "50ms"]).arg(mount.path()));
    assert_eq!((done.status.code(), done.stdout.len()), (Some(4), 0));
}

#[test]
fn people_get_one_line_for_each_change() {
    let server = Server::start();
    let mount = Mount::start(&server);
    let watch = Watch::start(mount.relayfile().args(["watch", "--event", "renamed", "--event", "created"]).arg(mount.path()));
    fs::write(mount.at("a"), "1").unwrap();
    fs::rename(mount.at("a"), mount.at("b")).unwrap();
    let (created, renamed) = (watch.line(), watch.line());
    assert!(created.contains("Z  created       local   /a  op_"), "{created}");
    assert!(renamed.contains("Z  renamed       local   /a -> /b"), "{renamed}");
}

#[test]
fn a_watch_that_stands_still_loses_changes_and_holds_nobody_up() {
    let server = Server::start();
    let mount = Mount::start(&server);
    let watch = Watch::json(&mount, &[]);
    sys::signal(watch.process.id(), libc::SIGSTOP);
    until("the watch stands still", || sys::is_stopped(watch.process.id()));

    let many = 8000;
    server.seed((0..many).map(|i| (format!("/many/{i}"), "x")));
    until("the mount has seen them all", || mount.number("filesKnown") == many);
    sys::signal(watch.process.id(), libc::SIGCONT);

    let mut told = 0;
    loop {
        match watch.next()["event"].as_str().unwrap() {
            "created" => told += 1,
            other => break assert_eq!(other, "overflow"),
        }
    }
    assert!((4096..many).contains(&told), "{told} of {many} were told");
    fs::write(mount.at("later"), "").unwrap();
    watch.expect("created", "local", "/later");
}

#[test]
fn the_end_of_the_mount_ends_the_watch() {
    let server = Server::start();
    let mut mount = Mount::with(&server, Options::never_settle());
    let mut watch = Watch::json(&mount, &[]);
    fs::write(mount.at("f"), "sent on unmount").unwrap();
    watch.expect("created", "local", "/f");
    assert_eq!(mount.unmount(), 0);
    watch.expect("acknowledged", "local", "/f");
    assert_eq!(watch.next()["event"], "unmounted");
    assert_eq!(watch.ended().code(), Some(1));
    assert!(watch.said.recv_timeout(PATIENCE).unwrap().contains("has been unmounted"));

    mount.start_again();
    let mut watch = Watch::json(&mount, &[]);
    mount.kill9();
    assert_eq!(watch.ended().code(), Some(1));
    assert!(watch.said.recv_timeout(PATIENCE).unwrap().contains("its process has died"));
    let done = output(mount.relayfile().arg("watch").arg(mount.path()));
    assert_eq!(done.status.code(), Some(3), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn a_reader_that_goes_away_ends_the_watch_and_so_does_ctrl_c() {
    let server = Server::start();
    let mount = Mount::start(&server);
    let mut command = mount.relayfile();
    command.args(["watch", "--json"]).arg(mount.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null());
    sys::die_with_parent(&mut command);
    let mut process = command.spawn().unwrap();
    let said = lines_of(process.stderr.take().unwrap());
    said.recv_timeout(PATIENCE).expect("it has begun");
    drop(process.stdout.take());
    assert_eq!(eventually("it ends without a change", || process.try_wait().unwrap()).code(), Some(0));
    assert_eq!(said.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected), "it says nothing");

    let mut watch = Watch::json(&mount, &[]);
    sys::signal(watch.process.id(), libc::SIGINT);
    assert_eq!(watch.ended().signal(), Some(libc::SIGINT));
    assert!(watch.said.recv_timeout(PATIENCE).is_err(), "it says nothing");
}

#[test]
fn what_cannot_be_watched_is_refused() {
    let server = Server::start();
    let mount = Mount::start(&server);
    let ends_with = |args: &[&Path], code: i32, words: &str| {
        let done = output(mount.relayfile().arg("watch").args(args));
        let text = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(code), "{text}");
        assert!(text.contains(words), "{text}");
    };
    ends_with(&[&mount.path(), Path::new("/etc/passwd")], 2, "is not in the mount");
    // Others test beside this one: there is more than one mount.
    let other = Mount::start(&server);
    ends_with(&[], 2, other.path().to_str().unwrap());
}
