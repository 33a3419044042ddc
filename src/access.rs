//! What a token allows, as far as its own words tell: the scopes in the payload of a JWT.
//!
//! Nothing is verified here and nothing is asked: the remote decides. This is for refusing at `open()` what the remote would
//! refuse later, and for saying so before anybody wonders. The grammar is the remote's (`plane:resource:action[:pattern]`, or
//! plain `resource:action`) and stands here only; what the embedded server makes of a set of scopes is in `server::auth`, where a
//! test holds the two against each other.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::path::RemotePath;

/// Prefixes that token services put before a JWT; not part of it.
pub(crate) const TOKEN_CLASSES: [&str; 4] = ["relay_pa_", "relay_ws_", "relay_id_", "relay_ag_"];
/// Patterns that are named in a sentence.
const NAMED: usize = 5;

/// See the module. Paths are whole paths at the remote, not those of the mount.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    read: Grant,
    write: Grant,
}

/// Where an action is allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Grant {
    #[default]
    Everywhere,
    Nowhere,
    /// At paths that one of these patterns covers.
    At(Vec<String>),
}

impl Access {
    /// Everything is assumed to be allowed: the remote decides.
    pub fn unlimited() -> Access {
        Access::default()
    }

    /// What these scopes allow.
    pub fn of<S: AsRef<str>>(scopes: &[S]) -> Access {
        Access { read: Grant::of(scopes, "fs:read"), write: Grant::of(scopes, "fs:write") }
    }

    /// What a token allows; unlimited when it is no JWT or has no `scopes` (a list, or text with spaces between).
    pub fn of_token(token: &str) -> Access {
        match claims(token).as_ref().and_then(|c| c.get("scopes")) {
            Some(Value::Array(list)) => Access::of(&list.iter().filter_map(Value::as_str).collect::<Vec<_>>()),
            Some(Value::String(list)) => Access::of(&list.split_whitespace().collect::<Vec<_>>()),
            _ => Access::unlimited(),
        }
    }

    pub fn may_read(&self, path: &str) -> bool {
        self.read.covers(path)
    }

    pub fn may_write(&self, path: &str) -> bool {
        self.write.covers(path)
    }

    /// Whether no path needs a look.
    pub fn writes_everywhere(&self) -> bool {
        self.write == Grant::Everywhere
    }

    /// No file below `root` may be written.
    pub fn is_read_only(&self, root: &RemotePath) -> bool {
        matches!(self.write.below(root), Reach::Nothing)
    }

    /// What is not allowed below `root`, in one sentence; `None` when everything there may be read and written.
    pub fn limits(&self, root: &RemotePath) -> Option<String> {
        let write = match (self.write.below(root), &self.write) {
            (Reach::All, _) => None,
            (Reach::Some(places), _) => Some(format!("writable only {}", named(&places))),
            (Reach::Nothing, Grant::At(_)) => {
                Some(format!("read-only: the token's fs:write scope covers nothing below {root}: {}", self.write))
            }
            (Reach::Nothing, _) => Some("read-only: the token has no fs:write scope".to_owned()),
        };
        let read = match self.read.below(root) {
            Reach::All => None,
            Reach::Some(places) => Some(format!("readable only {}", named(&places))),
            Reach::Nothing => Some("the token has no fs:read scope here".to_owned()),
        };
        match (write, read) {
            (Some(write), Some(read)) => Some(format!("{write}; {read}")),
            (one, other) => one.or(other),
        }
    }

    /// Directories at the remote that the token may list, when its scopes name some.
    pub fn readable_dirs(&self) -> Vec<&str> {
        match &self.read {
            Grant::At(patterns) => patterns.iter().filter_map(|p| p.strip_suffix("/**")).filter(|d| !d.is_empty()).collect(),
            _ => Vec::new(),
        }
    }
}

/// How far a grant reaches into a directory.
enum Reach {
    All,
    Nothing,
    Some(Vec<String>),
}

impl Grant {
    /// A scope with a path narrows: beside it the plain scope grants nothing.
    fn of<S: AsRef<str>>(scopes: &[S], required: &str) -> Grant {
        let mut patterns = Vec::new();
        for scope in scopes {
            match pattern_of(scope.as_ref(), required) {
                None => {}
                Some("*") => return Grant::Everywhere,
                Some(pattern) => patterns.push(pattern.to_owned()),
            }
        }
        match patterns.is_empty() {
            false => Grant::At(patterns),
            true if scopes.iter().any(|s| s.as_ref() == required) => Grant::Everywhere,
            true => Grant::Nowhere,
        }
    }

    fn covers(&self, path: &str) -> bool {
        let path = path.trim();
        match self {
            Grant::Everywhere => true,
            Grant::Nowhere => false,
            Grant::At(patterns) => !path.is_empty() && patterns.iter().any(|p| pattern_covers(p, path)),
        }
    }

    fn below(&self, root: &RemotePath) -> Reach {
        let patterns = match self {
            Grant::Everywhere => return Reach::All,
            Grant::Nowhere => return Reach::Nothing,
            Grant::At(patterns) => patterns,
        };
        // What covers a name in the directory that nobody has in mind covers all of it.
        let inside = if root.is_root() { "/".to_owned() } else { format!("{root}/") };
        let all = |p: &&String| match p.strip_suffix("/**") {
            Some(dir) => dir.is_empty() || within(dir, root.as_str()),
            None => p.strip_suffix('*').is_some_and(|prefix| inside.starts_with(prefix)),
        };
        if patterns.iter().any(|p| all(&p)) {
            return Reach::All;
        }
        let places: Vec<String> = patterns
            .iter()
            .filter(|p| p.starts_with(&inside) && p.len() > inside.len())
            .map(|p| match p.strip_suffix("/**") {
                Some(dir) => format!("below {dir}"),
                None => format!("at {p}"),
            })
            .collect();
        if places.is_empty() { Reach::Nothing } else { Reach::Some(places) }
    }
}

