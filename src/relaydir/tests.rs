use super::*;
use crate::journal::DeliveryNumbers;
use crate::status::{Feed, LastError, LetterView, OperationView, Status, StatusSource};

const OP: &str = "op_0123456789abc";

fn status() -> Status {
    Status {
        workspace_id: "demo".into(),
        base_url: "http://127.0.0.1:8080".into(),
        remote_root: "/".into(),
        local_root: "/mnt/ws".into(),
        state_dir: "/var/state".into(),
        pid: 7,
        version: "0.1.0",
        started_at: "2026-01-01T00:00:00Z".into(),
        embedded_server: false,
        feed: Feed::Polling,
        listener: Default::default(),
        last_event_at: None,
        last_sync_at: Some("2026-01-01T00:00:01Z".into()),
        tree_known: true,
        files_known: 3,
        pending: 0,
        in_flight: 0,
        conflicts: 0,
        dead: 0,
        delivery: Default::default(),
        pending_bytes: 0,
        failed_writebacks: 0,
        oldest_pending_at: None,
        last_error: None,
        letters: Vec::new(),
        provider_errors: Vec::new(),
        limits: None,
        read_only: false,
        token_refused: None,
        short_of_room: false,
        store_failure: None,
        hidden_names: 0,
    }
}

fn operation(id: &str) -> OperationView {
    OperationView {
        op_id: id.into(),
        kind: "put".into(),
        path: "/a.md".into(),
        state: "waiting".into(),
        base_revision: Some("rev_1".into()),
        attempts: 2,
        size: Some(12),
        created_at: "2026-01-01T00:00:00Z".into(),
        updated_at: "2026-01-01T00:00:05.000000007Z".into(),
        next_attempt_at: None,
        last_status: Some(503),
        last_code: None,
        last_error: None,
        why: "the remote answered 503".into(),
    }
}

#[derive(Default)]
struct Fake(Mutex<(Option<Status>, Vec<OperationView>)>, Mutex<std::collections::BTreeMap<OpId, LetterView>>);

impl StatusSource for Fake {
    fn status(&self) -> Status {
        self.0.lock().0.clone().unwrap_or_else(status)
    }
    fn pending(&self) -> Vec<OperationView> {
        self.0.lock().1.clone()
    }
    fn pending_one(&self, op_id: &OpId) -> Option<OperationView> {
        self.0.lock().1.iter().find(|o| o.op_id == op_id.as_str()).cloned()
    }
    fn letters(&self) -> FsResult<Vec<OpId>> {
        Ok(self.1.lock().keys().cloned().collect())
    }
    fn conflicts(&self) -> Vec<OpId> {
        Vec::new()
    }
    fn conflict(&self, _op_id: &OpId) -> Option<std::path::PathBuf> {
        None
    }
    fn letter(&self, op_id: &OpId) -> Option<LetterView> {
        self.1.lock().get(op_id).cloned()
    }
}

impl Operator for Fake {
    fn retry(&self, op_id: &OpId, force: bool) -> FsResult<Retried> {
        assert!(!force, "a gesture never forces");
        Ok(if self.1.lock().remove(op_id).is_some() { Retried::Queued } else { Retried::Unknown })
    }
    fn discard(&self, op_id: &OpId) -> FsResult<Discarded> {
        Ok(if self.1.lock().remove(op_id).is_some() { Discarded::Done } else { Discarded::Unknown })
    }
    fn flush(&self) -> FsResult<u64> {
        Ok(0)
    }
    fn changes(&self) -> Arc<crate::changes::Changes> {
        Arc::default()
    }
}

fn relay() -> (Arc<Fake>, RelayDir) {
    let fake = Arc::new(Fake::default());
    (fake.clone(), RelayDir::new(fake, 1000, 1000))
}

fn find(relay: &RelayDir, path: &str) -> FsResult<Attr> {
    path.split('/').try_fold(relay.top(), |at, name| relay.lookup(at.ino, OsStr::new(name)))
}

fn errno<T: std::fmt::Debug>(result: FsResult<T>) -> i32 {
    result.expect_err("an error was expected").to_errno()
}

fn names(relay: &RelayDir, fh: u64, from: u64, at_most: usize) -> Vec<(String, u64)> {
    let mut out = Vec::new();
    relay
        .readdir(fh, from, &mut |item| {
            if out.len() == at_most {
                return false;
            }
            out.push((item.name.to_string_lossy().into_owned(), item.next_offset));
            true
        })
        .unwrap();
    out
}

