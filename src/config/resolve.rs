//! Lays the layers over each other and checks each value.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::layer::{ENV, Layer, Lookup, variable};
use super::{Config, Identity, RemoteChoice, Span, TokenChoice};
use crate::path::RemotePath;
use crate::policy::Policy;
use crate::preflight::{Code, Problem, resolve_existing_part};

/// What the command line says beside its layer of settings.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    pub layer: Layer,
    pub config: Option<PathBuf>,
    pub foreground: bool,
    pub log_level: Option<log::LevelFilter>,
}

/// What is said when no source names a mountpoint; `relayfile doctor` can do without one.
pub const NO_MOUNTPOINT: &str = "no mountpoint given";

const TIMEOUT: (Duration, RangeInclusive<Duration>) =
    (Duration::from_secs(30), Duration::from_millis(100)..=Duration::from_secs(3600));
const SETTLE: (Duration, RangeInclusive<Duration>) = (Duration::from_millis(500), Duration::ZERO..=Duration::from_secs(3600));
const DRAIN: (Duration, RangeInclusive<Duration>) = (Duration::from_secs(5), Duration::ZERO..=Duration::from_secs(24 * 3600));
const WORKERS: (u32, RangeInclusive<u32>) = (4, 1..=64);
const MAX_ATTEMPTS: (u32, RangeInclusive<u32>) = (4, 1..=1000);

/// The configuration of this process: its environment, its home, its working directory.
pub fn load(flags: Flags) -> Result<Config, Problem> {
    resolve(flags, &|name| std::env::var_os(name))
}

/// As [`load`], with the variables from `lookup` (also `HOME` and the `XDG_*` directories).
pub fn resolve(flags: Flags, lookup: Lookup) -> Result<Config, Problem> {
    let dirs = Dirs { lookup };
    let environment = Layer::from_env(lookup)?;
    let file = match config_file(&flags, &dirs) {
        Some(path) => Layer::from_file(&absolute(&path)?, dirs.home().as_deref())?,
        None => Layer::default(),
    };
    let log_level = flags.log_level.unwrap_or(log::LevelFilter::Info);
    let layers = [flags.layer, environment, file];

    let mountpoint = first(&layers, |l| l.local_dir.clone()).ok_or_else(|| {
        Problem::new(Code::Usage, NO_MOUNTPOINT, "relayfile-mount /path/to/an/empty/directory (or set RELAYFILE_LOCAL_DIR)")
    })?;
    let mountpoint = resolve_existing_part(&absolute(&mountpoint)?);
    let remote = remote(&layers, &dirs)?;
    let remote_root = remote_root(first(&layers, |l| l.remote_path.clone()))?;
    let identity = Identity::new(&remote, &remote_root);
    let state_dir = match first(&layers, |l| l.state_dir.clone()) {
        Some(dir) => dir,
        None => dirs.states()?.join(identity.dir_name()),
    };
    let state_dir = resolve_existing_part(&absolute(&state_dir)?);
    let log_file = first(&layers, |l| l.log_file.clone());

    Ok(Config {
        timeout: span("--timeout", first(&layers, |l| l.timeout), TIMEOUT)?,
        settle: span("--settle", first(&layers, |l| l.settle), SETTLE)?,
        drain_timeout: span("--drain-timeout", first(&layers, |l| l.drain_timeout), DRAIN)?,
        workers: within("--workers", first(&layers, |l| l.workers), WORKERS)? as usize,
        max_attempts: within("--max-attempts", first(&layers, |l| l.max_attempts), MAX_ATTEMPTS)?,
        local_only: local_only(first(&layers, |l| l.local_only.clone()))?,
        allow_other: first(&layers, |l| l.allow_other).unwrap_or(false),
        allow_nonempty: first(&layers, |l| l.allow_nonempty).unwrap_or(false),
        read_only: first(&layers, |l| l.read_only).unwrap_or(false),
        wake_watchers: !first(&layers, |l| l.no_watch_events).unwrap_or(false),
        offline_ok: first(&layers, |l| l.offline_ok).unwrap_or(false),
        foreground: flags.foreground,
        log_file_given: log_file.is_some(),
        log_file: log_file.map(|f| absolute(&f)).transpose()?.unwrap_or_else(|| state_dir.join("mount.log")),
        log_level,
        mountpoint,
        remote,
        remote_root,
        state_dir,
    })
}

