//! The remote: alive, the token accepted, the workspace listable.

use std::path::Path;

use super::problem::{Code, Problem, shell_word};
use crate::access::Access;
use crate::path::RemotePath;
use crate::remote::{Depth, ErrorKind, Remote, RemoteError};

/// Two requests: health, and the first page of the mounted directory. Takes at most two request deadlines. `base_url` and
/// `workspace` are those of `remote`, for the words.
pub fn check_remote(remote: &dyn Remote, base_url: &str, workspace: &str) -> Result<(), Problem> {
    remote.health().map_err(|e| health_problem(&e, base_url))?;
    remote
        .tree(&RemotePath::root(), Depth::Children, None)
        .map(|_| ())
        .map_err(|e| tree_problem(&e, base_url, workspace, &remote.access()))
}

fn health_problem(error: &RemoteError, base_url: &str) -> Problem {
    match error.kind {
        ErrorKind::Unreachable | ErrorKind::Transient | ErrorKind::NoSpace => unreachable(error, base_url),
        _ => unexpected(error, base_url),
    }
}

fn tree_problem(error: &RemoteError, base_url: &str, workspace: &str, access: &Access) -> Problem {
    match error.kind {
        ErrorKind::Unauthorized => Problem::new(
            Code::TokenRejected,
            format!("the remote {base_url} refused the token for workspace {workspace}: {}", words(error)),
            "get a new token and set RELAYFILE_TOKEN, or update the token file",
        ),
        ErrorKind::Forbidden => Problem::new(
            Code::WorkspaceForbidden,
            format!("the token may not list workspace {workspace} at {base_url}: {}", words(error)),
            match access.readable_dirs()[..] {
                [] => "use the workspace of the token; if it may read one directory only, mount that: --remote-path /directory"
                    .to_owned(),
                [dir] => format!("mount the directory that it may read: --remote-path {}", shell_word(Path::new(dir))),
                [dir, ..] => format!(
                    "mount one of the {} directories that it may read, such as: --remote-path {}",
                    access.readable_dirs().len(),
                    shell_word(Path::new(dir))
                ),
            },
        ),
        ErrorKind::NotFound => Problem::new(
            Code::WorkspaceNotFound,
            format!("the remote {base_url} does not know workspace {workspace}: {}", words(error)),
            "check --workspace and --base-url",
        ),
        ErrorKind::Unreachable | ErrorKind::Transient | ErrorKind::NoSpace => unreachable(error, base_url),
        ErrorKind::Conflict | ErrorKind::TooLarge | ErrorKind::Rejected | ErrorKind::Corrupt | ErrorKind::Foreign => {
            unexpected(error, base_url)
        }
    }
}

fn unreachable(error: &RemoteError, base_url: &str) -> Problem {
    let what = match error.status {
        Some(_) => format!("the remote {base_url} is not in service: {}", words(error)),
        None => format!("the remote {base_url} cannot be reached: {}", words(error)),
    };
    let health = shell_word(Path::new(&format!("{base_url}/health")));
    Problem::new(
        Code::RemoteUnreachable,
        what,
        format!(
            "curl {health}; check --base-url and the network; --offline-ok mounts what is known and uploads when the remote is back"
        ),
    )
}

fn unexpected(error: &RemoteError, base_url: &str) -> Problem {
    Problem::new(
        Code::RemoteUnexpected,
        format!("the remote {base_url} does not answer like a relayfile server: {}", words(error)),
        "check --base-url: it is the part before /v1/workspaces",
    )
}