fn read_all(relay: &RelayDir, ino: Ino) -> Vec<u8> {
    let fh = relay.open(ino, libc::O_RDONLY).unwrap();
    let body = relay.read(fh, 0, u32::MAX).unwrap();
    relay.release(fh);
    body
}

#[test]
fn every_file_is_as_long_as_stat_says() {
    let (fake, relay) = relay();
    fake.0.lock().1.push(operation(OP));
    for path in ["README", "status", "state.json", "pending/op_0123456789abc.json"] {
        let attr = find(&relay, path).unwrap();
        assert_eq!(read_all(&relay, attr.ino).len() as u64, attr.size, "{path}");
        assert!(attr.size > 0 && attr.kind == Kind::File && attr.mode == 0o444, "{path}");
    }
}

#[test]
fn a_handle_serves_the_moment_of_its_open() {
    let (fake, relay) = relay();
    let ino = find(&relay, "state.json").unwrap().ino;
    let fh = relay.open(ino, libc::O_RDONLY).unwrap();
    let first = relay.read(fh, 0, 4096).unwrap();

    fake.0.lock().0 = Some(Status { pending: 5, ..status() });

    assert_eq!(relay.read(fh, 0, 4096).unwrap(), first);
    assert_eq!(relay.read(fh, 3, 4).unwrap(), first[3..7]);
    assert_eq!(relay.read(fh, u64::MAX, 4).unwrap(), b"");
    assert_ne!(read_all(&relay, ino), first);
    relay.release(fh);
    assert_eq!(errno(relay.read(fh, 0, 1)), libc::EBADF);
}

#[test]
fn nothing_opens_for_writing() {
    let (_, relay) = relay();
    let ino = find(&relay, "status").unwrap().ino;
    for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_RDONLY | libc::O_TRUNC] {
        assert_eq!(errno(relay.open(ino, flags)), libc::EACCES);
    }
}

#[test]
fn a_listing_continues_where_it_stopped() {
    let (_, relay) = relay();
    let fh = relay.opendir(DIR).unwrap();
    let first = names(&relay, fh, 0, 3);
    let rest = names(&relay, fh, first[2].1, 99);
    let all: Vec<_> = first.into_iter().chain(rest).map(|(name, _)| name).collect();
    let there =
        ["README", ".gitignore", "status", "state.json", "metrics", "log", "pending", "dead-letter", "retry", "conflicts"];
    assert_eq!(all, [&[".", ".."][..], &there].concat());
}

#[test]
fn a_listing_is_one_snapshot_until_it_is_rewound() {
    let (fake, relay) = relay();
    fake.0.lock().1.push(operation(OP));
    let fh = relay.opendir(find(&relay, "pending").unwrap().ino).unwrap();
    fake.0.lock().1.clear();
    assert_eq!(names(&relay, fh, 2, 9), [(format!("{OP}.json"), 3)]);
    assert_eq!(names(&relay, fh, 0, 9).len(), 2);
}

#[test]
fn an_operation_has_one_number_in_listing_and_stat() {
    let (fake, relay) = relay();
    fake.0.lock().1.push(operation(OP));
    let attr = find(&relay, "pending/op_0123456789abc.json").unwrap();
    let fh = relay.opendir(Node::Pending.ino()).unwrap();
    let mut listed = None;
    relay
        .readdir(fh, 2, &mut |item| {
            listed = Some(item.ino);
            true
        })
        .unwrap();
    assert_eq!(listed, Some(attr.ino));
    assert!(owns(attr.ino) && Node::fixed(attr.ino).is_none());
    assert_eq!(attr.mtime, Nanos(1_767_225_605_000_000_007));
}

#[test]
fn an_operation_that_is_done_is_gone_and_can_be_forgotten() {
    let (fake, relay) = relay();
    fake.0.lock().1.push(operation(OP));
    let path = "pending/op_0123456789abc.json";
    let ino = find(&relay, path).unwrap().ino;
    find(&relay, path).unwrap();

    fake.0.lock().1.clear();

    assert_eq!(errno(find(&relay, path)), libc::ENOENT);
    assert_eq!(errno(relay.getattr(ino)), libc::ENOENT);
    relay.forget(ino, 1);
    assert_eq!(relay.inner.lock().known.len(), 1);
    relay.forget(ino, 1);
    assert_eq!(relay.inner.lock().known.len(), 0);
    relay.forget(ino, 1);
}

#[test]
fn names_that_are_no_operation_id_do_not_exist() {
    let (_, relay) = relay();
    for name in ["pending/x.json", "pending/op_0123456789abc", "pending/op_0123456789abc.json", "nothing", "STATUS"] {
        assert_eq!(errno(find(&relay, name)), libc::ENOENT, "{name}");
    }
    assert_eq!(errno(find(&relay, "status/x")), libc::ENOTDIR);
}

