//! A remote may hold anything as a name. What cannot be a file here is hidden, counted and harmless; the rest works.

use std::fs;

use fuse_tests::{Mount, Server, noise, sh, until};
use serde_json::json;

/// Each of these can exist at the remote and none can be shown.
fn impossible() -> Vec<String> {
    let long = "n".repeat(300);
    ["/../escape", "/a/../../b", "/x/./y", "/double//slash", "/nul\0byte", "/", "/.relay/x", "/.relay", "/.."]
        .map(str::to_owned)
        .into_iter()
        .chain([format!("/{long}"), format!("/dir/{long}/f"), format!("/{}", "d/".repeat(2100) + "deep")])
        .collect()
}

fn mounted_with_hostile_names() -> (Server, Mount) {
    let server = Server::start();
    for name in impossible() {
        server.put(&name, "hostile");
    }
    server.seed([("/good.txt", "good"), ("/dir/good.txt", "also good")]);
    let mount = Mount::start(&server);
    (server, mount)
}

fn files(mount: &Mount) -> String {
    sh(&mount.path(), "find . -path ./.relay -prune -o -type f -print | sort")
}

/// Each of the impossible names that the remote's own listing shows is counted, and named in the log.
#[track_caller]
fn assert_all_counted(server: &Server, mount: &Mount) {
    let listed: Vec<_> = server.paths().into_iter().filter(|path| impossible().contains(path)).collect();
    assert!(listed.len() >= 10, "{listed:?}");
    let log = mount.log();
    for path in &listed {
        let shown: String = path.chars().take(200).collect();
        assert!(log.contains(&format!("hidden: the remote has {shown:?}")), "nothing in the log about {path:?}");
    }
    assert!(mount.number("hiddenNames") >= listed.len() as u64, "{} of {}", mount.number("hiddenNames"), listed.len());
}

#[test]
fn impossible_names_are_hidden_and_do_not_disturb_the_others() {
    let (server, mount) = mounted_with_hostile_names();
    assert_eq!(files(&mount), "./dir/good.txt\n./good.txt\n");
    assert_eq!(sh(&mount.path(), "ls -A dir"), "good.txt\n");
    assert_eq!(
        sh(&mount.path(), "ls .relay"),
        "README\nconflicts\ndead-letter\nlog\nmetrics\npending\nretry\nstate.json\nstatus\n"
    );
    fs::write(mount.at("good.txt"), "edited").unwrap();
    fs::write(mount.at("dir/new.txt"), "new").unwrap();
    mount.wait_clean();
    assert_eq!((server.text("/good.txt").as_str(), server.text("/dir/new.txt").as_str()), ("edited", "new"));
    for name in impossible() {
        assert_eq!(server.text(&name), "hostile", "{name:?} is none of our business");
    }
}

#[test]
fn impossible_names_are_counted_and_said_in_the_log() {
    let (server, mount) = mounted_with_hostile_names();
    assert_all_counted(&server, &mount);
    let status = fs::read_to_string(mount.at(".relay/status")).unwrap();
    assert!(status.contains("names of the remote that cannot be a file name here"), "{status}");
}

#[test]
fn nothing_of_an_impossible_name_is_written_outside_the_mount() {
    let (_server, mount) = mounted_with_hostile_names();
    sh(&mount.path(), "find . -type f -exec cat {} + > /dev/null");
    let around: Vec<_> = fs::read_dir(mount.home()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(around.iter().all(|name| ["ws", "state", "mount.log"].contains(&name.to_str().unwrap())), "{around:?}");
    assert!(!mount.home().with_file_name("escape").exists());
}

#[test]
fn impossible_names_that_come_as_events_are_hidden_as_well() {
    let server = Server::start();
    let mount = Mount::start(&server);
    for name in impossible() {
        server.put(&name, "hostile");
    }
    server.put("/marker", "x");
    until("the marker is seen", || mount.at("marker").exists());
    assert_eq!(files(&mount), "./marker\n");
    for name in impossible() {
        server.delete(&name);
    }
    server.put("/marker2", "x");
    until("the second marker is seen", || mount.at("marker2").exists());
    assert_eq!(files(&mount), "./marker\n./marker2\n");
}

#[test]
fn impossible_names_that_come_as_events_are_counted_as_well() {
    let server = Server::start();
    let mount = Mount::start(&server);
    for name in impossible() {
        server.put(&name, "hostile");
    }
    server.put("/marker", "x");
    until("the marker is seen", || mount.at("marker").exists());
    assert_all_counted(&server, &mount);
}

#[test]
fn hidden_names_are_still_counted_after_a_remount() {
    let (_server, mut mount) = mounted_with_hostile_names();
    let before = mount.number("hiddenNames");
    mount.remount();
    assert_eq!(mount.number("hiddenNames"), before);
}

#[test]
fn of_a_file_and_a_directory_of_one_name_the_directory_is_shown() {
    let server = Server::start();
    server.seed([("/both", "the file"), ("/both/below", "below"), ("/other", "x")]);
    let mount = Mount::start(&server);
    assert_eq!(sh(&mount.path(), "ls; ls both; cat both/below"), "both\nother\nbelow\nbelow");
    assert_eq!(mount.number("hiddenNames"), 1);
    fs::write(mount.at("both/below"), "edited").unwrap();
    fs::write(mount.at("both/new"), "new").unwrap();
    mount.wait_clean();
    assert_eq!((server.text("/both").as_str(), server.text("/both/below").as_str()), ("the file", "edited"));
}

#[test]
fn a_file_that_becomes_a_directory_and_back_is_followed() {
    let server = Server::start();
    server.put("/thing", "file");
    let mount = Mount::start(&server);
    server.delete("/thing");
    server.put("/thing/below", "x");
    until("it is a directory", || mount.at("thing/below").is_file());
    server.delete("/thing/below");
    server.put("/thing", "a file again");
    until("it is a file", || fs::read_to_string(mount.at("thing")).is_ok_and(|t| t == "a file again"));
}

#[test]
fn control_characters_of_the_remote_do_not_reach_a_terminal_through_the_status() {
    let server = Server::start();
    let mount = Mount::start(&server);
    server.fault(json!({ "method": "PUT", "times": 1, "status": 400, "message": "\u{1b}[2Jgone\u{7}" }));
    fs::write(mount.at("f"), "x").unwrap();
    mount.wait_number("deadLettered", 1);
    let status = fs::read_to_string(mount.at(".relay/status")).unwrap();
    assert!(!status.chars().any(|c| c.is_control() && c != '\n'), "{status:?}");
}

#[test]
fn a_read_that_the_remote_breaks_off_is_an_error_and_not_a_short_file() {
    let server = Server::start();
    let content = noise(50_000, 9);
    server.put("/f", &content);
    let mount = Mount::start(&server);
    server.fault(json!({ "method": "GET", "path_prefix": "/fs/file", "cut_body": 1000 }));
    // It may be tried again within the read, so that the rule stays until the read has failed.
    assert!(fs::read(mount.at("f")).is_err());
    server.clear_faults();
    until("it is whole afterwards", || fs::read(mount.at("f")).is_ok_and(|c| c == content));
}
