//! Who is asking: the server's own token, or an HS256 JWT signed with its secret.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::{Map, Value};

use super::reply::ApiError;
use crate::access::{TOKEN_CLASSES, action_covers, pattern_covers, pattern_of};

/// What a token says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Claims {
    pub workspace: String,
    pub agent: String,
    pub scopes: BTreeSet<String>,
    /// The server's own token: every scope on every workspace, bound by no access rule.
    pub owner: bool,
}

/// Knows the server's token and the secret that JWTs are signed with. Neither is ever shown.
pub(crate) struct Verifier {
    token: String,
    key: hmac::Key,
}

impl Verifier {
    pub(crate) fn new(token: String, jwt_secret: &str) -> Verifier {
        Verifier { token, key: hmac::Key::new(hmac::HMAC_SHA256, jwt_secret.as_bytes()) }
    }

    /// The claims of an `Authorization` header, or of `Bearer ` and a query parameter. `now` is in seconds since 1970.
    pub(crate) fn verify(&self, header: &str, now: i64) -> Result<Claims, ApiError> {
        let Some(raw) = header.strip_prefix("Bearer ") else {
            return Err(unauthorized("missing or invalid bearer token"));
        };
        let raw = raw.trim();
        if same(raw.as_bytes(), self.token.as_bytes()) {
            return Ok(Claims { agent: "owner".into(), owner: true, ..Claims::default() });
        }
        let raw = TOKEN_CLASSES.iter().find_map(|class| raw.strip_prefix(class)).unwrap_or(raw);
        let [header, payload, signature] = raw.split('.').collect::<Vec<_>>()[..] else {
            return Err(unauthorized("invalid jwt format"));
        };
        let header_claims = decode_object(header).ok_or_else(|| unauthorized("invalid jwt header"))?;
        let payload_bytes = URL_SAFE_NO_PAD.decode(payload).map_err(|_| unauthorized("invalid jwt payload"))?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| unauthorized("invalid jwt signature"))?;
        if header_claims.get("alg").and_then(Value::as_str) != Some("HS256") {
            return Err(unauthorized("unsupported jwt algorithm"));
        }
        let signed = &raw[..header.len() + 1 + payload.len()];
        // HS256 is HMAC with SHA-256 (RFC 7518 section 3.2), compared in constant time.
        if hmac::verify(&self.key, signed.as_bytes(), &signature).is_err() {
            return Err(unauthorized("jwt signature mismatch"));
        }
        let Ok(Value::Object(claims)) = serde_json::from_slice(&payload_bytes) else {
            return Err(unauthorized("invalid jwt payload"));
        };
        check_claims(&claims, now)
    }
}

fn check_claims(claims: &Map<String, Value>, now: i64) -> Result<Claims, ApiError> {
    let text =
        |keys: [&str; 2]| keys.iter().find_map(|k| claims.get(*k)?.as_str().filter(|s| !s.trim().is_empty())).map(str::to_owned);
    let workspace = text(["wks", "workspace_id"]).ok_or_else(|| unauthorized("missing workspace claim"))?;
    let agent = text(["sub", "agent_name"]).ok_or_else(|| unauthorized("missing subject claim"))?;
    let exp = claims.get("exp").and_then(Value::as_f64).ok_or_else(|| unauthorized("invalid exp claim"))?;
    if now >= exp as i64 {
        return Err(unauthorized("token expired"));
    }
    let audience = match claims.get("aud") {
        Some(Value::String(aud)) => aud.trim() == "relayfile",
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).any(|aud| aud.trim() == "relayfile"),
        _ => false,
    };
    if !audience {
        return Err(unauthorized("invalid aud claim"));
    }
    let scopes: BTreeSet<String> = match claims.get("scopes") {
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).filter(|s| !s.is_empty()).map(Into::into).collect(),
        Some(Value::String(list)) => list.split_whitespace().map(Into::into).collect(),
        _ => BTreeSet::new(),
    };
    if scopes.is_empty() {
        return Err(ApiError::forbidden("no scopes granted"));
    }
    Ok(Claims { workspace, agent, scopes, owner: false })
}

impl Claims {
    /// Refuses a token of another workspace.
    pub(crate) fn check_workspace(&self, workspace: &str) -> Result<(), ApiError> {
        if self.owner || self.workspace == workspace { Ok(()) } else { Err(ApiError::forbidden("workspace mismatch")) }
    }

    /// Refuses a token that lacks `scope` (`resource:action`), on `path` where one is given.
    pub(crate) fn check_scope(&self, scope: &str, path: Option<&str>) -> Result<(), ApiError> {
        let held = match path {
            Some(path) if !path.is_empty() => self.holds_on(scope, path),
            _ => self.holds(scope),
        };
        if held { Ok(()) } else { Err(ApiError::forbidden(format!("missing required scope: {scope}"))) }
    }

    fn holds(&self, required: &str) -> bool {
        if self.owner || self.scopes.contains(required) {
            return true;
        }
        let Some((resource, action)) = required.split_once(':') else { return false };
        self.scopes.iter().any(|scope| {
            let mut parts = scope.splitn(4, ':');
            let (plane, res, act) = (parts.next(), parts.next(), parts.next());
            matches!(plane, Some("relayfile" | "*"))
                && res.is_some_and(|r| r == resource || r == "*")
                && act.is_some_and(|a| action_covers(a, action))
        })
    }

