//! What can be seen of a token without asking the remote. No signature is checked here: only the remote can.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::problem::{Code, Problem};
use crate::config::Secret;

/// Longest token that fits the header limits of common servers, in bytes.
const TOKEN_MAX: usize = 16 * 1024;

/// Refuses a token that the remote would refuse: unprintable, not decodable, expired, of another workspace. A token that
/// is no JWT passes: some deployments and the embedded server give out opaque ones.
pub fn check_token(token: &Secret, workspace: &str) -> Result<(), Problem> {
    check_token_at(token, workspace, jiff::Timestamp::now())
}

fn check_token_at(token: &Secret, workspace: &str, now: jiff::Timestamp) -> Result<(), Problem> {
    let text = token.expose();
    if text.len() > TOKEN_MAX || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(malformed("it holds spaces, line breaks or other characters that no token has"));
    }
    let Some(claims) = claims(text)? else { return Ok(()) };
    if let Some(exp) = claims.get("exp").and_then(Value::as_f64)
        && let Ok(exp) = jiff::Timestamp::from_second(exp as i64)
        && exp <= now
    {
        return Err(Problem::new(
            Code::TokenExpired,
            format!("the token expired at {exp} ({} ago)", age(now, exp)),
            "get a new token; with --token-file or --creds-file a renewed one is picked up without a restart",
        ));
    }
    let claimed = claims.get("workspace_id").or_else(|| claims.get("wks")).and_then(Value::as_str);
    match claimed {
        Some(claimed) if claimed != workspace => Err(Problem::new(
            Code::TokenWrongWorkspace,
            format!("the token is for workspace {claimed:?}, not {workspace:?}"),
            format!("use --workspace {claimed}, or a token for {workspace}"),
        )),
        _ => Ok(()),
    }
}

/// The claims of a JWT (RFC 7519: three parts of base64url, the first two JSON objects); `None` for an opaque token.
fn claims(text: &str) -> Result<Option<Value>, Problem> {
    let parts: Vec<&str> = text.split('.').collect();
    // A JWT header is a JSON object, and `{"` is `eyJ` in base64: anything else is not meant to be one.
    if !text.starts_with("eyJ") {
        return Ok(None);
    }
    let [header, payload, _signature] = parts[..] else {
        return Err(malformed(&format!("it begins like a JWT but has {} parts instead of 3; was it cut?", parts.len())));
    };
    let object = |part: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok()?;
        serde_json::from_slice::<Value>(&bytes).ok().filter(Value::is_object)
    };
    match (object(header), object(payload)) {
        (Some(_), Some(claims)) => Ok(Some(claims)),
        _ => Err(malformed("it begins like a JWT but cannot be decoded; was it cut?")),
    }
}

fn malformed(why: &str) -> Problem {
    Problem::new(Code::TokenMalformed, format!("the token is not usable: {why}"), "copy it again, whole and on one line")
}

fn age(now: jiff::Timestamp, then: jiff::Timestamp) -> String {
    match now.as_second() - then.as_second() {
        s @ ..120 => format!("{s} seconds"),
        s @ ..7200 => format!("{} minutes", s / 60),
        s @ ..172_800 => format!("{} hours", s / 3600),
        s => format!("{} days", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jwt(claims: &str) -> Secret {
        let part = |s: &str| URL_SAFE_NO_PAD.encode(s);
        Secret::new(format!("{}.{}.c2ln", part(r#"{"alg":"RS256"}"#), part(claims)))
    }

    fn check(token: &Secret) -> Result<(), Code> {
        check_token_at(token, "ws", jiff::Timestamp::from_second(1_000_000).unwrap()).map_err(|p| p.code)
    }

    #[test]
    fn a_token_of_this_workspace_that_has_not_expired_passes() {
        assert_eq!(check(&jwt(r#"{"workspace_id":"ws","exp":1000001}"#)), Ok(()));
        assert_eq!(check(&jwt(r#"{"wks":"ws"}"#)), Ok(()));
        assert_eq!(check(&Secret::new("relay_pa_0123456789")), Ok(()), "an opaque token");
    }

    #[test]
    fn an_expired_token_is_refused_with_its_time() {
        let token = jwt(r#"{"workspace_id":"ws","exp":1000000}"#);
        assert_eq!(check(&token), Err(Code::TokenExpired));
        let problem = check_token_at(&token, "ws", jiff::Timestamp::from_second(1_010_800).unwrap()).unwrap_err();
        assert!(problem.what.contains("1970-01-12T13:46:40Z") && problem.what.contains("3 hours ago"), "{problem}");
    }

    #[test]
    fn a_token_of_another_workspace_is_refused() {
        assert_eq!(check(&jwt(r#"{"workspace_id":"other"}"#)), Err(Code::TokenWrongWorkspace));
        assert_eq!(check(&jwt(r#"{"wks":"other"}"#)), Err(Code::TokenWrongWorkspace));
    }

    #[test]
    fn what_is_no_token_is_refused_without_being_shown() {
        let cut = jwt(r#"{"exp":1}"#).expose()[..30].to_owned();
        for bad in ["two words", "line\nbreak", "eyJhbGciOiJSUzI1NiJ9", "eyJhbGciOiJSUzI1NiJ9.!!!.x", "caf\u{e9}", &cut] {
            let problem = check_token_at(&Secret::new(bad), "ws", jiff::Timestamp::UNIX_EPOCH).unwrap_err();
            assert_eq!(problem.code, Code::TokenMalformed, "{bad:?}");
            assert!(!problem.to_string().contains(bad), "{problem}");
        }
    }
}
