//! Trees, events and exports, page by page.

use super::*;

#[test]
fn a_tree_tells_files_directories_and_what_is_hidden() {
    let hash = "525eca1d5089dbdcbb6700d910c5e0bc23fbaa23ee026c0e224c2b45490e5f29";
    let body = serde_json::json!({"path": "/", "nextCursor": "/sp ace", "totalFiles": 6, "entries": [
        {"path": "/", "type": "file", "revision": "rev_15"},
        {"path": "/a\u{0}b", "type": "file", "revision": "rev_17", "size": 1},
        {"path": "/dir", "type": "dir", "revision": "dir"},
        {"path": "/dir/a.txt", "type": "file", "revision": "rev_4", "contentHash": hash, "provider": "dir", "size": 4,
         "updatedAt": "2026-11-21T04:02:44.998587102Z", "propertyCount": 2},
        {"path": "/dir/noct.txt", "type": "file", "revision": "rev_6", "updatedAt": "yesterday"},
        {"path": "/dir/odd", "type": "socket", "revision": "rev_6"},
        {"path": "/dir/none", "type": "file"},
        {"path": 5}, null, {"path": "/dir/neg", "type": "file", "revision": "r", "size": -1},
        {"path": "/x/../y", "type": "file", "revision": "rev_12"},
        {"path": "/x//y", "type": "file", "revision": "rev_13"},
        {"path": "/trail/", "type": "file", "revision": "rev_16"},
        {"path": format!("/{}", "a".repeat(300)), "type": "file", "revision": "rev_16"},
        {"path": "rel", "type": "file", "revision": "rev_16"},
        {"path": "/sp ace", "type": "file", "revision": "rev_20", "size": 1}]});
    let server = Canned::new([Say::json(200, &body.to_string())]);
    let page = remote(&server).tree(&RemotePath::root(), Depth::All, None).unwrap();
    assert_eq!(server.request().line, "GET /v1/workspaces/ws_demo/fs/tree?path=/&depth=100 HTTP/1.1");
    let shown: Vec<_> = page.files.iter().map(|f| (f.path.as_str(), f.revision.as_str(), f.stored_size)).collect();
    assert_eq!(shown, [("/dir/a.txt", "rev_4", 4), ("/dir/noct.txt", "rev_6", 0), ("/sp ace", "rev_20", 1)]);
    assert_eq!(page.files[0].hash, ContentHash::from_hex(hash));
    assert_eq!((page.files[0].edited_at_ms, page.files[1].edited_at_ms), (Some(1_795_233_764_998), None));
    assert_eq!(page.dirs, [path("/dir")]);
    let hidden: Vec<_> = page.hidden.iter().map(|(p, why)| (&p[..p.len().min(7)], *why)).collect();
    use crate::path::InvalidPath::*;
    assert_eq!(
        hidden,
        [
            ("/", EmptySegment),
            ("/a\0b", Nul),
            ("/x/../y", DotSegment),
            ("/x//y", EmptySegment),
            ("/trail/", EmptySegment),
            ("/aaaaaa", NameTooLong),
            ("rel", NotAbsolute)
        ]
    );
    assert_eq!(page.next_cursor.as_deref(), Some("/sp ace"));
}

#[test]
fn children_are_direct_and_below_the_directory_that_was_asked_for() {
    let body = r#"{"entries":[{"path":"/d/a","type":"file","revision":"r"},{"path":"/d/s","type":"dir"},
        {"path":"/d/s/deep","type":"file","revision":"r"},{"path":"/dx","type":"file","revision":"r"}],"nextCursor":null}"#;
    let server = Canned::new([Say::json(200, body)]);
    let page = remote(&server).tree(&path("/d"), Depth::Children, Some("/d/\u{e9}&")).unwrap();
    let line = server.request().line;
    assert_eq!(line, "GET /v1/workspaces/ws_demo/fs/tree?path=/d&depth=1&cursor=/d/%C3%A9%26 HTTP/1.1");
    assert_eq!(page.files.iter().map(|f| f.path.as_str()).collect::<Vec<_>>(), ["/d/a"]);
    assert_eq!((page.dirs, page.hidden.len(), page.next_cursor), (vec![path("/d/s")], 0, None));
}