/// Where the default state directories are, of all workspaces.
pub fn states() -> Result<PathBuf, Problem> {
    Dirs { lookup: &|name| std::env::var_os(name) }.states()
}

/// The value of the first layer that has one.
fn first<T>(layers: &[Layer; 3], get: impl Fn(&Layer) -> Option<T>) -> Option<T> {
    layers.iter().find_map(get)
}

fn config_file(flags: &Flags, dirs: &Dirs) -> Option<PathBuf> {
    let named = flags.config.clone().or_else(|| variable("config", dirs.lookup).map(|(_, v)| v.into()));
    // The default is read when it is there; one that was named must be.
    named.or_else(|| {
        dirs.xdg("XDG_CONFIG_HOME", ".config", "").ok().map(|d| d.join("relayfile/mount.toml")).filter(|f| f.exists())
    })
}

fn remote(layers: &[Layer; 3], dirs: &Dirs) -> Result<RemoteChoice, Problem> {
    let workspace = first(layers, |l| l.workspace.clone());
    let token = token(layers);
    let Some(base_url) = first(layers, |l| l.base_url.clone()) else {
        let given = match (&workspace, &token) {
            (Some(_), _) => "a workspace (--workspace or RELAYFILE_WORKSPACE)",
            (None, Some(_)) => "a token (--token-file, --creds-file or RELAYFILE_TOKEN)",
            (None, None) => return embedded(layers, dirs),
        };
        return Err(Problem::new(
            Code::Usage,
            format!("{given} was given, but no base URL that it belongs to"),
            "add --base-url https://… (or RELAYFILE_BASE_URL); without any of them the embedded server is mounted",
        ));
    };
    let base_url = base_url_of(&base_url)?;
    let workspace = workspace.ok_or_else(|| {
        Problem::new(
            Code::Usage,
            format!("no workspace given for {base_url}"),
            "add --workspace NAME (or set RELAYFILE_WORKSPACE)",
        )
    })?;
    if workspace.is_empty()
        || workspace.len() > 255
        || workspace == "."
        || workspace == ".."
        || !workspace.bytes().all(workspace_byte)
    {
        return Err(Problem::new(
            Code::ConfigInvalid,
            format!("{workspace:?} cannot be the name of a workspace (--workspace or RELAYFILE_WORKSPACE)"),
            "use letters, digits, _ - . : @ only",
        ));
    }
    let token = token.ok_or_else(|| {
        Problem::new(
            Code::TokenMissing,
            format!("no token given for {base_url}"),
            "export RELAYFILE_TOKEN=…, or use --token-file FILE or --creds-file FILE",
        )
    })?;
    Ok(RemoteChoice::Http { base_url, workspace, token })
}

fn workspace_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"_-.:@".contains(&b)
}

fn embedded(layers: &[Layer; 3], dirs: &Dirs) -> Result<RemoteChoice, Problem> {
    let data_dir = match first(layers, |l| l.embedded_dir.clone()) {
        Some(dir) => dir,
        None => dirs.xdg("XDG_DATA_HOME", ".local/share", "--embedded-dir")?.join("relayfile/embedded"),
    };
    Ok(RemoteChoice::Embedded { data_dir: resolve_existing_part(&absolute(&data_dir)?) })
}

/// A file wins over a plain token of the same or a lower layer only when it is a creds file: launchers pass a first token on
/// the command line and keep the creds file fresh beside it.
fn token(layers: &[Layer; 3]) -> Option<TokenChoice> {
    let rank = |has: fn(&Layer) -> bool| layers.iter().position(has).unwrap_or(usize::MAX);
    let value = rank(|l| l.token.is_some());
    let file = rank(|l| l.token_file.is_some());
    let creds = rank(|l| l.creds_file.is_some());
    let token = first(layers, |l| l.token.clone());
    if creds != usize::MAX && creds <= file {
        return first(layers, |l| l.creds_file.clone())
            .map(|path| TokenChoice::Creds { path: made_absolute(path), fallback: token });
    }
    if value <= file {
        return token.map(TokenChoice::Value);
    }
    first(layers, |l| l.token_file.clone()).map(|path| TokenChoice::File(made_absolute(path)))
}