/// The remote's own words, on one line.
fn words(error: &RemoteError) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A token over plain HTTP can be read by whoever is on the way; on this machine nobody is.
pub(super) fn plaintext_warning(base_url: &str) -> Option<String> {
    let url = reqwest::Url::parse(base_url).ok()?;
    let host = url.host_str()?;
    let local = host == "localhost"
        || host.ends_with(".localhost")
        || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    (url.scheme() == "http" && !local).then(|| format!("the token goes to {host} unencrypted, because the base URL is http://"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{OpId, Revision};
    use crate::remote::{Accepted, Delivery, DeliveryPage, EventPage, LateRemote, Precondition, RemoteFile, TreePage};

    /// Answers health and tree with what it was given, and is not there for anything else.
    struct Answers {
        health: Result<(), RemoteError>,
        tree: Result<TreePage, RemoteError>,
        rest: LateRemote,
    }

    fn answers(health: Result<(), RemoteError>, tree: Result<TreePage, RemoteError>) -> Answers {
        Answers { health, tree, rest: LateRemote::default() }
    }

    impl Remote for Answers {
        fn health(&self) -> Result<(), RemoteError> {
            self.health.clone()
        }
        fn tree(&self, dir: &RemotePath, depth: Depth, cursor: Option<&str>) -> Result<TreePage, RemoteError> {
            assert!(dir.is_root() && depth == Depth::Children && cursor.is_none());
            self.tree.clone()
        }
        fn get(&self, path: &RemotePath) -> Result<RemoteFile, RemoteError> {
            self.rest.get(path)
        }
        fn export(&self, dir: &RemotePath) -> Result<Vec<RemoteFile>, RemoteError> {
            self.rest.export(dir)
        }
        fn put(&self, path: &RemotePath, bytes: &[u8], kind: &str, p: &Precondition, op: &OpId) -> Result<Accepted, RemoteError> {
            self.rest.put(path, bytes, kind, p, op)
        }
        fn bulk(&self, items: &[crate::remote::BulkItem<'_>]) -> Result<Vec<Result<Accepted, RemoteError>>, RemoteError> {
            self.rest.bulk(items)
        }
        fn delete(&self, path: &RemotePath, revision: &Revision, op: &OpId) -> Result<Accepted, RemoteError> {
            self.rest.delete(path, revision, op)
        }
        fn events(&self, cursor: Option<&str>) -> Result<EventPage, RemoteError> {
            self.rest.events(cursor)
        }
        fn newest_mark(&self) -> Result<crate::remote::FeedMark, RemoteError> {
            self.rest.newest_mark()
        }

        fn subscribe(&self, place: crate::remote::Place<'_>) -> Result<crate::remote::Subscription, RemoteError> {
            self.rest.subscribe(place)
        }

        fn merge(
            &self,
            path: &RemotePath,
            base: &Revision,
            base_text: &str,
            ours: &str,
            content_type: &str,
            op: &OpId,
        ) -> Result<crate::remote::Merged, RemoteError> {
            self.rest.merge(path, base, base_text, ours, content_type, op)
        }

        fn delivery(&self, remote_op: &str) -> Result<Delivery, RemoteError> {
            self.rest.delivery(remote_op)
        }
        fn deliveries(&self, cursor: Option<&str>, limit: usize) -> Result<DeliveryPage, RemoteError> {
            self.rest.deliveries(cursor, limit)
        }
        fn replay(&self, remote_op: &str, op: &OpId) -> Result<(), RemoteError> {
            self.rest.replay(remote_op, op)
        }
        fn token_mark(&self) -> u64 {
            self.rest.token_mark()
        }
    }

    const URL: &str = "https://relay.example";

    fn check(remote: &Answers) -> Result<(), Problem> {
        check_remote(remote, URL, "team")
    }

    fn error(kind: ErrorKind, status: Option<u16>, message: &str) -> RemoteError {
        RemoteError {
            kind,
            method: "GET",
            path: "/v1/workspaces/ws/fs/tree".into(),
            status,
            code: "code".into(),
            message: message.into(),
            body: String::new(),
            current_revision: None,
            retry_after: None,
        }
    }

    #[test]
    fn a_remote_that_lists_passes() {
        assert_eq!(check(&answers(Ok(()), Ok(TreePage::default()))), Ok(()));
    }

    #[test]
    fn each_kind_of_refusal_has_its_code_the_base_url_and_the_remotes_words() {
        for (kind, status, code) in [
            (ErrorKind::Unauthorized, Some(401), Code::TokenRejected),
            (ErrorKind::Forbidden, Some(403), Code::WorkspaceForbidden),
            (ErrorKind::NotFound, Some(404), Code::WorkspaceNotFound),
            (ErrorKind::Transient, Some(503), Code::RemoteUnreachable),
            (ErrorKind::Unreachable, None, Code::RemoteUnreachable),
            (ErrorKind::Corrupt, Some(200), Code::RemoteUnexpected),
            (ErrorKind::Rejected, Some(400), Code::RemoteUnexpected),
        ] {
            let remote = answers(Ok(()), Err(error(kind, status, "in its\nown words")));
            let problem = check(&remote).unwrap_err();
            assert_eq!(problem.code, code, "{kind:?}");
            assert!(problem.what.contains("in its own words") && problem.what.contains(URL), "{problem}");
            let about_it = matches!(code, Code::TokenRejected | Code::WorkspaceForbidden | Code::WorkspaceNotFound);
            assert_eq!(problem.what.contains("workspace team"), about_it, "{problem}");
        }
    }

    #[test]
    fn a_server_without_health_is_not_a_relayfile_server() {
        let remote = answers(Err(error(ErrorKind::NotFound, Some(404), "nope")), Ok(TreePage::default()));
        let problem = check(&remote).unwrap_err();
        assert!(problem.code == Code::RemoteUnexpected && problem.what.contains(URL), "{problem}");
        let remote = answers(Err(error(ErrorKind::Unreachable, None, "refused")), Ok(TreePage::default()));
        let problem = check(&remote).unwrap_err();
        assert!(problem.code == Code::RemoteUnreachable && problem.what.contains(URL), "{problem}");
        assert!(problem.remedy.contains("curl https://relay.example/health"), "{problem}");
    }

    #[test]
    fn a_token_over_plain_http_is_warned_about_except_on_this_machine() {
        assert!(plaintext_warning("http://relay.example").is_some());
        for fine in ["https://relay.example", "http://127.0.0.1:8080", "http://localhost:1", "http://[::1]:8080"] {
            assert_eq!(plaintext_warning(fine), None, "{fine}");
        }
    }
}
