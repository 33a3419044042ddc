//! `relayfile-mount`: check everything, then start, then serve until told to stop, then say what is left.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::{Arc, Mutex};

use super::args::MountArgs;
use super::background::{self, Ready};
use super::live::LastStop;
use super::{logging, report, say};
use crate::access::Access;
use crate::cli::Signals;
use crate::config::{self, Config, RemoteChoice};
use crate::engine::Ended;
use crate::mount::{Mount, Stopper};
use crate::preflight::{self, Code, Exit, Problem, shell_word};

const PROGRAM: &str = "relayfile-mount";

pub fn run(args: MountArgs) -> Exit {
    if args.settings.token.is_some() {
        say(format_args!(
            "{PROGRAM}: warning: --token shows the token to everyone on this machine in the process list; set RELAYFILE_TOKEN or use --token-file"
        ));
        return report(PROGRAM, &run_again_without_token(&args));
    }
    match args.ready_fd {
        Some(fd) => run_in_background(args, fd),
        None => run_first(args).unwrap_or_else(|problem| report(PROGRAM, &problem)),
    }
}

/// What the user started. Nothing is created, changed or started before every check has passed.
fn run_first(args: MountArgs) -> Result<Exit, Problem> {
    let foreground = args.foreground;
    let config = config::load(args.settings.into_flags(foreground))?;
    let signals = foreground.then(Signals::block);
    let findings = preflight::check_local(&config)?;
    for warning in &findings.warnings {
        say(format_args!("{PROGRAM}: warning: {warning}"));
    }
    check_remote(&config)?;
    let state_dir_is_new = preflight::prepare(&config, &findings)?;
    let Some(signals) = signals else {
        let started = background::start(&config, state_dir_is_new)?;
        return Ok(background::announce(&config, &started));
    };
    start_log(&config)?;
    serve(&config, signals, None).inspect_err(|_| {
        if state_dir_is_new {
            background::remove_new_state_dir(&config);
        }
    })
}

/// What [`background::start`] started. The checks were made by the parent a moment ago; what has changed since then (the lease
/// above all) shows in [`Mount::start`].
fn run_in_background(args: MountArgs, fd: i32) -> Exit {
    let ready = match Ready::from_fd(fd) {
        Ok(ready) => ready,
        Err(problem) => return report(PROGRAM, &problem),
    };
    // Before any thread: the log and the remote bring some.
    let signals = Signals::block();
    let config = match config::load(args.settings.into_flags(true)) {
        Ok(config) => config,
        Err(problem) => {
            let _ = ready.report(Err(&problem));
            return problem.exit();
        }
    };
    logging::start(config.log_level, None);
    // The working directory of the shell must not be kept busy; every path of the configuration is absolute.
    let _ = std::env::set_current_dir("/");
    log_limits(&config);
    let mut ready = Some(ready);
    match serve(&config, signals, Some(&mut ready)) {
        Ok(exit) => exit,
        Err(problem) => {
            log::error!("{problem}");
            if let Some(ready) = ready {
                let _ = ready.report(Err(&problem));
            }
            problem.exit()
        }
    }
}

/// The remote is asked before anything is made. The embedded server has nothing to ask: it starts with the mount.
fn check_remote(config: &Config) -> Result<(), Problem> {
    if let RemoteChoice::Embedded { .. } = &config.remote {
        return Ok(());
    }
    match super::doctor::ask_remote(config) {
        // Somebody who answers in the remote's place may be gone soon: a gateway, a portal.
        Err(problem) if config.offline_ok && matches!(problem.code, Code::RemoteUnreachable | Code::RemoteUnexpected) => {
            say(format_args!("{PROGRAM}: warning: {}; mounting what is known (--offline-ok)", problem.what));
            Ok(())
        }
        other => other,
    }
}

/// In the foreground the log is stderr unless a file was named.
fn start_log(config: &Config) -> Result<(), Problem> {
    let file = config.log_file_given.then(|| logging::open(&config.log_file)).transpose().map_err(|e| {
        Problem::new(
            Code::StateDirUnwritable,
            format!("cannot open the log {}: {e}", config.log_file.display()),
            "choose another with --log-file FILE",
        )
    })?;
    let to_file = file.is_some();
    logging::start(config.log_level, file);
    // On stderr the checks have said it.
    if to_file {
        log_limits(config);
    }
    Ok(())
}

/// What the token does not allow is said at start, also when there is nothing to do.
fn log_limits(config: &Config) {
    if let RemoteChoice::Http { token, .. } = &config.remote
        && let Ok(token) = token.read()
        && let Some(limits) = Access::of_token(token.expose()).limits(&config.remote_root)
    {
        log::warn!("{limits}");
    }
}

