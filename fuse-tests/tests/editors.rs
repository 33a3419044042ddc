//! However a program saves, the remote sees one update of the edited path and never the scaffolding.

use std::fs;
use std::process::Command;

use fuse_tests::{Mount, Options, Server, Terminal, require, run, sh, until};

const BEFORE: &str = "first line\nsecond line\n";

/// A mount with the settle window of users and one file `doc.txt`, edited by `save`; afterwards the remote has `expected`.
#[track_caller]
fn assert_one_update(expected: &str, save: impl FnOnce(&Mount)) {
    let server = Server::start();
    server.put("/doc.txt", BEFORE);
    let mount = Mount::with(&server, Options::settle_as_shipped());
    server.reset_counts();
    save(&mount);
    assert_eq!(fs::read_to_string(mount.at("doc.txt")).unwrap(), expected, "what the program left");
    mount.wait_clean();
    let events: Vec<_> = server.events().into_iter().map(|e| (e.kind, e.path)).collect();
    let on_doc = |kind: &str| (kind.to_owned(), "/doc.txt".to_owned());
    assert_eq!(events, [on_doc("file.created"), on_doc("file.updated")], "the whole history of the workspace");
    assert_eq!(server.writes(), 1, "{:?}", server.counts());
    assert_eq!(server.text("/doc.txt"), expected);
}

/// Vim on a terminal, with a home of its own and the options that it has by default.
#[track_caller]
fn vim(mount: &Mount, setup: &str, keys: &str) {
    require(&["vim"]);
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new("vim");
    command.args(["--cmd", setup, "doc.txt"]).current_dir(mount.path()).env("HOME", home.path());
    let mut terminal = Terminal::start(&mut command);
    terminal.wait_for("second line");
    terminal.keys(keys);
    assert!(terminal.wait().success());
}

#[test]
fn vim_with_its_defaults() {
    assert_one_update("first line\nsecond line\nthird line\n", |mount| vim(mount, "", "Gothird line\x1b:wq\r"));
}

#[test]
fn vim_with_a_backup_and_a_rename() {
    let setup = "set backupcopy=no backup";
    assert_one_update("first line\nsecond line\nthird line\n", |mount| vim(mount, setup, "Gothird line\x1b:wq\r"));
}

#[test]
fn vim_that_overwrites_in_place_with_an_undo_file() {
    // The undo file (.doc.txt.un~) is scaffolding as well.
    let setup = "set backupcopy=yes undofile";
    assert_one_update("first line\nsecond line\nthird line\n", |mount| vim(mount, setup, "Gothird line\x1b:wq\r"));
}

#[test]
fn a_swap_file_that_outlives_the_settle_window_never_reaches_the_remote() {
    require(&["vim"]);
    let server = Server::start();
    server.put("/doc.txt", BEFORE);
    let mount = Mount::start(&server);
    let mut command = Command::new("vim");
    command.arg("doc.txt").current_dir(mount.path()).env("HOME", "/nonexistent");
    let mut terminal = Terminal::start(&mut command);
    terminal.wait_for("second line");
    terminal.keys("Gothird line\x1b:preserve\r");
    until("the swap file is written", || fs::metadata(mount.at(".doc.txt.swp")).is_ok_and(|m| m.len() > 0));
    // What is saved after it arrives before it would, if it were sent at all.
    fs::write(mount.at("later"), "x").unwrap();
    until("a later save has arrived", || server.get("/later").is_some());
    mount.wait_clean();
    terminal.keys(":wq\r");
    assert!(terminal.wait().success());
    mount.wait_clean();
    assert!(server.events().iter().all(|e| e.path == "/doc.txt" || e.path == "/later"), "{:?}", server.events());
    assert_eq!(server.text("/doc.txt"), "first line\nsecond line\nthird line\n");
}

#[test]
fn vim_that_saves_twice_in_one_session_ends_with_the_last() {
    let server = Server::start();
    server.put("/doc.txt", BEFORE);
    let mount = Mount::with(&server, Options::settle_as_shipped());
    vim(&mount, "", "Goone\x1b:w\rotwo\x1b:wq\r");
    mount.wait_clean();
    assert_eq!(server.text("/doc.txt"), "first line\nsecond line\none\ntwo\n");
    assert_eq!(server.paths(), ["/doc.txt"]);
    assert!(server.events().iter().all(|e| e.path == "/doc.txt" && e.kind != "file.deleted"), "{:?}", server.events());
}