#[test]
fn state_json_has_the_fields_that_older_tools_read() {
    let s = Status { pending: 2, in_flight: 1, failed_writebacks: 9, last_error: Some(last_error("boom")), ..status() };
    let v: serde_json::Value = serde_json::from_slice(&render_state_json(&s)).unwrap();
    assert_eq!(v["workspaceId"], "demo");
    assert_eq!(v["mode"], "fuse");
    assert_eq!(v["status"], "syncing");
    assert_eq!(v["pendingWriteback"], 3);
    assert_eq!(v["failedWritebacks"], 9);
    assert_eq!(v["states"]["hasPendingWriteback"], true);
    assert_eq!(v["states"]["offline"], false);
    assert_eq!(v["lastError"]["opId"], OP);
    assert_eq!(v["lastReconcileAt"], "2026-01-01T00:00:01Z");
    assert_eq!(v["eventListener"]["status"], "polling");
    for key in ["stateDir", "pid", "version", "baseUrl", "embeddedServer", "remoteRoot", "localRoot", "lastEventAt", "counters"] {
        assert!(v.get(key).is_some(), "{key} is missing");
    }
}

fn last_error(message: &str) -> LastError {
    LastError {
        kind: "put",
        op_id: OP.into(),
        path: "/a.md".into(),
        status: Some(422),
        code: "schema_violation".into(),
        message: message.into(),
        at: "2026-01-01T00:00:02Z".into(),
    }
}

#[test]
fn the_first_line_says_the_worst_that_is_true() {
    let first = |s: &Status| render_status(s).lines().next().unwrap().split_whitespace().nth(1).unwrap().to_string();
    let mut s = status();
    assert_eq!(first(&s), "ready:");
    s.in_flight = 1;
    assert_eq!(first(&s), "syncing:");
    s.dead = 1;
    assert_eq!(first(&s), "attention:");
    s.tree_known = false;
    assert_eq!(first(&s), "starting:");
    s.feed = Feed::Offline;
    assert_eq!(first(&s), "offline:");
    s.store_failure = Some("disk full".into());
    assert_eq!(first(&s), "error:");
}

#[test]
fn a_dead_letter_says_what_was_refused_and_what_to_do() {
    let letter = last_error("title is required");
    let s = Status { dead: 1, last_error: Some(letter.clone()), letters: vec![letter.clone()], ..status() };
    let text = render_status(&s);
    assert!(text.contains("422 schema_violation: title is required"), "{text}");
    assert!(text.contains("save it once more") && text.contains(".relay/retry/"), "{text}");
    let conflict = LastError { code: "conflict".into(), ..letter };
    let text = render_status(&Status { dead: 9, letters: vec![conflict], ..status() });
    assert!(text.contains("--force") && text.contains("and 8 more"), "{text}");
}

#[test]
fn a_refused_delivery_is_not_told_as_if_the_remote_did_not_have_it() {
    let letter = LastError { code: "delivery".into(), status: None, ..last_error("title is required") };
    let delivery = DeliveryNumbers { unresolved: 3, refused: 1, lost: 2, unknown: None };
    let mut s = Status { dead: 1, delivery, letters: vec![letter.clone()], ..status() };
    let text = render_status(&s);
    assert!(text.starts_with("state:        attention: the provider refused 1 save that the remote has\n"), "{text}");
    assert!(
        text.contains("delivery:     3 saves on the way from the remote to its provider, 1 refused by it, 2 given up"),
        "{text}"
    );
    assert!(text.contains("the remote has /a.md as you left it") && text.contains(".relay/retry/"), "{text}");
    assert!(!text.contains("returns to the remote's version"), "{text}");
    s.letters.push(LastError { kind: "delete", ..letter });
    assert!(!render_status(&s).contains("the removal of"), "a removal that the remote has made is not undone");
    s.dead = 2;
    assert!(render_status(&s).contains("the remote or its provider refused 2 saves"));
    s.delivery.unknown = Some("the token may not read\noperations".into());
    assert!(render_status(&s).contains(r"delivery:     unknown (the token may not read\noperations); 3 saves not followed"));
    let metrics = render_metrics(&s);
    for line in ["deliveries_unresolved{", "deliveries_refused{", "deliveries_lost_total{", "delivery_unknown{"] {
        assert!(metrics.contains(&format!("\nrelayfile_{line}")), "{line} is missing: {metrics}");
    }
    let v: serde_json::Value = serde_json::from_slice(&render_state_json(&s)).unwrap();
    assert_eq!((&v["delivery"]["unresolved"], &v["delivery"]["lost"]), (&3.into(), &2.into()));
}