    /// Whether the token holds `required` on `path`. A scope with a path narrows: beside it the plain scope grants nothing.
    pub(crate) fn holds_on(&self, required: &str, path: &str) -> bool {
        if self.owner {
            return true;
        }
        let path = path.trim();
        let mut narrowed = false;
        for scope in &self.scopes {
            match pattern_of(scope, required) {
                None => continue,
                Some("*") => return true,
                Some(pattern) => {
                    narrowed = true;
                    if !path.is_empty() && pattern_covers(pattern, path) {
                        return true;
                    }
                }
            }
        }
        self.scopes.contains(required) && !narrowed
    }

    /// Whether the token may see how the server is doing.
    pub(crate) fn is_admin(&self) -> bool {
        self.owner || self.scopes.contains("admin:read") || self.scopes.contains("admin:replay")
    }
}

fn decode_object(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

fn unauthorized(message: &str) -> ApiError {
    ApiError::unauthorized(message)
}

/// Compares without telling by its time where the difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |diff, (x, y)| diff | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7515, appendix A.1: its key, and its token, which says neither workspace nor audience.
    #[test]
    fn a_signature_is_checked_as_the_standard_says() {
        let key = URL_SAFE_NO_PAD
            .decode("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow")
            .unwrap();
        let verifier = Verifier { token: "own".into(), key: hmac::Key::new(hmac::HMAC_SHA256, &key) };
        let signed = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.\
                      eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let why = |signature: &str| match verifier.verify(&format!("Bearer {signed}.{signature}"), 0) {
            Ok(_) => "accepted".to_owned(),
            Err(e) => e.message,
        };
        assert_eq!(why("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"), "missing workspace claim");
        assert_eq!(why("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXg"), "jwt signature mismatch");
        assert_eq!(why("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjQ"), "jwt signature mismatch", "cut");
        assert_eq!(why("dBjf*JeZ4CVP"), "invalid jwt signature");
    }

    fn holding(scopes: &[&str]) -> Claims {
        Claims { scopes: scopes.iter().map(|s| s.to_string()).collect(), ..Claims::default() }
    }

    #[test]
    fn a_scope_with_a_path_grants_that_path_only() {
        for (scopes, required, path, want) in [
            (&["fs:read"][..], "fs:read", "/a", true),
            (&["fs:read"], "fs:write", "/a", false),
            (&["relayfile:fs:read:/m/**"], "fs:read", "/m", true),
            (&["relayfile:fs:read:/m/**"], "fs:read", "/m/x/y", true),
            (&["relayfile:fs:read:/m/**"], "fs:read", "/mx", false),
            (&["relayfile:fs:read:/m/**"], "fs:read", "/", false),
            (&["relayfile:fs:read:/m/**", "fs:read"], "fs:read", "/other", false),
            (&["relayfile:fs:manage:/m/*"], "fs:write", "/m/x", true),
            (&["relayfile:fs:manage:/m/*"], "fs:write", "/m", false),
            (&["relayfile:*:*"], "fs:write", "/x", true),
            (&["workspace:ws:read:/d/**"], "fs:read", "/d/1", true),
            (&["relayfile:fs:read:/pre*"], "fs:read", "/prefix", true),
            (&["relayfile:fs:read:/**"], "fs:read", "/any", true),
        ] {
            assert_eq!(holding(scopes).holds_on(required, path), want, "{scopes:?} {required} {path}");
        }
        assert!(holding(&["relayfile:ops:read"]).check_scope("ops:read", None).is_ok());
        assert!(holding(&["fs:read"]).check_scope("ops:read", None).is_err());
    }

    /// Who mounts with a token must be refused here and there alike.
    #[test]
    fn a_client_reads_a_scope_as_this_server_does() {
        let scopes = [
            "fs:read",
            "fs:write",
            "ops:read",
            "fs",
            "relayfile:fs:read",
            "relayfile:fs:*",
            "relayfile:*:*",
            "*:fs:manage",
            "relayfile:ops:write",
            "relayfile:fs:write:/m/**",
            "relayfile:fs:read:/m/**",
            "relayfile:fs:manage:/m/*",
            "relayfile:fs:write:/m/x",
            "relayfile:fs:write:/pre*",
            "relayfile:fs:write:/**",
            "relayfile:fs:write://**",
            "relayfile:fs:write:*",
            "relayfile:fs:write: /m/x ",
            "relayfile:fs:write:",
            "relayfile:fs:write:/a:b/**",
            "workspace:ws:read:/d/**",
            "workspace:ws:write",
            "other:fs:write:/m/**",
        ];
        let paths = ["/", "/m", "/m/x", "/m/x/y", "/mx", "/prefix", "/pre/f", "/d/1", "/a:b/c", "/a", " /m/x ", ""];
        for one in scopes {
            for two in scopes {
                let (server, client) = (holding(&[one, two]), crate::access::Access::of(&[one, two]));
                for path in paths {
                    let said = format!("{one} and {two} on {path:?}");
                    assert_eq!(client.may_write(path), server.holds_on("fs:write", path), "writing: {said}");
                    assert_eq!(client.may_read(path), server.holds_on("fs:read", path), "reading: {said}");
                }
            }
        }
    }

    #[test]
    fn the_own_token_is_compared_whole() {
        assert!(same(b"abc", b"abc"));
        assert!(!same(b"abc", b"abd"));
        assert!(!same(b"abc", b"ab"));
    }
}