#[test]
fn nano() {
    require(&["nano"]);
    assert_one_update("new first line\nsecond line\n", |mount| {
        let home = tempfile::tempdir().unwrap();
        let mut command = Command::new("nano");
        command.args(["--ignorercfiles", "doc.txt"]).current_dir(mount.path()).env("HOME", home.path());
        let mut terminal = Terminal::start(&mut command);
        terminal.wait_for("second line");
        terminal.keys("new \x0f");
        terminal.wait_for("File Name to Write");
        terminal.keys("\r");
        terminal.wait_for("Wrote");
        terminal.keys("\x18");
        assert!(terminal.wait().success());
    });
}

#[test]
fn nano_with_backups() {
    require(&["nano"]);
    assert_one_update("new first line\nsecond line\n", |mount| {
        let mut command = Command::new("nano");
        command.args(["--ignorercfiles", "--backup", "doc.txt"]).current_dir(mount.path());
        let mut terminal = Terminal::start(&mut command);
        terminal.wait_for("second line");
        terminal.keys("new \x0f");
        terminal.wait_for("File Name to Write");
        terminal.keys("\r");
        terminal.wait_for("Wrote");
        terminal.keys("\x18");
        assert!(terminal.wait().success());
    });
}

#[test]
fn sed_in_place() {
    require(&["sed"]);
    assert_one_update("FIRST line\nsecond line\n", |mount| {
        sh(&mount.path(), "sed -i s/first/FIRST/ doc.txt");
    });
}

#[test]
fn perl_in_place() {
    require(&["perl"]);
    assert_one_update("FIRST line\nsecond line\n", |mount| {
        sh(&mount.path(), "perl -pi -e s/first/FIRST/ doc.txt");
    });
}

#[test]
fn a_temporary_file_with_fsync_and_replace() {
    require(&["python3"]);
    let script = "
import os, tempfile
fd, name = tempfile.mkstemp(dir='.', prefix='doc', suffix='.tmp')
os.write(fd, b'replaced\\n')
os.fsync(fd)
os.close(fd)
os.replace(name, 'doc.txt')
d = os.open('.', os.O_RDONLY)
os.fsync(d)
";
    assert_one_update("replaced\n", |mount| {
        run(Command::new("python3").args(["-c", script]).current_dir(mount.path()));
    });
}

#[test]
fn a_save_that_moves_the_old_file_aside_first() {
    assert_one_update("replaced\n", |mount| {
        sh(&mount.path(), "echo replaced > new.tmp; mv doc.txt doc.bak; mv new.tmp doc.txt; rm doc.bak");
    });
}

#[test]
fn a_save_that_removes_the_old_file_first() {
    assert_one_update("replaced\n", |mount| {
        sh(&mount.path(), "rm doc.txt; echo replaced > doc.txt");
    });
}

#[test]
fn truncate_then_write_through_one_handle() {
    // As VS Code saves: the handle is opened without O_TRUNC, cut, and written in pieces.
    require(&["python3"]);
    let script = "
import os
fd = os.open('doc.txt', os.O_RDWR)
os.ftruncate(fd, 0)
os.pwrite(fd, b'writ', 0)
os.pwrite(fd, b'ten\\n', 4)
os.fdatasync(fd)
os.close(fd)
";
    assert_one_update("written\n", |mount| {
        run(Command::new("python3").args(["-c", script]).current_dir(mount.path()));
    });
}

#[test]
fn truncate_by_path_then_write() {
    assert_one_update("written\n", |mount| {
        sh(&mount.path(), "truncate -s 0 doc.txt; echo written >> doc.txt");
    });
}

#[test]
fn a_copy_over_it() {
    assert_one_update("copied\n", |mount| {
        let other = tempfile::NamedTempFile::new().unwrap();
        fs::write(other.path(), "copied\n").unwrap();
        run(Command::new("cp").arg(other.path()).arg(mount.at("doc.txt")));
    });
}

#[test]
fn a_redirection() {
    assert_one_update("echoed\n", |mount| {
        sh(&mount.path(), "echo echoed > doc.txt");
    });
}

#[test]
fn a_replaced_file_keeps_its_mode() {
    let server = Server::start();
    server.put("/doc.txt", BEFORE);
    let mount = Mount::start(&server);
    sh(&mount.path(), "chmod 640 doc.txt; sed -i s/first/FIRST/ doc.txt");
    mount.wait_clean();
    assert_eq!(sh(&mount.path(), "stat -c %a doc.txt"), "640\n");
}
