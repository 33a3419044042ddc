//! `relayfile doctor`: every check of a start, all of them, changing nothing.

use super::args::Doctor;
use super::live::{self, Answer};
use super::{out, report};
use crate::config::{self, Config, RemoteChoice};
use crate::fs::mounted_at;
use crate::preflight::{self, Code, Exit, Findings, Lease, Problem};

pub fn run(options: Doctor) -> Exit {
    let mut flags = options.settings.into_flags(false);
    // Without a mountpoint everything else is still worth checking: an empty directory stands in.
    let scratch = match config::load(flags.clone()) {
        Err(problem) if problem.what == config::NO_MOUNTPOINT => tempfile::tempdir().ok(),
        _ => None,
    };
    if let Some(dir) = &scratch {
        flags.layer.local_dir = Some(dir.path().to_owned());
    }
    let config = match config::load(flags) {
        Ok(config) => config,
        Err(problem) => {
            let exit = report("relayfile", &problem);
            return if exit == Exit::Usage { exit } else { Exit::ChecksFailed };
        }
    };
    let mut sick = false;
    let running = running(&config);
    let mut findings = Findings::default();
    for check in preflight::local_checks(&config) {
        if check.name == "mountpoint" && scratch.is_some() {
            out(format_args!("– mountpoint: none given, so none was checked"));
            continue;
        }
        let result = (check.run)(&mut findings);
        let expected = running.and_then(|pid| expected(&config, pid, result.as_ref().err()?));
        match expected {
            Some(words) => out(format_args!("✓ {}: {words}", check.name)),
            None => sick |= !print(check.name, &check.subject, result),
        }
    }
    if let RemoteChoice::Http { base_url, workspace, .. } = &config.remote {
        sick |= !print("remote", &format!("workspace {workspace} at {base_url}"), ask_remote(&config));
    } else {
        out(format_args!("✓ remote: the embedded server, which starts with the mount"));
    }
    for warning in &findings.warnings {
        out(format_args!("! {warning}"));
    }
    if sick { Exit::ChecksFailed } else { Exit::Ok }
}

/// The process that serves the mountpoint of `config` from its state directory now.
fn running(config: &Config) -> Option<u32> {
    mounted_at(&config.mountpoint).ok()?.filter(|m| m.is_ours())?;
    match live::ask(&config.mountpoint) {
        Answer::State(state) if state.state_dir == config.state_dir => Some(state.pid),
        _ => None,
    }
}

/// What would stop a start and is as it should be, because the mount runs already.
fn expected(config: &Config, pid: u32, problem: &Problem) -> Option<String> {
    match problem.code {
        Code::MountpointBusy => Some(format!("{} is mounted (pid {pid})", config.mountpoint.display())),
        Code::LeaseHeld if Lease::holder(&config.state_dir) == Some(pid) => Some(format!("held by this mount (pid {pid})")),
        _ => None,
    }
}

/// One line; two more when something is wrong.
fn print(name: &str, subject: &str, result: Result<(), Problem>) -> bool {
    match &result {
        Ok(()) => out(format_args!("✓ {name}: {subject}")),
        Err(problem) => out(format_args!("✗ {name}: {problem}")),
    }
    result.is_ok()
}

/// Connects to the remote of `config` and makes the checks of the network.
pub fn ask_remote(config: &Config) -> Result<(), Problem> {
    let (RemoteChoice::Http { base_url, workspace, .. }, Some(remote)) = (&config.remote, super::connect::connect(config)?)
    else {
        return Ok(());
    };
    preflight::check_remote(&*remote, base_url, workspace)
}