fn made_absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

fn base_url_of(text: &str) -> Result<String, Problem> {
    let refuse = |shown: &str, why: &str| {
        Problem::new(
            Code::BaseUrlInvalid,
            format!("{shown:?} cannot be the base URL (--base-url or RELAYFILE_BASE_URL): {why}"),
            "write it as https://host or https://host:port/path",
        )
    };
    let url = reqwest::Url::parse(text.trim()).map_err(|e| refuse(text.split('@').next_back().unwrap_or(""), &e.to_string()))?;
    // From here on only parts without user, password and query are shown.
    let shown = format!("{}://{}{}", url.scheme(), url.host_str().unwrap_or(""), url.path());
    match () {
        _ if !matches!(url.scheme(), "http" | "https") => Err(refuse(&shown, "only http and https are spoken")),
        _ if url.host_str().is_none() => Err(refuse(&shown, "it names no host")),
        _ if !url.username().is_empty() || url.password().is_some() => {
            Err(refuse(&shown, "user and password do not belong in it, the token is given apart"))
        }
        _ if url.query().is_some() || url.fragment().is_some() => Err(refuse(&shown, "it has a ? or # part")),
        _ => Ok(url.as_str().trim_end_matches('/').to_owned()),
    }
}

fn remote_root(text: Option<String>) -> Result<RemotePath, Problem> {
    let Some(text) = text else { return Ok(RemotePath::root()) };
    let trimmed = match text.trim_end_matches('/') {
        "" if text.starts_with('/') => "/",
        trimmed => trimmed,
    };
    trimmed.parse().map_err(|e| {
        Problem::new(
            Code::ConfigInvalid,
            format!("--remote-path (or RELAYFILE_REMOTE_PATH) {text:?}: {e}"),
            "write it as /directory/of/the/workspace",
        )
    })
}

fn local_only(patterns: Option<Vec<String>>) -> Result<Vec<String>, Problem> {
    let patterns = patterns.unwrap_or_default();
    match Policy::new(&patterns, "") {
        Ok(_) => Ok(patterns),
        Err(e) => Err(Problem::new(
            Code::ConfigInvalid,
            format!("--local-only (or RELAYFILE_LOCAL_ONLY) cannot be used: {e}"),
            "write each pattern as a line of a .gitignore",
        )),
    }
}

fn span(name: &str, given: Option<Span>, (default, range): (Duration, RangeInclusive<Duration>)) -> Result<Duration, Problem> {
    let value = given.map_or(default, |s| s.0);
    if range.contains(&value) { Ok(value) } else { Err(outside(name, &value, range.start(), range.end())) }
}

fn within(name: &str, given: Option<u32>, (default, range): (u32, RangeInclusive<u32>)) -> Result<u32, Problem> {
    let value = given.unwrap_or(default);
    if range.contains(&value) { Ok(value) } else { Err(outside(name, &value, range.start(), range.end())) }
}

fn outside<T: std::fmt::Debug>(name: &str, value: &T, low: &T, high: &T) -> Problem {
    // The value may have come from either.
    let variable = ENV.iter().find(|(flag, _)| name.strip_prefix("--") == Some(flag));
    let variable = variable.map(|(_, variable)| format!(" (or {variable})")).unwrap_or_default();
    Problem::new(
        Code::ConfigInvalid,
        format!("{name}{variable} is {value:?}, outside {low:?} to {high:?}"),
        format!("choose a value from {low:?} to {high:?}"),
    )
}

