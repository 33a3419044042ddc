//! Checks before anything is created, with stable codes.
//!
//! [`check_local`] and [`check_remote`] look and touch nothing: no directory, no mount, no lock that outlives them. Only when all
//! of them have passed does [`prepare`] make what a start needs. Each check is a function of its own, so that `relayfile doctor`
//! can run them all and show every result, while a start stops at the first problem.

mod fuse;
mod lease;
mod mountpoint;
mod problem;
mod remote;
mod state_dir;
mod token;

use std::path::{Path, PathBuf};

pub use fuse::{check_allow_other, check_fuse, check_fusermount, find_fusermount, has_cap_sys_admin, mtab_warning};
pub use lease::Lease;
pub use mountpoint::{Mountpoint, answers_within, check_mountpoint, detach};
pub use problem::{Code, Exit, Problem, shell_word};
pub use remote::check_remote;
pub use state_dir::{check_state_dir, create_private_dir, create_state_dir};
pub use token::check_token;

use crate::access::Access;
use crate::config::{Config, RemoteChoice};

/// What the checks found that is no reason to stop.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Sentences to say once.
    pub warnings: Vec<String>,
    /// The mountpoint is a dead endpoint of an earlier run; [`prepare`] detaches it.
    pub dead_mountpoint: bool,
}

/// One check by name, for `relayfile doctor`.
pub struct Check {
    pub name: &'static str,
    /// What was looked at.
    pub subject: String,
    pub run: Run,
}

type Run = Box<dyn Fn(&mut Findings) -> Result<(), Problem>>;

/// Every check that needs no network, in the order in which a start makes them.
pub fn local_checks(config: &Config) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut add = |name, subject: String, run: Run| {
        checks.push(Check { name, subject, run });
    };
    let (mountpoint, allow_nonempty) = (config.mountpoint.clone(), config.allow_nonempty);
    add(
        "mountpoint",
        mountpoint.display().to_string(),
        Box::new(move |findings| {
            if check_mountpoint(&mountpoint, allow_nonempty)? == Mountpoint::Dead {
                findings.dead_mountpoint = true;
                findings
                    .warnings
                    .push(format!("{} is the dead endpoint of an earlier run; it is detached first", mountpoint.display()));
            }
            Ok(())
        }),
    );
    add("fuse", "/dev/fuse".into(), Box::new(|_| check_fuse(Path::new("/dev/fuse"))));
    let allow_other = config.allow_other;
    add(
        "permission to mount",
        if has_cap_sys_admin() { "CAP_SYS_ADMIN".into() } else { "fusermount3".into() },
        Box::new(move |findings| {
            check_fusermount(has_cap_sys_admin())?;
            findings.warnings.extend(mtab_warning(has_cap_sys_admin(), Path::new("/etc/mtab")));
            if allow_other { check_allow_other(has_cap_sys_admin(), Path::new("/etc/fuse.conf")) } else { Ok(()) }
        }),
    );
    let mut private_dirs = vec![("state directory", config.state_dir.clone())];
    if let RemoteChoice::Embedded { data_dir } = &config.remote {
        private_dirs.push(("embedded data", data_dir.clone()));
    }
    for (name, dir) in private_dirs {
        let mountpoint = config.mountpoint.clone();
        add(
            name,
            dir.display().to_string(),
            Box::new(move |findings| check_state_dir(&dir, &mountpoint, &mut findings.warnings)),
        );
    }
    let state_dir = config.state_dir.clone();
    add("lease", state_dir.join(lease::LOCK_FILE).display().to_string(), Box::new(move |_| Lease::probe(&state_dir)));
    if let RemoteChoice::Http { base_url, workspace, token } = &config.remote {
        let (base_url, workspace, token) = (base_url.clone(), workspace.clone(), token.clone());
        let remote_root = config.remote_root.clone();
        add(
            "token",
            format!("{} for workspace {workspace}", token.place()),
            Box::new(move |findings| {
                let token = token.read()?;
                check_token(&token, &workspace)?;
                findings.warnings.extend(Access::of_token(token.expose()).limits(&remote_root));
                findings.warnings.extend(remote::plaintext_warning(&base_url));
                Ok(())
            }),
        );
    }
    checks
}

/// Makes every check that needs no network; the first problem ends it.
pub fn check_local(config: &Config) -> Result<Findings, Problem> {
    let mut findings = Findings::default();
    for check in local_checks(config) {
        (check.run)(&mut findings)?;
    }
    Ok(findings)
}

/// The first change on disk: detaches a dead endpoint and creates the state directory.
///
/// Returns whether the state directory is new, so that a start that fails can take it away again.
pub fn prepare(config: &Config, findings: &Findings) -> Result<bool, Problem> {
    if findings.dead_mountpoint {
        detach(&config.mountpoint)?;
        // What was hidden below the dead endpoint is visible only now.
        check_mountpoint(&config.mountpoint, config.allow_nonempty)?;
    }
    create_state_dir(&config.state_dir)
}

/// `path` with the symbolic links of the part that exists resolved. Never asks the last component's own filesystem, which
/// may be a dead or hung mount.
pub fn resolve_existing_part(path: &Path) -> PathBuf {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return path.to_owned() };
    if let Ok(parent) = parent.canonicalize() {
        let joined = parent.join(name);
        // A symbolic link is stored in the parent's filesystem; following it is safe unless a mount is on the way.
        return match std::fs::read_link(&joined) {
            Ok(target) => resolve_existing_part(&parent.join(target)),
            Err(_) => joined,
        };
    }
    resolve_existing_part(parent).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_the_existing_part_are_resolved_and_the_rest_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("real")).unwrap();
        std::os::unix::fs::symlink("real", root.join("link")).unwrap();
        assert_eq!(resolve_existing_part(&root.join("link/a/b")), root.join("real/a/b"));
        assert_eq!(resolve_existing_part(&root.join("link")), root.join("real"));
        assert_eq!(resolve_existing_part(Path::new("/")), Path::new("/"));
    }
}
