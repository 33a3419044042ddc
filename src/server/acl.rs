//! Access rules in the permissions of files: `[allow:|deny:](public | scope:S | agent:A | workspace:W)`. A directory is
//! governed by the file `.relayfile.acl` in it. Other entries of the permissions (`role:x`) are mere labels.

use rusqlite::Connection;

use super::auth::Claims;
use super::paths;
use super::store::{FileRow, Store, StoreError};

const MARKER: &str = ".relayfile.acl";

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Public,
    Scope,
    Agent,
    Workspace,
}

#[derive(Debug, PartialEq, Eq)]
struct Rule<'r> {
    deny: bool,
    kind: Kind,
    value: &'r str,
}

fn strip_prefix_ignore_case<'s>(s: &'s str, prefix: &str) -> Option<&'s str> {
    s.get(..prefix.len()).filter(|head| head.eq_ignore_ascii_case(prefix)).map(|_| &s[prefix.len()..])
}

impl Rule<'_> {
    /// `None` for a label.
    fn parse(raw: &str) -> Option<Rule<'_>> {
        let rule = raw.trim();
        let (deny, rule) = if let Some(rest) = strip_prefix_ignore_case(rule, "allow:") {
            (false, rest.trim())
        } else if let Some(rest) = strip_prefix_ignore_case(rule, "deny:") {
            (true, rest.trim())
        } else {
            (false, rule)
        };
        if ["public", "any", "*"].iter().any(|word| rule.eq_ignore_ascii_case(word)) {
            return Some(Rule { deny, kind: Kind::Public, value: "*" });
        }
        let (kind, value) = rule.split_once(':')?;
        let value = value.trim();
        let word = |c: char| c.is_ascii_alphanumeric();
        let starts_well = value.chars().next().is_some_and(word);
        let (kind, valid) = match kind.trim().to_ascii_lowercase().as_str() {
            "scope" => (
                Kind::Scope,
                value.split(':').all(|part| part.starts_with(|c: char| c.is_ascii_alphabetic()) && part.chars().all(word)),
            ),
            "agent" => (Kind::Agent, starts_well && value.len() <= 128 && value.chars().all(|c| word(c) || "._-".contains(c))),
            "workspace" => {
                (Kind::Workspace, starts_well && value.len() <= 256 && value.chars().all(|c| word(c) || "_-".contains(c)))
            }
            _ => return None,
        };
        valid.then_some(Rule { deny, kind, value })
    }
}

/// Whether `claims` may touch what `permissions` govern: a matching deny refuses, a matching allow admits, rules of which
/// none matches refuse, no rules admit.
fn allows(permissions: &[String], workspace: &str, claims: &Claims) -> bool {
    let (mut any, mut allowed) = (false, false);
    for rule in permissions.iter().filter_map(|raw| Rule::parse(raw)) {
        any = true;
        let matches = match rule.kind {
            Kind::Public => true,
            Kind::Scope => claims.scopes.contains(rule.value),
            Kind::Agent => claims.agent == rule.value,
            Kind::Workspace => workspace == rule.value,
        };
        if matches && rule.deny {
            return false;
        }
        allowed |= matches;
    }
    allowed || !any
}

/// The rules of one workspace, as they apply to one caller.
pub(crate) struct Gate<'a> {
    workspace: &'a str,
    claims: &'a Claims,
}

impl<'a> Gate<'a> {
    /// `None` for the server's own token, which no rule binds.
    pub(crate) fn new(workspace: &'a str, claims: &'a Claims) -> Option<Gate<'a>> {
        (!claims.owner).then_some(Gate { workspace, claims })
    }

    /// Whether these permissions admit the caller.
    pub(crate) fn permits(&self, permissions: &[String]) -> bool {
        allows(permissions, self.workspace, self.claims)
    }

    /// The permissions that govern a file: those of the markers above it, then its own.
    pub(crate) fn effective(conn: &Connection, ws: i64, file: &FileRow) -> rusqlite::Result<Vec<String>> {
        let mut out = markers(conn, ws, &file.path)?;
        out.extend_from_slice(&file.semantics.permissions);
        Ok(out)
    }

    /// Whether the caller may touch `path`, which need not exist. `own` counts the permissions of the file itself.
    pub(crate) fn admits(&self, store: &Store, path: &str, own: bool) -> Result<bool, StoreError> {
        store.read(|conn| {
            let Some(ws) = super::store::workspace_id(conn, self.workspace)? else { return Ok(true) };
            if !super::store::has_rules(conn, ws)? {
                return Ok(true);
            }
            // Dots and double slashes lead to the same marker as the plain path.
            let path = collapse(path);
            let mut permissions = markers(conn, ws, &path)?;
            if own {
                permissions.extend(super::store::permissions_at(conn, ws, &path)?);
            }
            Ok(self.permits(&permissions))
        })
    }
}

fn markers(conn: &Connection, ws: i64, path: &str) -> rusqlite::Result<Vec<String>> {
    let mut out = Vec::new();
    for dir in paths::ancestors(path) {
        let marker = format!("{}{MARKER}", paths::below(&dir));
        if marker != path {
            out.extend(super::store::permissions_at(conn, ws, &marker)?);
        }
    }
    Ok(out)
}

fn collapse(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.trim().split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(agent: &str, scopes: &[&str]) -> Claims {
        Claims { agent: agent.into(), scopes: scopes.iter().map(|s| s.to_string()).collect(), ..Claims::default() }
    }

    #[test]
    fn rules_deny_first_and_fail_closed() {
        let bob = claims("bob", &["fs:read"]);
        for (permissions, want) in [
            (&[][..], true),
            (&["role:x"], true),
            (&["agent:bob"], true),
            (&["agent:alice"], false),
            (&["deny:agent:bob", "public"], false),
            (&["Deny:Agent:alice", "*"], true),
            (&["scope:fs:read"], true),
            (&["workspace:w"], true),
            (&["deny:workspace:w"], false),
            (&["agent:no/slash"], true),
        ] {
            let permissions: Vec<String> = permissions.iter().map(|s| s.to_string()).collect();
            assert_eq!(allows(&permissions, "w", &bob), want, "{permissions:?}");
        }
    }

    #[test]
    fn dots_do_not_walk_around_a_marker() {
        assert_eq!(collapse("/x/../secret//./f"), "/secret/f");
        assert_eq!(collapse("../.."), "/");
    }
}
