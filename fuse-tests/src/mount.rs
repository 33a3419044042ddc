//! A mount of a test: a real process on a real mountpoint.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use serde_json::Value;

use crate::server::WORKSPACE;
use crate::{Server, binary, eventually, sys, until};

/// A test that holds a mount longer than this hangs: its mount is killed, and what waits for it gets ENOTCONN.
const HANGS_AFTER: Duration = Duration::from_secs(120);
/// `nobody` on most systems; whatever it is called, it has no rights.
const UNPRIVILEGED: u32 = 65_534;
/// How much of the log a failing test prints, in bytes.
const LOG_TAIL: usize = 8000;

/// How a mount is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long a file must stand still before it is uploaded. Short by default, so that tests are fast.
    pub settle: &'static str,
    /// More flags.
    pub flags: Vec<String>,
    /// Variables of the environment.
    pub env: Vec<(&'static str, String)>,
    /// Waits until the whole tree is known. Not possible while the remote does not answer.
    pub learned: bool,
    /// The number of the user and group that mount, by fusermount3; root when `None`.
    pub user: Option<u32>,
}

impl Default for Options {
    fn default() -> Options {
        Options { settle: "100ms", flags: Vec::new(), env: Vec::new(), learned: true, user: None }
    }
}

impl Options {
    /// The settle window that users have.
    pub fn settle_as_shipped() -> Options {
        Options { settle: "500ms", ..Options::default() }
    }

    /// Nothing is uploaded while the mount runs, unless something asks for it.
    pub fn never_settle() -> Options {
        Options { settle: "1h", ..Options::default() }
    }

    /// Mounted by a user without rights, whom even root cannot follow into the mount: see [`Mount::user_command`].
    pub fn unprivileged() -> Options {
        Options { user: Some(UNPRIVILEGED), ..Options::default() }
    }

    pub fn flag(mut self, flag: &str) -> Options {
        self.flags.push(flag.to_owned());
        self
    }
}

/// A mountpoint, a state directory and, while it runs, the process that serves them. Dropping it takes all away.
pub struct Mount {
    dir: tempfile::TempDir,
    path: PathBuf,
    state_dir: PathBuf,
    url: String,
    token_file: PathBuf,
    options: Options,
    process: Option<Child>,
    watchdog: Option<Sender<()>>,
}

impl Mount {
    /// Mounts the workspace of a server and returns when the mount can be used.
    #[track_caller]
    pub fn start(server: &Server) -> Mount {
        Mount::with(server, Options::default())
    }

    #[track_caller]
    pub fn with(server: &Server, options: Options) -> Mount {
        let mut mount = Mount::unstarted(server, options);
        mount.start_again();
        mount
    }

    /// Directories and flags for a mount that is not started.
    pub fn unstarted(server: &Server, options: Options) -> Mount {
        assert!(Path::new("/dev/fuse").exists(), "/dev/fuse is missing: load the fuse module, or give it to the container");
        let dir = tempfile::Builder::new().prefix("relay-mnt-").tempdir().expect("a temporary directory");
        std::fs::create_dir(dir.path().join("ws")).expect("a mountpoint");
        let (url, token_file) = (server.url().to_owned(), server.token_file());
        let (path, state_dir) = (dir.path().join("ws"), dir.path().join("state"));
        let token_file = match options.user {
            Some(user) => hand_over(dir.path(), &token_file, user),
            None => token_file,
        };
        Mount { dir, path, state_dir, url, token_file, options, process: None, watchdog: None }
    }

    /// The mountpoint.
    pub fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// A path in the mount.
    pub fn at(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Everything of this mount: mountpoint, state, log, and the home of its process.
    pub fn home(&self) -> &Path {
        self.dir.path()
    }

    pub fn set_url(&mut self, url: &str) {
        self.url = url.to_owned();
    }

    pub fn set_path(&mut self, path: &Path) {
        self.path = path.to_owned();
    }

    pub fn set_token_file(&mut self, file: &Path) {
        self.token_file = file.to_owned();
    }

    pub fn set_state_dir(&mut self, dir: &Path) {
        self.state_dir = dir.to_owned();
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("mount.log")
    }

    pub fn log(&self) -> String {
        std::fs::read(self.log_path()).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("a running mount").id()
    }

    /// The command line of this mount, in an environment of its own.
    pub fn command(&self) -> Command {
        let mut command = match self.options.user {
            Some(_) => self.user_command(&self.dir.path().join(COPY)),
            None => Command::new(binary("relayfile-mount")),
        };
        isolate(&mut command, self.dir.path());
        command.args(["--base-url", &self.url, "--workspace", WORKSPACE, "--settle", self.options.settle, "-v"]);
        command.arg("--token-file").arg(&self.token_file).arg("--state-dir").arg(self.state_dir());
        command.args(&self.options.flags).arg(self.path()).envs(self.options.env.iter().map(|(k, v)| (k, v)));
        command
    }

    /// A program run by the user who mounts.
    pub fn user_command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        if let Some(user) = self.options.user {
            command.uid(user).gid(user);
        }
        command
    }

