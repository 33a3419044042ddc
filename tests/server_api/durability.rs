//! What was acknowledged is there: after kill -9, after a restart, whoever asks.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relayfile::server::{ServerConfig, ServerError, start};

use crate::{Client, Server, wait_until};

/// The server of [`every_acknowledged_write_survives_kill_9`], in a process of its own; does nothing by itself.
#[test]
#[ignore = "run by another test, as a child process"]
fn child_server() {
    if let Ok(dir) = std::env::var("RELAYFILE_TEST_CHILD") {
        relayfile::server::serve_until_signal(ServerConfig::new(dir)).expect("serves");
    }
}

struct Process(Child);

impl Process {
    fn start(dir: &std::path::Path) -> Process {
        let _ = std::fs::remove_file(dir.join("url"));
        let child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "durability::child_server", "--ignored", "--nocapture"])
            .env("RELAYFILE_TEST_CHILD", dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the child starts");
        let process = Process(child);
        wait_until("the child's address", || dir.join("url").exists());
        process
    }

    /// SIGKILL.
    fn kill(&mut self) {
        self.0.kill().expect("kills");
        self.0.wait().expect("ends");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn client(dir: &std::path::Path) -> Client {
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap_or_default().trim().to_owned();
    Client::new(&read("url"), &read("token"))
}

#[test]
fn every_acknowledged_write_survives_kill_9() {
    let temp = tempfile::tempdir().expect("temporary directory");
    let dir = temp.path().join("data");
    let acknowledged = Arc::new(Mutex::new(Vec::<(String, String)>::new()));
    for round in 0..3 {
        let mut server = Process::start(&dir);
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let (client, stop, acknowledged) = (client(&dir), stop.clone(), acknowledged.clone());
                std::thread::spawn(move || {
                    for n in 0.. {
                        let path = format!("/r{round}/w{writer}/{n}");
                        let target = format!("/v1/workspaces/w/fs/file?path={path}");
                        match client.try_send("PUT", &target, &[("If-Match", "0")], r#"{"content":"x"}"#) {
                            Ok(answer) if answer.status == 202 => {
                                let revision = answer.json()["targetRevision"].as_str().unwrap_or("").to_owned();
                                acknowledged.lock().expect("no panic").push((path, revision));
                            }
                            _ => return,
                        }
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                    }
                })
            })
            .collect();
        let before = acknowledged.lock().expect("no panic").len();
        wait_until("some writes", || acknowledged.lock().expect("no panic").len() > before + 300);
        server.kill();
        stop.store(true, Ordering::Relaxed);
        writers.into_iter().for_each(|w| w.join().expect("the writer ends"));
    }

    let _server = Process::start(&dir);
    let client = client(&dir);
    let acknowledged = acknowledged.lock().expect("no panic");
    let mut revisions = std::collections::HashSet::new();
    for (path, revision) in acknowledged.iter() {
        assert_eq!(client.get(&format!("/fs/file?path={path}"))["revision"], *revision, "{path}");
        assert!(revisions.insert(revision), "{revision} was given twice");
    }
    println!("{} acknowledged writes over 3 kills, none lost", acknowledged.len());
}

#[test]
fn a_second_server_on_the_directory_is_told_where_the_first_is() {
    let server = Server::start();
    match start(ServerConfig::new(server.handle.data_dir())) {
        Err(ServerError::InUse { url }) => assert_eq!(url, server.handle.url()),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("two servers on one directory"),
    }
}

#[test]
fn a_restart_keeps_the_token_the_files_and_the_numbers() {
    let server = Server::start();
    let (token, dir) = (server.handle.token().to_owned(), server.handle.data_dir().to_owned());
    server.client().put("/f", "0", "kept");
    let Server { handle, dir: _temp, .. } = server;
    handle.shutdown();
    assert!(!dir.join("url").exists(), "the address goes with the server");

    let started = std::time::Instant::now();
    let handle = start(ServerConfig::new(&dir)).expect("starts again");
    println!("started on existing data in {:?}", started.elapsed());
    assert_eq!(handle.token(), token);
    let client = Client::new(handle.url(), &token);
    assert_eq!(client.get("/fs/file?path=/f")["content"], "kept");
    assert_eq!(client.put("/g", "0", "x").json()["targetRevision"], "rev_2");
    assert_eq!(client.get("/fs/events")["events"][1]["eventId"], "evt_2");
    for name in ["token", "jwt-secret"] {
        let mode = std::fs::metadata(dir.join(name)).expect("exists").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(std::fs::metadata(&dir).expect("exists").permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_stop_ends_idle_connections_at_once() {
    let server = Server::start();
    let client = server.client();
    client.get("/fs/tree");
    let started = std::time::Instant::now();
    let Server { handle, .. } = server;
    handle.shutdown();
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}