fn absolute(path: &Path) -> Result<PathBuf, Problem> {
    std::path::absolute(path).map_err(|e| {
        Problem::new(Code::ConfigInvalid, format!("cannot make {path:?} an absolute path: {e}"), "give an absolute path")
    })
}

/// The directories of the XDG base directory specification.
struct Dirs<'a> {
    lookup: Lookup<'a>,
}

impl Dirs<'_> {
    fn home(&self) -> Option<PathBuf> {
        (self.lookup)("HOME").map(PathBuf::from).filter(|p| p.is_absolute()).or_else(std::env::home_dir)
    }

    fn states(&self) -> Result<PathBuf, Problem> {
        Ok(self.xdg("XDG_STATE_HOME", ".local/state", "--state-dir")?.join("relayfile"))
    }

    /// `flag` is named when there is no home directory either.
    fn xdg(&self, variable: &str, below_home: &str, flag: &str) -> Result<PathBuf, Problem> {
        // "All paths set in these environment variables must be absolute" (XDG base directory specification).
        let set = (self.lookup)(variable).map(PathBuf::from).filter(|p| p.is_absolute());
        set.or_else(|| self.home().map(|h| h.join(below_home))).ok_or_else(|| {
            Problem::new(
                Code::ConfigInvalid,
                format!("neither {variable} nor HOME is set"),
                format!("set one, or use {flag} DIR"),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use std::collections::HashMap;
    use std::ffi::OsString;

    /// Resolves flags against a made-up environment whose home is `home`.
    fn config(home: &Path, layer: Layer, env: &[(&str, &str)]) -> Result<Config, Problem> {
        let mut table: HashMap<String, OsString> = env.iter().map(|(k, v)| (k.to_string(), v.into())).collect();
        table.insert("HOME".into(), home.into());
        resolve(Flags { layer, ..Flags::default() }, &|name| table.get(name).cloned())
    }

    fn at(dir: &str) -> Layer {
        Layer { local_dir: Some(dir.into()), ..Layer::default() }
    }

    const REMOTE: [(&str, &str); 3] =
        [("RELAYFILE_BASE_URL", "https://relay.example"), ("RELAYFILE_WORKSPACE", "ws"), ("RELAYFILE_TOKEN", "from-env")];

    fn code(result: Result<Config, Problem>) -> Code {
        result.expect_err("was accepted").code
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join(".config/relayfile")).unwrap();
        std::fs::write(
            home.path().join(".config/relayfile/mount.toml"),
            "workers = 1\nmax_attempts = 1\nsettle = \"1s\"\ntimeout = 7\nlocal_dir = \"~/ws\"\n",
        )
        .unwrap();
        let env = [("RELAYFILE_MOUNT_WORKERS", "2"), ("RELAYFILE_MOUNT_MAX_ATTEMPTS", "2")];
        let flags = Layer { workers: Some(3), ..Layer::default() };

        let config = config(home.path(), flags, &env).unwrap();

        assert_eq!((config.workers, config.max_attempts), (3, 2));
        assert_eq!((config.settle, config.timeout), (Duration::from_secs(1), Duration::from_secs(7)));
        assert_eq!(config.drain_timeout, Duration::from_secs(5), "the default");
        assert_eq!(config.mountpoint, home.path().canonicalize().unwrap().join("ws"));
    }

    #[test]
    fn without_a_base_url_the_embedded_server_is_mounted() {
        let home = tempfile::tempdir().unwrap();
        let config = config(home.path(), at("/mnt/ws"), &[]).unwrap();
        let data_dir = home.path().canonicalize().unwrap().join(".local/share/relayfile/embedded");
        assert_eq!(config.remote, RemoteChoice::Embedded { data_dir });
        assert_eq!(config.workspace(), "default");
        let name = config.state_dir.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("default-") && name.len() == "default-".len() + 8, "{name}");
        assert!(!config.state_dir.exists(), "resolving creates nothing");
    }

    #[test]
    fn what_belongs_to_a_base_url_is_refused_without_one() {
        let home = tempfile::tempdir().unwrap();
        for layer in [
            Layer { workspace: Some("ws".into()), ..at("/m") },
            Layer { token: Some(Secret::new("t")), ..at("/m") },
            Layer { token_file: Some("/t".into()), ..at("/m") },
        ] {
            let problem = config(home.path(), layer, &[]).unwrap_err();
            assert_eq!(problem.code, Code::Usage);
            assert!(problem.remedy.contains("--base-url"), "{problem}");
        }
    }

    #[test]
    fn the_parts_of_a_remote_are_asked_for_one_by_one() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(code(config(home.path(), Layer::default(), &[])), Code::Usage);
        assert_eq!(code(config(home.path(), at("/m"), &REMOTE[..1])), Code::Usage);
        assert_eq!(code(config(home.path(), at("/m"), &REMOTE[..2])), Code::TokenMissing);
        let config = config(home.path(), at("/m"), &REMOTE).unwrap();
        assert_eq!(config.workspace(), "ws");
        assert!(!format!("{config:?}").contains("from-env"), "the token shows in Debug");
    }

    #[test]
    fn a_creds_file_keeps_the_launch_token_as_its_fallback() {
        let layer = |token: Option<&str>, file: Option<&str>, creds: Option<&str>| Layer {
            token: token.map(Secret::new),
            token_file: file.map(Into::into),
            creds_file: creds.map(Into::into),
            ..Layer::default()
        };
        let none = || layer(None, None, None);
        let a = Secret::new("a");
        assert_eq!(token(&[none(), none(), none()]), None);
        assert_eq!(
            token(&[layer(Some("a"), None, None), layer(Some("b"), None, None), none()]),
            Some(TokenChoice::Value(a.clone()))
        );
        assert_eq!(
            token(&[layer(None, Some("/f"), None), layer(Some("b"), None, None), none()]),
            Some(TokenChoice::File("/f".into()))
        );
        assert_eq!(
            token(&[layer(Some("a"), None, None), none(), layer(None, Some("/f"), None)]),
            Some(TokenChoice::Value(a.clone()))
        );
        assert_eq!(
            token(&[layer(Some("a"), None, None), layer(None, None, Some("/c")), none()]),
            Some(TokenChoice::Creds { path: "/c".into(), fallback: Some(a) })
        );
        assert_eq!(
            token(&[layer(None, Some("/f"), None), layer(None, None, Some("/c")), none()]),
            Some(TokenChoice::File("/f".into()))
        );
    }

    #[test]
    fn what_stays_here_comes_from_one_layer_and_each_pattern_must_be_one() {
        let home = tempfile::tempdir().unwrap();
        let env = [("RELAYFILE_LOCAL_ONLY", "*.log,/build/")];
        assert_eq!(config(home.path(), at("/m"), &env).unwrap().local_only, ["*.log", "/build/"]);
        let flags = || Layer { local_only: Some(vec!["out/".into()]), ..at("/m") };
        assert_eq!(config(home.path(), flags(), &env).unwrap().local_only, ["out/"]);
        let problem = config(home.path(), at("/m"), &[("RELAYFILE_LOCAL_ONLY", "[z-a]")]).unwrap_err();
        assert!(problem.code == Code::ConfigInvalid && problem.what.contains("[z-a]"), "{problem}");
    }

    #[test]
    fn a_bad_base_url_is_refused_without_showing_what_is_secret_in_it() {
        for bad in
            ["", "relay.example", "ftp://relay.example", "https://", "https://u:hunter2@relay.example", "http://h/?token=hunter2"]
        {
            let problem = base_url_of(bad).expect_err(bad);
            assert_eq!(problem.code, Code::BaseUrlInvalid);
            assert!(!problem.to_string().contains("hunter2"), "{problem}");
        }
        assert_eq!(base_url_of("HTTPS://Relay.Example/").unwrap(), "https://relay.example");
        assert_eq!(base_url_of("http://127.0.0.1:8080/api/").unwrap(), "http://127.0.0.1:8080/api");
    }

    #[test]
    fn an_unknown_key_is_named() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("m.toml");
        std::fs::write(&file, "workers = 2\nsetle = \"1s\"\n").unwrap();
        let problem = Layer::from_file(&file, None).unwrap_err();
        assert_eq!(problem.code, Code::ConfigUnknownKey);
        assert!(problem.what.contains("`setle`") && problem.what.contains("line 2"), "{problem}");
        std::fs::write(&file, "token = \"x\"\n").unwrap();
        assert!(Layer::from_file(&file, None).unwrap_err().remedy.contains("token_file"));
        std::fs::write(&file, "workers = \"many\"\n").unwrap();
        assert_eq!(Layer::from_file(&file, None).unwrap_err().code, Code::ConfigInvalid);
        assert_eq!(Layer::from_file(&home.path().join("none.toml"), None).unwrap_err().code, Code::ConfigUnreadable);
    }

    #[test]
    fn values_outside_their_limits_are_refused() {
        let home = tempfile::tempdir().unwrap();
        for env in [
            ("RELAYFILE_MOUNT_WORKERS", "0"),
            ("RELAYFILE_MOUNT_WORKERS", "65"),
            ("RELAYFILE_MOUNT_WORKERS", "few"),
            ("RELAYFILE_MOUNT_TIMEOUT", "0"),
            ("RELAYFILE_MOUNT_TIMEOUT", "soon"),
            ("RELAYFILE_MOUNT_READ_ONLY", "perhaps"),
            ("RELAYFILE_REMOTE_PATH", "/a/../b"),
            ("RELAYFILE_REMOTE_PATH", "a"),
        ] {
            let problem = config(home.path(), at("/m"), &[env]).expect_err("was accepted");
            assert_eq!(problem.code, Code::ConfigInvalid, "{env:?}");
            assert!(problem.what.contains(env.0) && problem.what.contains(env.1), "neither name nor value: {problem}");
        }
        let config = config(home.path(), at("/m"), &[("RELAYFILE_REMOTE_PATH", "/notion/")]).unwrap();
        assert_eq!(config.remote_root.as_str(), "/notion");
    }

    #[test]
    fn what_is_wrong_with_a_variable_is_said_with_its_value_unless_it_is_a_token() {
        use std::os::unix::ffi::OsStringExt;
        let of = |name: &'static str, value: &[u8]| {
            let value = OsString::from_vec(value.to_vec());
            resolve(Flags { layer: at("/m"), ..Flags::default() }, &|n| (n == name).then(|| value.clone()))
                .unwrap_err()
                .to_string()
        };
        for (name, value, form) in [
            ("RELAYFILE_MOUNT_WORKERS", "few", "whole number"),
            ("RELAYFILE_MOUNT_SETTLE", "soon", "500ms, 5s"),
            ("RELAYFILE_MOUNT_READ_ONLY", "perhaps", "true, yes, on or 1"),
        ] {
            let text = of(name, value.as_bytes());
            assert!([name, value, form, "[CONFIG_INVALID]"].iter().all(|part| text.contains(part)), "{text}");
        }
        assert!(of("RELAYFILE_WORKSPACE", b"team\xff").contains("team"));
        let text = of("RELAYFILE_TOKEN", b"s3cr3t\xff");
        assert!(text.contains("RELAYFILE_TOKEN: its value is not valid UTF-8") && !text.contains("s3cr3t"), "{text}");
    }

    #[test]
    fn each_part_of_the_identity_changes_the_state_directory() {
        let id = |workspace: &str, base_url: &str, remote_root: &str| Identity {
            workspace: workspace.into(),
            base_url: base_url.into(),
            remote_root: remote_root.into(),
        };
        let base = id("ws", "https://relay.example", "/");
        // printf 'ws\nhttps://relay.example\n/' | sha256sum
        assert_eq!(base.dir_name(), "ws-b3d73e28");
        for other in [
            id("ws2", "https://relay.example", "/"),
            id("ws", "https://relay2.example", "/"),
            id("ws", "https://relay.example", "/n"),
        ] {
            assert_ne!(other.short_hash(), base.short_hash());
        }
        assert!(!id("../../etc", "u", "/").dir_name().contains('/'));
    }
}