    /// A command of the operator's tool, in the environment of this mount.
    pub fn relayfile(&self) -> Command {
        let mut command = Command::new(binary("relayfile"));
        isolate(&mut command, self.dir.path());
        command
    }

    /// `relayfile writeback ARGS… --state-dir DIR`, without a token.
    pub fn writeback(&self, args: &[&str]) -> Command {
        let mut command = self.relayfile();
        command.arg("writeback").args(args).arg("--state-dir").arg(self.state_dir());
        command
    }

    /// The exit code of `relayfile writeback ARGS…`, with its output where it is another than expected.
    #[track_caller]
    pub fn writeback_ends_with(&self, args: &[&str], expected: i32) -> String {
        let out = crate::output(&mut self.writeback(args));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&out.stdout), text(&out.stderr));
        assert_eq!(out.status.code(), Some(expected), "relayfile writeback {args:?}\n{stdout}{stderr}");
        stdout + &stderr
    }

    /// What `relayfile writeback ARGS… --json` prints.
    #[track_caller]
    pub fn writeback_json(&self, args: &[&str]) -> Value {
        let out = crate::output(self.writeback(args).arg("--json"));
        serde_json::from_slice(&out.stdout)
            .unwrap_or_else(|e| panic!("relayfile writeback {args:?} --json: {e}: {}", String::from_utf8_lossy(&out.stderr)))
    }

    /// `relayfile writeback drain` with the token of the server.
    pub fn drain(&self, args: &[&str]) -> Command {
        let mut command = self.writeback(&[&["drain"], args].concat());
        command.arg("--token-file").arg(&self.token_file);
        command
    }

    /// A variable of the environment of the next start.
    pub fn set_env(&mut self, name: &'static str, value: &str) {
        self.options.env.push((name, value.to_owned()));
    }

    pub fn clear_env(&mut self) {
        self.options.env.clear();
    }

    /// Waits for the end of a mount that kills itself, and takes its endpoint away.
    #[track_caller]
    pub fn wait_killed(&mut self) {
        use std::os::unix::process::ExitStatusExt;
        let status = eventually("the mount dies", || self.ended());
        assert_eq!(status.signal(), Some(libc::SIGKILL), "the mount ended with {status}");
        self.watchdog = None;
        self.process = None;
        self.detach();
    }

    /// Starts the process without waiting for anything: it may die at once.
    #[track_caller]
    pub fn start_to_die(&mut self) {
        self.spawn();
    }

    /// From now on this mount starts although the remote does not answer.
    pub fn allow_offline(&mut self) {
        self.options.flags.push("--offline-ok".into());
    }

    /// Starts the process, for the first time or on the state that an earlier one left, and waits until it can be used.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.spawn();
        let learned = self.options.learned;
        eventually("the mount can be used", || {
            if let Some(status) = self.ended() {
                panic!("the mount ended with {status}");
            }
            if !is_mounted(&self.path()) {
                return None;
            }
            let state = self.try_state()?;
            (!learned || state["treeKnown"] == true).then_some(())
        });
    }

    #[track_caller]
    fn spawn(&mut self) {
        assert!(self.process.is_none(), "the mount runs already");
        let log = File::options().create(true).append(true).open(self.log_path()).expect("the log");
        let mut command = self.command();
        command.arg("--foreground").stdin(Stdio::null()).stdout(log.try_clone().expect("the log")).stderr(log);
        sys::die_with_parent(&mut command);
        self.process = Some(command.spawn().expect("the mount starts"));
        self.watch();
    }

    /// Kills a mount that outlives every sensible test: a system call that waits for it could not be interrupted.
    fn watch(&mut self) {
        let (alive, ended) = channel::<()>();
        let pid = self.pid();
        std::thread::spawn(move || {
            if ended.recv_timeout(HANGS_AFTER) == Err(RecvTimeoutError::Timeout) {
                eprintln!("the mount of this test is killed: the test has not ended within {HANGS_AFTER:?}");
                sys::signal(pid, libc::SIGKILL);
            }
        });
        self.watchdog = Some(alive);
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.process.as_mut()?.try_wait().expect("the state of the mount")
    }

    /// Ends the process as a crash or the OOM killer would. The endpoint stays behind, dead.
    #[track_caller]
    pub fn kill9(&mut self) {
        self.watchdog = None;
        let mut process = self.process.take().expect("a running mount");
        process.kill().expect("the mount is killed");
        process.wait().expect("the mount ends");
    }

    /// Takes a dead endpoint away.
    pub fn detach(&self) {
        sys::detach(&self.path());
    }

    /// Asks for the end as a service manager does, and returns the exit code.
    #[track_caller]
    pub fn unmount(&mut self) -> i32 {
        sys::signal(self.pid(), libc::SIGTERM);
        self.wait_ended()
    }

    /// Waits for the end that something else caused, and returns the exit code.
    #[track_caller]
    pub fn wait_ended(&mut self) -> i32 {
        let status = eventually("the mount ends", || self.ended());
        self.watchdog = None;
        self.process = None;
        assert!(!is_mounted(&self.path()), "the mount has ended with {status} and the mountpoint is still mounted");
        status.code().unwrap_or_else(|| panic!("the mount ended with {status}"))
    }

    /// Unmounts, which must leave nothing queued, and mounts again.
    #[track_caller]
    pub fn remount(&mut self) {
        let code = self.unmount();
        assert!(matches!(code, 0 | 9), "the exit code of the unmount is {code}");
        self.start_again();
    }

    fn try_state(&self) -> Option<Value> {
        let file = self.at(".relay/state.json");
        let bytes = match self.options.user {
            Some(_) => crate::output(self.user_command(Path::new("cat")).arg(file)).stdout,
            None => std::fs::read(file).ok()?,
        };
        serde_json::from_slice(&bytes).ok()
    }

    /// `.relay/state.json`.
    #[track_caller]
    pub fn state(&self) -> Value {
        self.try_state().expect(".relay/state.json can be read and is JSON")
    }

    /// A number of `state.json`, such as `deadLettered`.
    #[track_caller]
    pub fn number(&self, field: &str) -> u64 {
        let state = self.state();
        state[field].as_u64().or(state["counters"][field].as_u64()).unwrap_or_else(|| panic!("no {field} in {state:#}"))
    }

    /// Waits until a number of `state.json` has a value.
    #[track_caller]
    pub fn wait_number(&self, field: &str, value: u64) {
        until(&format!("{field} is {value}"), || self.number(field) == value);
    }

    /// Waits until nothing is queued and nothing in flight.
    #[track_caller]
    pub fn wait_synced(&self) {
        until("everything is at the remote", || self.number("pendingWriteback") == 0 && self.number("inFlight") == 0);
    }

    /// Waits until everything is at the remote, and demands that nothing was refused.
    #[track_caller]
    pub fn wait_clean(&self) {
        self.wait_synced();
        let state = self.state();
        assert_eq!(state["deadLettered"], 0, "{state:#}");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.watchdog = None;
        if std::thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(LOG_TAIL);
            let tail = log.get(from..).or(log.get(from + 3..)).unwrap_or(&log);
            eprintln!("--- end of the log of the mount\n{tail}");
            let state = std::fs::read_to_string(self.state_dir().join("state.json")).unwrap_or_default();
            eprintln!("--- state.json of the state directory\n{state}");
        }
        if let Some(mut process) = self.process.take() {
            // What a test wants to see at the end of a mount it looks at itself; here it only has to go.
            let _ = process.kill();
            let _ = process.wait();
        }
        while is_mounted(&self.path()) {
            sys::detach(&self.path());
        }
    }
}