/// Mounts, says that it is ready, serves until a signal or an unmount from outside, drains, and says what is left.
fn serve(config: &Config, signals: Signals, ready: Option<&mut Option<Ready>>) -> Result<Exit, Problem> {
    let stop = StopOnSignal::watch(signals)?;
    let mount = Mount::start(config)?;
    let stopper = mount.stopper();
    stop.arm(stopper.clone());
    match ready {
        Some(ready) => {
            if let Some(Err(e)) = ready.take().map(|r| r.report(Ok(()))) {
                log::warn!("whoever asked for the mount has gone ({e}); unmounting");
                stopper.stop();
            }
        }
        None => say(format_args!(
            "mounted {} at {} (state {}); Ctrl-C unmounts",
            config.workspace(),
            config.mountpoint.display(),
            config.state_dir.display()
        )),
    }
    Ok(ended(config, &mount.wait()))
}

fn ended(config: &Config, ended: &Ended) -> Exit {
    let at = config.mountpoint.display();
    if let Some(why) = &ended.still_mounted {
        say(format_args!("{at} is still mounted, with no process behind it: {why}"));
        say(format_args!("  as root: umount -l {}", shell_word(&config.mountpoint)));
    }
    let unmounted = if ended.still_mounted.is_some() { "ended" } else { "unmounted" };
    if let Some(why) = &ended.unknown {
        say(format_args!(
            "{unmounted} {at}: {why}; saves may still be queued, nothing is removed from {}",
            config.state_dir.display()
        ));
        return Exit::QueueNotEmpty;
    }
    let still_mounted = ended.still_mounted.clone();
    let stop = LastStop { pid: std::process::id(), pending: ended.pending, dead: ended.dead, still_mounted };
    if let Err(e) = stop.write(&config.state_dir) {
        log::warn!("cannot write down how the mount ended: {e}");
    }
    say(format_args!("{unmounted} {at}: {}", stop.sentence()));
    if let Some(next) = stop.next(&config.state_dir) {
        say(format_args!("  {next}"));
    }
    stop.exit()
}

/// Turns the first signal into a stop, also one that comes while the mount is still starting.
struct StopOnSignal {
    state: Arc<Mutex<Stopping>>,
}

/// Guarded by one lock that is held for no longer than a call of [`Stopper::stop`].
#[derive(Default)]
struct Stopping {
    asked: bool,
    stopper: Option<Stopper>,
}

impl StopOnSignal {
    fn watch(signals: Signals) -> Result<StopOnSignal, Problem> {
        let state = Arc::new(Mutex::new(Stopping::default()));
        let watched = Arc::clone(&state);
        let spawned = std::thread::Builder::new().name("signals".into()).spawn(move || {
            loop {
                let signal = signals.wait();
                let mut state = watched.lock().unwrap_or_else(|e| e.into_inner());
                match &state.stopper {
                    _ if state.asked => {
                        say(format_args!("{PROGRAM}: {signal} again; already stopping, saves are safe on this disk"))
                    }
                    Some(stopper) => {
                        log::info!("{signal}: unmounting");
                        stopper.stop();
                    }
                    None => log::info!("{signal} during the start: it is undone as soon as it is complete"),
                }
                state.asked = true;
            }
        });
        spawned.map_err(|e| {
            Problem::new(
                Code::Internal,
                format!("cannot start the thread that takes signals: {e}"),
                "raise the limit of processes: ulimit -u",
            )
        })?;
        Ok(StopOnSignal { state })
    }

    fn arm(&self, stopper: Stopper) {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        if state.asked {
            stopper.stop();
        }
        state.stopper = Some(stopper);
    }
}

/// Executes this program again with the token in the environment instead of the command line: the environment of a process
/// is readable by its owner only, its command line by everyone (proc_pid_cmdline(5)). Returns only when that failed.
fn run_again_without_token(args: &MountArgs) -> Problem {
    let token = args.settings.token.clone().expect("called with a token");
    let mut kept = Vec::new();
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--token" {
            arguments.next();
        } else if !argument.as_encoded_bytes().starts_with(b"--token=") {
            kept.push(argument);
        }
    }
    let failed = match std::env::current_exe() {
        Ok(program) => Command::new(program).args(kept).env("RELAYFILE_TOKEN", token.expose()).exec(),
        Err(e) => e,
    };
    Problem::new(
        Code::Internal,
        format!("cannot take the token out of the command line: {failed}"),
        "set RELAYFILE_TOKEN instead of --token",
    )
}