impl std::fmt::Display for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Grant::Everywhere => f.write_str("everywhere"),
            Grant::Nowhere => f.write_str("nowhere"),
            Grant::At(patterns) => f.write_str(&named(patterns)),
        }
    }
}

/// A token chooses its own words: not many of them, and none that steer a terminal.
fn named(words: &[String]) -> String {
    let plain = |w: &String| w.chars().take(200).filter(|c| !c.is_control()).collect::<String>();
    let shown = words.iter().take(NAMED).map(plain).collect::<Vec<_>>().join(", ");
    match words.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// The path pattern of a scope that grants `required`; `*` when it has none, `None` when it does not grant it.
pub(crate) fn pattern_of<'s>(scope: &'s str, required: &str) -> Option<&'s str> {
    let (resource, action) = required.split_once(':')?;
    let parts: Vec<&str> = scope.splitn(4, ':').collect();
    let (plane, res, act) = match parts[..] {
        [plane, res, act] | [plane, res, act, _] => (plane, res, act),
        _ => return None,
    };
    let granted = match plane {
        "relayfile" | "*" => (res == resource || res == "*") && action_covers(act, action),
        "workspace" => resource == "fs" && action_covers(act, action),
        _ => false,
    };
    granted.then(|| parts.get(3).map_or("*", |p| p.trim()))
}

pub(crate) fn action_covers(granted: &str, required: &str) -> bool {
    granted == required || granted == "*" || (granted == "manage" && matches!(required, "read" | "write"))
}

pub(crate) fn pattern_covers(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix("/**") {
        _ if pattern == path => true,
        Some(dir) => dir.is_empty() || within(dir, path),
        None => pattern.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix)),
    }
}

pub(crate) fn within(dir: &str, path: &str) -> bool {
    dir == "/" || path == dir || path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

/// The payload of a JWT (RFC 7519), not verified.
fn claims(token: &str) -> Option<Value> {
    let token = TOKEN_CLASSES.iter().find_map(|class| token.strip_prefix(class)).unwrap_or(token);
    let [_, payload, _] = token.split('.').collect::<Vec<_>>()[..] else { return None };
    let bytes = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    serde_json::from_slice(&bytes).ok().filter(Value::is_object)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(path: &str) -> RemotePath {
        path.parse().unwrap()
    }

    fn token(claims: &str) -> String {
        format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#), URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn what_a_token_does_not_say_is_left_to_the_remote() {
        for opaque in ["rf_0123", "relay_pa_0123", "a.b.c", "", &token("{}"), &token(r#"{"scopes":7}"#)] {
            assert_eq!(Access::of_token(opaque), Access::unlimited(), "{opaque:?}");
        }
    }

    #[test]
    fn the_scopes_of_a_token_are_a_list_or_words_and_its_class_is_no_part_of_it() {
        let reads = Access::of(&["fs:read"]);
        for claims in [r#"{"scopes":["fs:read"]}"#, r#"{"scopes":"ops:read fs:read"}"#] {
            assert_eq!(Access::of_token(&token(claims)), reads);
            assert_eq!(Access::of_token(&format!("relay_ws_{}", token(claims))), reads);
        }
        assert!(!Access::of_token(&token(r#"{"scopes":[]}"#)).may_read("/a"), "it grants nothing");
    }

    #[test]
    fn the_limits_are_said_in_a_sentence() {
        for (scopes, at, said) in [
            (&["fs:read", "fs:write"][..], "/", None),
            (&["relayfile:fs:*"], "/", None),
            (&["fs:read"], "/", Some("read-only: the token has no fs:write scope")),
            (&["fs:read", "relayfile:fs:write:/m/x/**"], "/", Some("writable only below /m/x")),
            (&["fs:read", "relayfile:fs:write:/m/x/**"], "/m", Some("writable only below /m/x")),
            (&["fs:read", "relayfile:fs:write:/m/x/**"], "/m/x", None),
            (&["fs:read", "relayfile:fs:write:/m/x/**"], "/m/x/y", None),
            (&["fs:read", "relayfile:fs:write:/m/*"], "/m", None),
            (&["fs:read", "relayfile:fs:write:/m/f"], "/", Some("writable only at /m/f")),
            (
                &["fs:read", "relayfile:fs:write:/m/**"],
                "/n",
                Some("read-only: the token's fs:write scope covers nothing below /n: /m/**"),
            ),
            (&["relayfile:fs:manage:/m/**"], "/", Some("writable only below /m; readable only below /m")),
        ] {
            assert_eq!(Access::of(scopes).limits(&root(at)).as_deref(), said, "{scopes:?} at {at}");
        }
        assert!(Access::of(&["fs:read"]).is_read_only(&root("/")));
        assert_eq!(Access::of(&["relayfile:fs:read:/m/**", "relayfile:fs:read:/n"]).readable_dirs(), ["/m"]);
    }

    #[test]
    fn many_patterns_are_counted_and_none_steers_a_terminal() {
        let scopes: Vec<String> = (0..9).map(|i| format!("relayfile:fs:write:/\u{1b}[31m{i}/**")).collect();
        let said = Access::of(&scopes).limits(&root("/")).unwrap();
        assert!(said.contains("and 4 more") && !said.contains('\u{1b}'), "{said}");
    }
}