#[test]
fn json_too_deep_is_refused_and_not_followed() {
    let body = format!(r#"{{"entries":[{}"#, "[".repeat(1_000_000));
    let server = Canned::new([Say::json(200, &body)]);
    let error = remote(&server).tree(&RemotePath::root(), Depth::All, None).unwrap_err();
    assert!(error.kind == ErrorKind::Foreign && error.message.contains("recursion limit"), "{error}");
}

#[test]
fn an_unknown_directory_is_empty() {
    let server = Canned::new([Say::json(200, r#"{"path":"/no/such/dir","entries":[],"nextCursor":null}"#)]);
    assert_eq!(remote(&server).tree(&path("/no/such/dir"), Depth::Children, None).unwrap(), TreePage::default());
}

#[test]
fn pages_that_do_not_advance_are_corrupt() {
    for (cursor, next) in [("/b", "/b"), ("/b", "/a"), ("c1", "c1")] {
        let server = Canned::new([Say::json(200, &format!(r#"{{"entries":[],"nextCursor":"{next}"}}"#))]);
        let error = remote(&server).tree(&RemotePath::root(), Depth::All, Some(cursor)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Corrupt, "{cursor} {next}");
        let server = Canned::new([Say::json(200, &format!(r#"{{"events":[],"nextCursor":"{cursor}"}}"#))]);
        assert_eq!(remote(&server).events(Some(cursor)).unwrap_err().kind, ErrorKind::Corrupt);
    }
    assert!(advances("/a", "/b") && advances("c9", "c10"));
}

#[test]
fn events_come_in_order_with_what_they_say() {
    let body = r#"{"events":[{"eventId":"evt_3","type":"file.created","path":"/dir/a.txt","revision":"rev_3","contentHash":"00d2da7b80b451aac9f36649d4aae7a245cab1946cd329a5cd8e8ca70ce4bd90","origin":"agent_write","provider":"dir","correlationId":"corr-1","timestamp":"2026-11-21T04:02:44.984418519Z"},
        {"eventId":"evt_4","type":"file.updated","path":"/x/../y"},{"eventId":"evt_5","type":"file.deleted","path":"/d"},
        {"eventId":"evt_6","type":"sync.started"},{"eventId":"evt_7"}],"nextCursor":"evt_7"}"#;
    let server = Canned::new([Say::json(200, body)]);
    let page = remote(&server).events(Some("evt_2")).unwrap();
    assert_eq!(server.request().line, "GET /v1/workspaces/ws_demo/fs/events?limit=1000&direction=asc&cursor=evt_2 HTTP/1.1");
    let kinds: Vec<_> = page.events.iter().map(|e| e.kind).collect();
    use EventKind::*;
    assert_eq!(kinds, [Created, Updated, Deleted, Other, Unreadable], "without a type nobody can tell what has happened");
    assert_eq!(page.events[0].path, Some(path("/dir/a.txt")));
    assert_eq!((page.events[0].correlation_id.as_str(), page.events[0].at_ms), ("corr-1", Some(1_795_233_764_984)));
    assert_eq!((&page.events[1].path, &page.events[1].revision), (&None, &None));
    assert_eq!(page.events[1].hidden, Some(("/x/../y".into(), crate::path::InvalidPath::DotSegment)));
    assert_eq!(page.next_cursor.as_deref(), Some("evt_7"));
}

#[test]
fn an_event_that_cannot_be_read_costs_itself_and_not_its_page() {
    let body = r#"{"events":[{"eventId":"evt_1","type":"file.updated","path":"/a","revision":"rev_1"},
        {"eventId":"evt_2","type":"file.updated","path":"/b","revision":7},{"eventId":"evt_3","type":null,"path":"/c"},
        {"eventId":"evt_4","type":"file.updated","path":{}},{"eventId":5,"type":"file.updated","path":"/d"},"odd",null,
        {"eventId":"evt_6","type":"file.deleted","path":"/e"}],"nextCursor":null}"#;
    let server = Canned::new([Say::json(200, body), Say::json(200, body)]);
    let client = remote(&server);
    let page = client.events(None).unwrap();
    use EventKind::*;
    let read: Vec<_> = page.events.iter().map(|e| (e.id.as_str(), e.kind)).collect();
    let odd = |id| (id, Unreadable);
    let expected = [("evt_1", Updated), odd("evt_2"), odd("evt_3"), odd("evt_4"), odd(""), odd(""), odd(""), ("evt_6", Deleted)];
    assert_eq!(read, expected);
    assert_eq!(client.newest_mark().unwrap().before.as_deref(), Some("evt_2"), "one without an id is no mark");
}

#[test]
fn a_success_without_its_list_is_somebody_elses_answer() {
    let foreign = |answer: Result<(), RemoteError>| assert_eq!(answer.unwrap_err().kind, ErrorKind::Foreign);
    for body in [r#"{"status":"ok"}"#, "", "<html>", "[]", "null", "7"] {
        let server = Canned::new((0..6).map(|_| Say::json(200, body)));
        let client = remote(&server);
        foreign(client.tree(&RemotePath::root(), Depth::All, None).map(drop));
        foreign(client.events(None).map(drop));
        foreign(client.get(&path("/a")).map(drop));
        foreign(client.put(&path("/a"), b"x", "text/plain", &Precondition::Absent, &OpId::generate()).map(drop));
        foreign(client.delete(&path("/a"), &Revision::new("rev_1"), &OpId::generate()).map(drop));
        foreign(client.deliveries(None, 10).map(drop));
    }
    let nulls = Canned::new([Say::json(200, r#"{"entries":null}"#), Say::json(200, r#"{"events":null}"#)]);
    let client = remote(&nulls);
    assert!(client.tree(&RemotePath::root(), Depth::All, None).is_ok() && client.events(None).is_ok());
}

#[test]
fn the_newest_mark_is_the_head_of_the_reverse() {
    let (newest, before) = (r#"{"eventId":"evt_31","path":"/b"}"#, r#"{"eventId":"evt_30","path":"/a"}"#);
    let server = Canned::new([
        Say::json(200, &format!(r#"{{"events":[{newest},{before}],"nextCursor":"evt_30"}}"#)),
        Say::json(200, &format!(r#"{{"events":[{newest}],"nextCursor":null}}"#)),
        Say::json(200, r#"{"events":[],"nextCursor":null}"#),
    ]);
    let client = remote(&server);
    let mark = client.newest_mark().unwrap();
    assert_eq!(server.request().line, "GET /v1/workspaces/ws_demo/fs/events?direction=desc&limit=16 HTTP/1.1");
    assert!(mark.last.is_some_and(|last| last.contains("evt_31") && last.contains("/b")));
    assert_eq!(mark.before.as_deref(), Some("evt_30"));
    let mark = client.newest_mark().unwrap();
    assert!(mark.last.is_some() && mark.before.is_none());
    assert_eq!(client.newest_mark().unwrap(), FeedMark::default());
}

#[test]
fn paths_are_mapped_below_the_remote_root() {
    let server = Canned::new([
        Say::json(
            200,
            r#"{"entries":[{"path":"/m/n","type":"dir"},{"path":"/m/n","type":"file","revision":"r"},
            {"path":"/m/n/a","type":"file","revision":"r"},{"path":"/m/nx","type":"file","revision":"r"},
            {"path":"/z","type":"file","revision":"r"}],"nextCursor":null}"#,
        ),
        Say::json(202, QUEUED),
        Say::json(404, ""),
        Say::json(200, r#"[{"path":"/m/n/s/b","revision":"r","content":"x"},{"path":"/m/n/t","revision":"r"}]"#),
        Say::json(200, r#"{"events":[{"eventId":"e1","path":"/m/n/a"},{"eventId":"e2","path":"/z"}]}"#),
    ]);
    let client = rooted(&server, "/m/n");
    let page = client.tree(&RemotePath::root(), Depth::All, None).unwrap();
    assert_eq!(page.files.iter().map(|f| f.path.as_str()).collect::<Vec<_>>(), ["/a"]);
    assert_eq!((page.dirs.len(), page.hidden.len()), (0, 1));
    client.delete(&path("/a"), &Revision::new("r"), &OpId::generate()).unwrap();
    let error = client.get(&path("/s/b")).unwrap_err();
    assert_eq!(error.path, "/s/b");
    let files = client.export(&path("/s")).unwrap();
    assert_eq!(files.iter().map(|f| f.path.as_str()).collect::<Vec<_>>(), ["/b"].map(|_| "/s/b"));
    let paths: Vec<_> = client.events(None).unwrap().events.into_iter().map(|e| e.path).collect();
    assert_eq!(paths, [Some(path("/a")), None]);
    let targets: Vec<String> = server.requests().iter().map(|r| r.query()).collect();
    assert_eq!(
        targets,
        ["path=/m/n&depth=100", "path=/m/n/a", "path=/m/n/s/b", "format=json&path=/m/n/s", "limit=1000&direction=asc"]
    );
}
