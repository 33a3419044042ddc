//! One source of settings: the flags, the environment or the file. All of it optional; [`super::resolve`] lays them over each
//! other.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::duration::Span;
use super::secret::Secret;
use crate::preflight::{Code, Problem, shell_word};

/// The settings of one source. The field names are the keys of the configuration file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    pub local_dir: Option<PathBuf>,
    pub base_url: Option<String>,
    pub workspace: Option<String>,
    pub remote_path: Option<String>,
    /// Not a key of the file: a file that holds a secret is named by `token_file`.
    #[serde(skip)]
    pub token: Option<Secret>,
    pub token_file: Option<PathBuf>,
    pub creds_file: Option<PathBuf>,
    pub embedded_dir: Option<PathBuf>,
    pub state_dir: Option<PathBuf>,
    pub log_file: Option<PathBuf>,
    pub timeout: Option<Span>,
    pub settle: Option<Span>,
    pub drain_timeout: Option<Span>,
    pub workers: Option<u32>,
    pub max_attempts: Option<u32>,
    pub local_only: Option<Vec<String>>,
    pub allow_other: Option<bool>,
    pub allow_nonempty: Option<bool>,
    pub read_only: Option<bool>,
    pub no_watch_events: Option<bool>,
    pub offline_ok: Option<bool>,
}

/// The environment variables, each with the long flag that it stands for. `--help` names them and a test compares the two.
pub const ENV: [(&str, &str); 21] = [
    ("local-dir", "RELAYFILE_LOCAL_DIR"),
    ("base-url", "RELAYFILE_BASE_URL"),
    ("workspace", "RELAYFILE_WORKSPACE"),
    ("remote-path", "RELAYFILE_REMOTE_PATH"),
    ("token", "RELAYFILE_TOKEN"),
    ("token-file", "RELAYFILE_TOKEN_FILE"),
    ("creds-file", "RELAYFILE_MOUNT_CREDS_FILE"),
    ("embedded-dir", "RELAYFILE_EMBEDDED_DIR"),
    ("state-dir", "RELAYFILE_MOUNT_STATE_DIR"),
    ("log-file", "RELAYFILE_MOUNT_LOG_FILE"),
    ("timeout", "RELAYFILE_MOUNT_TIMEOUT"),
    ("settle", "RELAYFILE_MOUNT_SETTLE"),
    ("drain-timeout", "RELAYFILE_MOUNT_DRAIN_TIMEOUT"),
    ("workers", "RELAYFILE_MOUNT_WORKERS"),
    ("max-attempts", "RELAYFILE_MOUNT_MAX_ATTEMPTS"),
    ("local-only", "RELAYFILE_LOCAL_ONLY"),
    ("allow-other", "RELAYFILE_MOUNT_ALLOW_OTHER"),
    ("read-only", "RELAYFILE_MOUNT_READ_ONLY"),
    ("no-watch-events", "RELAYFILE_MOUNT_NO_WATCH_EVENTS"),
    ("offline-ok", "RELAYFILE_MOUNT_OFFLINE_OK"),
    ("config", "RELAYFILE_MOUNT_CONFIG"),
];

/// Where variables are looked up; the process's environment, or a table in a test.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The variable that stands for `flag`, unless it is unset or empty.
pub fn variable(flag: &str, lookup: Lookup) -> Option<(&'static str, OsString)> {
    let (_, name) = ENV.iter().find(|(f, _)| *f == flag)?;
    lookup(name).filter(|v| !v.is_empty()).map(|v| (*name, v))
}

