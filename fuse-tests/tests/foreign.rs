//! Something in front of the remote answers: a gateway while the remote is deployed anew, a captive portal, another program. Only an
//! answer in the API's own form is the remote's word; every other one is as none.

use std::fs;

use fuse_tests::{Mount, Server, until};
use serde_json::json;

const PAGE: &str = "<html><body>Sign in to the network</body></html>";

/// Each of these was once taken for the remote's word: "there is no such file", "there are no files", "refused", "done".
const ANSWERS: [(u16, &str); 9] = [
    (404, PAGE),
    (403, PAGE),
    (400, PAGE),
    (405, PAGE),
    (409, PAGE),
    (502, PAGE),
    (200, r#"{"status":"ok"}"#),
    (200, ""),
    (204, ""),
];

fn content(mount: &Mount, name: &str) -> String {
    fs::read_to_string(mount.at(name)).unwrap()
}

#[test]
fn an_answer_that_is_not_the_remotes_is_none_whatever_it_says() {
    for (status, body) in ANSWERS {
        let server = Server::start();
        server.seed([("/cached", "1"), ("/edited", "1"), ("/removed", "1"), ("/never-read", "1")]);
        let mount = Mount::start(&server);
        assert_eq!(content(&mount, "cached"), "1");
        server.fault(json!({ "status": status, "body": body }));
        fs::write(mount.at("edited"), "2").unwrap();
        fs::write(mount.at("new"), "1").unwrap();
        fs::remove_file(mount.at("removed")).unwrap();
        until("it was asked", || server.fault_hits() > 0);
        let read = fs::read(mount.at("never-read")).unwrap_err();
        assert_eq!(read.raw_os_error(), Some(libc::EIO), "{status} {body}");
        until("status says whose answer it was", || mount.state().to_string().contains("is not from a relayfile server"));
        server.clear_faults();
        mount.wait_clean();
        assert_eq!(server.paths(), ["/cached", "/edited", "/never-read", "/new"], "{status} {body}");
        assert_eq!((server.text("/edited").as_str(), server.text("/new").as_str()), ("2", "1"), "{status} {body}");
        let shown: Vec<_> = ["cached", "edited", "new"].map(|name| content(&mount, name)).into();
        assert_eq!(shown, ["1", "2", "1"], "{status} {body}");
        until("what could not be read can be", || fs::read(mount.at("never-read")).is_ok_and(|bytes| bytes == b"1"));
        assert_eq!((mount.letters().len(), mount.number("failedWritebacks")), (0, 0), "{status} {body}");
    }
}

#[test]
fn a_filter_that_takes_offence_at_one_file_holds_up_no_other() {
    let server = Server::start();
    let mount = Mount::start(&server);
    server.fault(json!({ "file_path": "/offensive", "status": 403, "body": PAGE }));
    fs::write(mount.at("offensive"), "x").unwrap();
    until("it was refused", || server.fault_hits() > 0);
    for n in 0..5 {
        fs::write(mount.at(&format!("{n}")), "x").unwrap();
        until("another file arrives", || server.get(&format!("/{n}")).is_some());
    }
    assert_eq!(mount.letters().len(), 0);
    server.clear_faults();
    until("it arrives as well", || server.get("/offensive").is_some());
}

#[test]
fn a_listing_that_is_not_the_remotes_takes_no_file_away() {
    let server = Server::start();
    server.seed([("/a", "1"), ("/d/b", "1")]);
    let mut mount = Mount::start(&server);
    assert_eq!(content(&mount, "d/b"), "1");
    mount.kill9();
    server.fault(json!({ "path_prefix": "/fs/tree", "status": 200, "body": r#"{"status":"ok"}"# }));
    server.fault(json!({ "path_prefix": "/fs/events", "status": 200, "body": r#"{"status":"ok"}"# }));
    mount.allow_offline();
    mount.start_again();
    until("it was asked", || server.fault_hits() > 2);
    assert_eq!((content(&mount, "d/b"), fs::read_dir(mount.path()).unwrap().count()), ("1".to_owned(), 3));
    server.clear_faults();
    server.put("/a", "2");
    until("it follows again", || content(&mount, "a") == "2");
}