/// Whether something is mounted at exactly this path.
pub fn is_mounted(path: &Path) -> bool {
    let path = path.to_str().expect("a path of the harness is UTF-8");
    // Of the thread, not of the process: an unprivileged test may have a mount namespace of its own.
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").expect("/proc/thread-self/mountinfo");
    mounts.lines().any(|line| line.split(' ').nth(4) == Some(path))
}

/// The processes that have this path in their command line, other than this one.
pub fn processes_about(path: &Path) -> Vec<u32> {
    let path = path.to_str().expect("a path of the harness is UTF-8");
    let names_it = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).split('\0').any(|argument| argument == path)
    };
    let all = std::fs::read_dir("/proc").expect("/proc");
    all.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).filter(names_it).collect()
}

/// What the directory of an unprivileged mount calls its program.
const COPY: &str = "relayfile-mount";

/// Gives a user what a mount needs: its directories, the token, and the program, which may lie where only root gets in.
/// Returns where the token is then.
fn hand_over(dir: &Path, token_file: &Path, user: u32) -> PathBuf {
    let device = dir.join("dev");
    std::fs::create_dir(&device).expect("a directory");
    sys::fuse_device_with_mode(&device, 0o666).expect("a /dev/fuse that users can open");
    let token = dir.join("token");
    std::fs::copy(token_file, &token).expect("a copy of the token");
    std::fs::copy(binary("relayfile-mount"), dir.join(COPY)).expect("a copy of the program");
    for path in [dir, &dir.join("ws"), &token] {
        sys::chown(path, user, user).expect("a new owner");
    }
    token
}

/// Nothing of the user who runs the tests reaches the program: no home, no configuration, no token.
fn isolate(command: &mut Command, home: &Path) {
    command.env_clear().env("HOME", home).env("PATH", std::env::var_os("PATH").unwrap_or_default()).current_dir(home);
}
