//! The save of every program whose system calls are known (`fixtures/traces`): one update of the edited path or, where no
//! byte has changed, nothing; and what the remote may see of a save that takes longer than the settle window.

use std::collections::BTreeSet;
use std::fs;

use fuse_tests::trace::{EDITED, Edit};
use fuse_tests::{Mount, Options, Server, Trace, until};

const OLD: &[u8] = b"first line\nsecond line\n";
const NEW: &[u8] = b"first line\nsecond line\nthird line\n";

/// What others see of a save whose every call takes longer than the settle window.
struct Slow {
    /// How many temporary names that no rule holds back reach the remote, to be removed again.
    names: usize,
    /// Whether the path is missing between two calls, so that it is removed and made anew.
    gap: bool,
}

fn mounted(trace: &Trace, options: Options) -> (Server, Mount) {
    let server = Server::start();
    server.put("/doc.txt", OLD);
    let mount = Mount::with(&server, options);
    trace.prepare(&mount.path());
    mount.wait_clean();
    assert_eq!(server.paths(), ["/doc.txt"], "what was there before is of this machine alone");
    server.reset_counts();
    (server, mount)
}

#[track_caller]
fn assert_one_update_or_none(trace: &Trace, new: &[u8]) {
    let (server, mount) = mounted(trace, Options::settle_as_shipped());
    trace.replay(&mount.path(), Edit { old: OLD, new }, || ());
    assert_eq!(fs::read(mount.at(EDITED)).unwrap(), new, "what the program left");
    mount.wait_clean();
    let events: Vec<_> = server.events().into_iter().map(|e| (e.kind, e.path)).collect();
    let on_doc = |kind: &str| (kind.to_owned(), "/doc.txt".to_owned());
    let mut expected = vec![on_doc("file.created")];
    // The record is updated, never removed and made anew: each update names the revision that it is based on.
    expected.extend((new != OLD).then(|| on_doc("file.updated")));
    assert_eq!(events, expected, "the whole history of the workspace");
    assert_eq!(server.writes(), u64::from(new != OLD), "{:?}", server.counts());
    assert_eq!(server.get("/doc.txt").unwrap().content, new);
}

#[track_caller]
fn assert_slow(trace: &Trace, slow: &Slow) {
    let (server, mount) = mounted(trace, Options { settle: "50ms", ..Options::default() });
    let mut steps = 0;
    trace.replay(&mount.path(), Edit { old: OLD, new: NEW }, || {
        // Saved after the call, this arrives after everything that the call has made ready.
        steps += 1;
        let marker = format!("step {steps}");
        fs::write(mount.at("marker"), &marker).unwrap();
        until("a later save has arrived", || server.get("/marker").is_some_and(|f| f.content == marker.as_bytes()));
        until("nothing is on its way", || mount.number("inFlight") == 0);
    });
    mount.wait_clean();
    assert_eq!(server.get("/doc.txt").unwrap().content, NEW);
    assert_eq!(server.paths(), ["/doc.txt", "/marker"], "no temporary name stays");
    let events: Vec<_> = server.events().into_iter().filter(|e| e.path != "/marker").collect();
    let names: BTreeSet<_> = events.iter().map(|e| e.path.as_str()).filter(|p| *p != "/doc.txt").collect();
    assert_eq!(names.len(), slow.names, "temporary names at the remote: {names:?}");
    let kinds: Vec<_> = events.iter().filter(|e| e.path == "/doc.txt").map(|e| e.kind.as_str()).collect();
    let expected: &[&str] =
        if slow.gap { &["file.created", "file.deleted", "file.created"] } else { &["file.created", "file.updated"] };
    assert_eq!(kinds, expected, "the history of the edited path");
}

macro_rules! traces {
    ($($test:ident $name:literal $names:literal $gap:literal;)*) => {
        $(mod $test {
            use super::*;

            #[test]
            fn is_one_update() {
                assert_one_update_or_none(&Trace::load($name), NEW);
            }

            #[test]
            fn of_the_same_bytes_is_nothing() {
                assert_one_update_or_none(&Trace::load($name), OLD);
            }

            #[test]
            fn taking_longer_than_the_settle_window() {
                assert_slow(&Trace::load($name), &Slow { names: $names, gap: $gap });
            }
        })*

        #[test]
        fn every_trace_is_tested() {
            let tested: BTreeSet<String> = [$($name.to_owned()),*].into();
            assert_eq!(tested, Trace::all());
        }
    };
}

traces! {
    vim "vim" 0 true;
    vim_backupcopy_yes "vim-backupcopy-yes" 0 false;
    vim_backupcopy_no "vim-backupcopy-no" 0 true;
    vim_backup_kept "vim-backup-kept" 0 true;
    vim_nowritebackup "vim-nowritebackup" 0 false;
    vim_undofile "vim-undofile" 0 true;
    nano "nano" 0 false;
    nano_backup "nano-backup" 0 false;
    emacs "emacs" 0 true;
    emacs_backup_by_copying "emacs-backup-by-copying" 0 false;
    emacs_no_backup "emacs-no-backup" 0 false;
    sed "sed" 1 false;
    perl "perl" 1 false;
    perl_with_backup "perl-with-backup" 1 false;
    python_atomic "python-atomic" 1 false;
    git_checkout "git-checkout" 0 true;
    rsync "rsync" 1 false;
    rsync_archive "rsync-archive" 1 false;
    rsync_inplace "rsync-inplace" 0 false;
    cp "cp" 0 false;
    cp_force "cp-force" 0 true;
    install "install" 0 true;
    tar "tar" 0 true;
    patch "patch" 1 false;
    dd "dd" 0 false;
    shell_redirect "shell-redirect" 0 false;
    vscode "vscode" 0 false;
    vscode_in_place "vscode-in-place" 0 false;
    vscode_atomic "vscode-atomic" 0 true;
    jetbrains "jetbrains" 0 true;
    libreoffice "libreoffice" 1 false;
    gedit "gedit" 0 false;
    gedit_with_backup "gedit-with-backup" 0 false;
    kate "kate" 1 false;
    sublime_atomic "sublime-atomic" 1 false;
    office_over_samba "office-over-samba" 0 true;
}