impl Layer {
    /// The settings that the environment holds.
    pub fn from_env(lookup: Lookup) -> Result<Layer, Problem> {
        let text = |flag| {
            variable(flag, lookup)
                .map(|(name, value)| {
                    value.into_string().map(|v| (name, v)).map_err(|value| {
                        // A token is never shown, not even a broken one.
                        let shown = if flag == "token" { "its value".into() } else { format!("{value:?}") };
                        invalid(name, format!("{shown} is not valid UTF-8 (write plain text)"))
                    })
                })
                .transpose()
        };
        let path = |flag| variable(flag, lookup).map(|(_, value)| PathBuf::from(value));
        let string = |flag| Ok::<_, Problem>(text(flag)?.map(|(_, v)| v));
        let span = |flag| text(flag)?.map(|(name, v)| v.parse().map_err(|e| invalid(name, e))).transpose();
        let number = |flag| text(flag)?.map(|(name, v)| parse_number(&v).map_err(|e| invalid(name, e))).transpose();
        let switch = |flag| text(flag)?.map(|(name, v)| parse_bool(&v).map_err(|e| invalid(name, e))).transpose();
        Ok(Layer {
            local_dir: path("local-dir"),
            base_url: string("base-url")?,
            workspace: string("workspace")?,
            remote_path: string("remote-path")?,
            token: string("token")?.map(Secret::new),
            token_file: path("token-file"),
            creds_file: path("creds-file"),
            embedded_dir: path("embedded-dir"),
            state_dir: path("state-dir"),
            log_file: path("log-file"),
            timeout: span("timeout")?,
            settle: span("settle")?,
            drain_timeout: span("drain-timeout")?,
            workers: number("workers")?,
            max_attempts: number("max-attempts")?,
            // A pattern with a comma in it goes into the file or into `.relayignore`.
            local_only: string("local-only")?.map(|v| v.split(',').filter(|p| !p.is_empty()).map(str::to_owned).collect()),
            allow_other: switch("allow-other")?,
            allow_nonempty: None,
            read_only: switch("read-only")?,
            no_watch_events: switch("no-watch-events")?,
            offline_ok: switch("offline-ok")?,
        })
    }

    /// The settings of a TOML file. Relative paths in it count from its directory, `~/` from `home`.
    pub fn from_file(file: &Path, home: Option<&Path>) -> Result<Layer, Problem> {
        let text = std::fs::read_to_string(file).map_err(|e| {
            Problem::new(
                Code::ConfigUnreadable,
                format!("cannot read the configuration file {}: {e}", file.display()),
                format!("ls -l {}", shell_word(file)),
            )
        })?;
        let mut layer: Layer = toml::from_str(&text).map_err(|e| file_problem(file, &text, &e))?;
        let base = file.parent().unwrap_or(Path::new("/"));
        for path in [
            &mut layer.local_dir,
            &mut layer.token_file,
            &mut layer.creds_file,
            &mut layer.embedded_dir,
            &mut layer.state_dir,
            &mut layer.log_file,
        ]
        .into_iter()
        .flatten()
        {
            *path = match (path.strip_prefix("~"), home) {
                (Ok(rest), Some(home)) => home.join(rest),
                _ => base.join(&*path),
            };
        }
        Ok(layer)
    }
}

fn file_problem(file: &Path, text: &str, error: &toml::de::Error) -> Problem {
    let line = error.span().map(|s| text[..s.start.min(text.len())].matches('\n').count() + 1);
    let place = line.map(|n| format!(" line {n}")).unwrap_or_default();
    let message = error.message();
    if message.starts_with("unknown field `token`") {
        return Problem::new(
            Code::ConfigUnknownKey,
            format!("{}{place}: a token does not belong in the configuration file", file.display()),
            "put it into a file of its own (chmod 600) and name that with token_file = \"…\"",
        );
    }
    let code = if message.starts_with("unknown field") { Code::ConfigUnknownKey } else { Code::ConfigInvalid };
    Problem::new(
        code,
        format!("{}{place}: {}", file.display(), message.replace("unknown field", "unknown key")),
        format!("edit {}", shell_word(file)),
    )
}

/// `error` names the value and the form that it should have.
fn invalid(name: &str, error: impl std::fmt::Display) -> Problem {
    Problem::new(
        Code::ConfigInvalid,
        format!("the environment variable {name}: {error}"),
        format!("correct it, or: unset {name}"),
    )
}

/// The limits are those of the setting; `resolve` looks at them.
fn parse_number(text: &str) -> Result<u32, String> {
    text.trim().parse().map_err(|_| format!("{text:?} is not a whole number (write it in digits, such as 4)"))
}

fn parse_bool(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false (write true, yes, on or 1, or false, no, off or 0)")),
    }
}
