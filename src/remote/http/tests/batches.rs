//! Batches, as the real server was seen to answer them.

use super::*;
use crate::remote::BULK_BODY_MAX;

fn items<'a>(
    paths: &'a [RemotePath],
    contents: &'a [&'a [u8]],
    conditions: &'a [Precondition],
    ops: &'a [OpId],
) -> Vec<BulkItem<'a>> {
    (0..paths.len())
        .map(|n| BulkItem {
            path: &paths[n],
            bytes: contents[n],
            content_type: "text/plain",
            precondition: &conditions[n],
            op: &ops[n],
        })
        .collect()
}

fn three() -> ([RemotePath; 3], [Precondition; 3], [OpId; 3]) {
    (
        [path("/1.txt"), path("/2.bin"), path("/3.txt")],
        [Precondition::Absent, at("rev_7"), Precondition::Absent],
        [OpId::generate(), OpId::generate(), OpId::generate()],
    )
}

const CONTENTS: [&[u8]; 3] = [b"one", &[0, 1, 255], b""];

#[test]
fn a_batch_carries_for_each_file_its_precondition_and_its_operation() {
    let (paths, conditions, ops) = three();
    let server = Canned::new([Say::json(202, r#"{"written":0,"errorCount":0,"errors":[],"results":null}"#)]);
    let answers = rooted(&server, "/b").bulk(&items(&paths, &CONTENTS, &conditions, &ops)).unwrap();
    let sent = server.request();
    assert_eq!(sent.line, "POST /v1/workspaces/ws_demo/fs/bulk HTTP/1.1");
    assert!(sent.header("x-correlation-id").is_some_and(|id| id.len() >= 8));
    let identity =
        |n: usize| serde_json::json!({ "kind": "relayfile-mount-save", "key": ops[n].as_str(), "ttlSeconds": 604_800 });
    assert_eq!(
        sent.json(),
        serde_json::json!({ "files": [
            { "path": "/b/1.txt", "contentType": "text/plain", "content": "one", "ifMatch": "0", "contentIdentity": identity(0) },
            { "path": "/b/2.bin", "contentType": "text/plain", "content": "AAH/", "encoding": "base64", "ifMatch": "rev_7",
              "contentIdentity": identity(1) },
            { "path": "/b/3.txt", "contentType": "text/plain", "content": "", "ifMatch": "0", "contentIdentity": identity(2) },
        ]})
    );
    let kinds: Vec<_> = answers.into_iter().map(|a| a.unwrap_err().kind).collect();
    assert_eq!(kinds, [ErrorKind::Corrupt; 3], "nothing was said about any of them");
}

#[test]
fn each_file_gets_the_answer_that_names_it() {
    let (paths, conditions, ops) = three();
    let server = Canned::new([Say::json(
        202,
        r#"{"correlationId":"corr-1","errorCount":1,"errors":[{"path":"/b/1.txt","code":"conflict","message":"expected revision \"0\" but current revision is \"rev_26\"","expectedRevision":"0","currentRevision":"rev_26"}],"results":[{"path":"/b/3.txt","revision":"rev_28","contentType":"text/plain","opId":"op_28","writeback":{"provider":"b","state":"pending"}},{"path":"/b/2.bin","revision":"rev_27","contentType":"text/plain","opId":"op_27","writeback":{"provider":"b","state":"pending"}}],"written":2}"#,
    )]);
    let answers = rooted(&server, "/b").bulk(&items(&paths, &CONTENTS, &conditions, &ops)).unwrap();
    let refused = answers[0].as_ref().unwrap_err();
    assert_eq!((refused.kind, refused.status, refused.path.as_str()), (ErrorKind::Conflict, Some(409), "/1.txt"));
    assert_eq!(refused.current_revision, Some(Revision::new("rev_26")));
    for (n, op, revision) in [(1, "op_27", "rev_27"), (2, "op_28", "rev_28")] {
        let accepted = answers[n].as_ref().unwrap();
        assert_eq!((accepted.remote_op.as_deref(), accepted.revision.clone()), (Some(op), Some(Revision::new(revision))));
        assert!(!accepted.repeated);
    }
}

#[test]
fn a_repeat_is_found_by_its_identity_although_its_file_has_moved() {
    let (paths, conditions, ops) = three();
    let body = serde_json::json!({ "errors": [], "written": 0, "results": [{ "path": "/elsewhere", "revision": "rev_5", "opId": "op_5",
        "contentIdentity": { "kind": "relayfile-mount-save", "key": ops[0].as_str() } }] });
    let server = Canned::new([Say::json(202, &body.to_string())]);
    let answers = remote(&server).bulk(&items(&paths[..1], &CONTENTS, &conditions, &ops)).unwrap();
    let accepted = answers[0].as_ref().unwrap();
    assert_eq!((accepted.revision.clone(), accepted.repeated), (Some(Revision::new("rev_5")), true));
}

#[test]
fn what_is_refused_as_a_whole_has_one_error_and_a_dangerous_revision_is_not_sent() {
    let (paths, mut conditions, ops) = three();
    let server =
        Canned::new([Say::json(413, r#"{"code":"payload_too_large"}"#), Say::json(202, r#"{"results":[],"errors":[]}"#)]);
    let client = remote(&server);
    let error = client.bulk(&items(&paths, &CONTENTS, &conditions, &ops)).unwrap_err();
    assert_eq!((error.kind, error.path.as_str()), (ErrorKind::TooLarge, "/fs/bulk"));
    conditions[1] = at("*");
    let answers = client.bulk(&items(&paths, &CONTENTS, &conditions, &ops)).unwrap();
    assert_eq!(answers[1].as_ref().unwrap_err().kind, ErrorKind::Rejected);
    assert_eq!(server.request().json()["files"].as_array().unwrap().len(), 2);
}

#[test]
fn a_full_batch_weighs_no_less_than_its_body() {
    let paths: Vec<RemotePath> = (0..40).map(|n| path(&format!("/d\"{n}/{}", "ä\\".repeat(20)))).collect();
    let contents: Vec<Vec<u8>> = (0..40u8).map(|n| vec![[b'x', b'\n', 0, 1, 255][n as usize % 5]; 900]).collect();
    let contents: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
    let (conditions, ops): (Vec<_>, Vec<_>) = (0..40).map(|_| (at("rev_1234567890"), OpId::generate())).unzip();
    let server = Canned::new([Say::json(202, r#"{"written":0,"results":null,"errors":[]}"#)]);
    let items = items(&paths, &contents, &conditions, &ops);
    let weight: usize = items.iter().map(BulkItem::weight).sum();
    remote(&server).bulk(&items).unwrap();
    let body = server.request().body.len();
    assert!(body <= weight && weight < body + 40 * 256, "{body} bytes, weight {weight}");
    assert!(weight < BULK_BODY_MAX);
}