#[test]
fn a_refused_token_is_not_called_offline() {
    let refused = Some("token expired".to_owned());
    let text = render_status(&Status { feed: Feed::Unauthorized, token_refused: refused, pending: 1, ..status() });
    assert!(text.starts_with("state:        unauthorized:"), "{text}");
    assert!(text.contains("token expired") && text.contains("new token"), "{text}");
}

fn with_letter() -> (Arc<Fake>, RelayDir) {
    let (fake, relay) = relay();
    let letter = LetterView { record: b"{}".to_vec(), sidecar: b"{\"x\":1}".to_vec(), payload: None, changed_at: 1000 };
    fake.1.lock().insert(OP.parse().unwrap(), letter);
    (fake, relay)
}

#[test]
fn a_letter_is_two_files_and_its_payload_if_there_is_one() {
    let (fake, relay) = with_letter();
    let dir = find(&relay, "dead-letter").unwrap().ino;
    let fh = relay.opendir(dir).unwrap();
    let listed = || -> Vec<_> { names(&relay, fh, 0, 9).into_iter().skip(2).map(|(name, _)| name).collect() };
    assert_eq!(listed(), [format!("{OP}.json"), format!("{OP}.error.json")]);
    assert_eq!(find(&relay, &format!("dead-letter/{OP}.error.json")).unwrap().size, 7);
    assert_eq!(errno(find(&relay, &format!("dead-letter/{OP}.payload"))), libc::ENOENT);
    let bytes = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(bytes.path(), "what was saved").unwrap();
    fake.1.lock().get_mut(&OP.parse::<OpId>().unwrap()).unwrap().payload = Some(bytes.path().to_owned());
    assert_eq!(listed().len(), 3);
    let payload = find(&relay, &format!("dead-letter/{OP}.payload")).unwrap();
    let fh = relay.open(payload.ino, libc::O_RDONLY).unwrap();
    assert_eq!((payload.size, relay.read(fh, 0, 100).unwrap()), (14, b"what was saved".to_vec()));
}

#[test]
fn moving_a_letter_to_retry_retries_it_and_removing_it_discards_it() {
    let (fake, relay) = with_letter();
    let dir = |name: &str| find(&relay, name).unwrap().ino;
    let (letters, retry, pending) = (dir("dead-letter"), dir("retry"), dir("pending"));
    let (record, sidecar) = (format!("{OP}.json"), format!("{OP}.error.json"));
    let (record, sidecar) = (OsStr::new(&record), OsStr::new(&sidecar));
    for (from, to) in [
        ((letters, record), (retry, OsStr::new("other.json"))),
        ((letters, sidecar), (retry, sidecar)),
        ((letters, record), (pending, record)),
        ((retry, record), (letters, record)),
        ((pending, record), (retry, record)),
    ] {
        assert_eq!(errno(relay.rename(from, to)), libc::EPERM);
    }
    assert_eq!(errno(relay.unlink(letters, sidecar)), libc::EPERM);
    assert_eq!(errno(relay.unlink(pending, record)), libc::EPERM);
    assert_eq!(fake.1.lock().len(), 1, "nothing has happened so far");
    relay.rename((letters, record), (retry, record)).unwrap();
    assert_eq!(errno(relay.rename((letters, record), (retry, record))), libc::ENOENT);
    let (fake, relay) = with_letter();
    relay.unlink(letters, record).unwrap();
    assert!(fake.1.lock().is_empty());
    assert_eq!(errno(relay.unlink(letters, OsStr::new("../x.json"))), libc::ENOENT);
}

#[test]
fn metrics_have_a_type_and_a_value_each() {
    let text = render_metrics(&Status { dead: 2, workspace_id: "a\"b".into(), ..status() });
    assert!(text.contains("relayfile_dead_letters{workspace=\"a\\\"b\",remote_root=\"/\"} 2\n"), "{text}");
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        assert!(line.rsplit(' ').next().unwrap().parse::<u64>().is_ok(), "{line}");
    }
}

#[test]
fn remote_words_cannot_drive_a_terminal() {
    let s = Status { last_error: Some(last_error(&format!("\u{1b}[2J\nstate: ready {}", "x".repeat(9000)))), ..status() };
    let text = render_status(&s);
    assert!(!text.contains('\u{1b}') && text.len() < 3000, "{text}");
    assert_eq!(text.lines().filter(|l| l.starts_with("state:")).count(), 1);
}
