//! What becomes of accepted writes, as the real server was seen to tell it.

use super::*;

#[test]
fn an_operation_is_read_with_its_providers_words() {
    for (body, state, error, words) in [
        (
            r#"{"opId":"op_2","path":"/dir/a.txt","revision":"rev_2","action":"file_upsert","provider":"dir","status":"dead_lettered","attemptCount":3,"lastError":"provider said no","correlationId":"corr-1","createdAt":"2026-11-21T04:02:44.970471498Z","updatedAt":"2026-11-21T04:03:43.06807265Z","completedAt":"2026-11-21T04:03:43.06807265Z"}"#,
            DeliveryState::DeadLettered,
            Some("provider said no"),
            r#"{"attemptCount":3,"lastError":"provider said no","status":"dead_lettered"}"#,
        ),
        (
            r#"{"opId":"op_2","path":"/dir/a.txt","status":"succeeded","attemptCount":3,"providerResult":{"externalId":"EXT1","ts":"1"}}"#,
            DeliveryState::Succeeded,
            None,
            r#"{"attemptCount":3,"providerResult":{"externalId":"EXT1","ts":"1"},"status":"succeeded"}"#,
        ),
        (
            r#"{"opId":"op_2","path":"/dir/a.txt","status":"resting","attemptCount":3,"lastError":{"code":5}}"#,
            DeliveryState::Pending,
            Some(r#"{"code":5}"#),
            r#"{"attemptCount":3,"lastError":{"code":5},"status":"resting"}"#,
        ),
    ] {
        let server = Canned::new([Say::json(200, body)]);
        let told = remote(&server).delivery("op_2").unwrap();
        assert_eq!((told.remote_op.as_str(), told.path, told.state, told.attempts), ("op_2", Some(path("/dir/a.txt")), state, 3));
        assert_eq!((told.last_error.as_deref(), told.words.as_str()), (error, words));
        assert_eq!(server.request().line, "GET /v1/workspaces/ws_demo/ops/op_2 HTTP/1.1");
    }
}

#[test]
fn a_page_of_operations_is_read_below_the_remote_root_and_what_makes_no_sense_is_left_out() {
    let server = Canned::new([Say::json(
        200,
        r#"{"items":[{"opId":"op_31","path":"/b/idem.txt","status":"pending","attemptCount":0,"correlationId":"op_x"},5,{"opId":"op_30","path":"/c/x","status":"running"}],"nextCursor":"op_30"}"#,
    )]);
    let page = rooted(&server, "/b").deliveries(Some("op 40"), 5000).unwrap();
    let told: Vec<_> =
        page.deliveries.iter().map(|d| (d.remote_op.as_str(), d.path.clone(), d.correlation_id.as_str())).collect();
    assert_eq!(told, [("op_31", Some(path("/idem.txt")), "op_x"), ("op_30", None, "")]);
    assert_eq!(page.next_cursor.as_deref(), Some("op_30"));
    assert_eq!(server.request().line, "GET /v1/workspaces/ws_demo/ops?limit=1000&cursor=op%2040 HTTP/1.1");
}

#[test]
fn pages_that_do_not_advance_end() {
    let server = Canned::new([Say::json(200, r#"{"items":[],"nextCursor":"op_30"}"#)]);
    assert_eq!(remote(&server).deliveries(Some("op_30"), 10).unwrap_err().kind, ErrorKind::Corrupt);
}

#[test]
fn a_replay_is_a_post_without_a_body_under_our_operation_id() {
    let server = Canned::new([Say::json(202, r#"{"status":"queued","id":"op_2","correlationId":"corr-1"}"#)]);
    let op = OpId::generate();
    remote(&server).replay("op/2", &op).unwrap();
    let sent = server.request();
    assert_eq!(sent.line, "POST /v1/workspaces/ws_demo/ops/op%2F2/replay HTTP/1.1");
    assert_eq!((sent.header("x-correlation-id"), sent.header("content-length")), (Some(op.as_str()), Some("0")));
    let server = Canned::new([Say::json(409, r#"{"code":"invalid_state","correlationId":"corr-1","message":"invalid state"}"#)]);
    assert_eq!(remote(&server).replay("op_1", &op).unwrap_err().kind, ErrorKind::Conflict);
}

#[test]
fn an_operation_id_that_is_no_segment_of_a_path_is_not_taken() {
    for (id, taken) in [("op_1", true), ("a/b", true), ("", false), ("..", false), ("a\nb", false)] {
        assert_eq!(usable_op(id.to_owned()).is_some(), taken, "{id:?}");
    }
    assert_eq!(replay_url("http://h:1/base/", "ws", "op_1"), "http://h:1/base/v1/workspaces/ws/ops/op_1/replay");
}

#[test]
fn the_mark_of_a_token_changes_with_the_token() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    let remote = HttpRemote::new(HttpConfig { token: TokenSource::File(file.clone()), ..config("http://127.0.0.1:1") }).unwrap();
    let mut marks = vec![remote.token_mark()];
    for token in ["one", "two"] {
        std::fs::write(dir.path().join("next"), token).unwrap();
        std::fs::rename(dir.path().join("next"), &file).unwrap();
        marks.push(remote.token_mark());
        assert_eq!(remote.token_mark(), marks[marks.len() - 1]);
    }
    assert!(marks[0] != marks[1] && marks[1] != marks[2]);
}

#[test]
fn what_a_batch_has_written_is_known_by_its_content_identity() {
    let server = Canned::new([Say::json(
        200,
        r#"{"items":[{"opId":"op_2","path":"/a","status":"pending","contentIdentity":{"kind":"relayfile-mount-save","key":"op_ours","ttlSeconds":9}},{"opId":"op_1","path":"/a","status":"pending","correlationId":"","contentIdentity":{"kind":"k","key":"op_theirs"}}]}"#,
    )]);
    let page = remote(&server).deliveries(None, 10).unwrap();
    let ids: Vec<&str> = page.deliveries.iter().map(|d| d.correlation_id.as_str()).collect();
    assert_eq!(ids, ["op_ours", ""]);
}
