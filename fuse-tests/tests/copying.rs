//! Programs that copy trees find in the mount what they put there, with its modes, links and times.

use std::fs;

use fuse_tests::{Mount, Server, noise, require, sh};

fn mounted() -> (Server, Mount) {
    let server = Server::start();
    let mount = Mount::start(&server);
    (server, mount)
}

/// A tree with the things that copying programs care about, outside of the mount.
fn sample_tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("blob"), noise(50_000, 7)).unwrap();
    sh(
        dir.path(),
        "mkdir -p a/b empty; for i in $(seq 20); do echo $i > a/b/f$i; done; chmod 750 a; chmod 600 a/b/f1
         ln -s b/f2 a/link; touch -h -d 2002-02-02 a/link; ln a/b/f3 a/hard; touch -d '2003-04-05 06:07:08.123456789 UTC' a/b/f4 a/b a",
    );
    dir
}

/// Names, kinds, modes, sizes, link counts, link targets and times (directories' own times apart, as tools differ there).
fn inventory(dir: &std::path::Path) -> String {
    sh(
        dir,
        r"find . -path ./.relay -prune -o ! -type d -printf '%P %y %m %s %n %l %T@\n' -o -printf '%P %y %m\n' | sort | grep -v '^ d'",
    )
}

#[test]
fn tar_extracts_and_reads_back_the_same_tree() {
    require(&["tar"]);
    let (server, mount) = mounted();
    let tree = sample_tree();
    let (from, to) = (tree.path().display(), mount.path());
    sh(&to, &format!("tar --format=posix -C {from} -cf - . | tar -xpf -"));
    assert_eq!(inventory(&to), inventory(tree.path()));
    sh(&to, &format!("tar --format=posix -cf - blob a empty | tar -C {from} --compare -f -"));
    mount.wait_clean();
    assert_eq!(server.get("/blob").unwrap().content, noise(50_000, 7));
    assert_eq!(server.text("/a/hard"), "3\n");
}

#[test]
fn a_second_rsync_has_nothing_to_do() {
    require(&["rsync"]);
    let (server, mut mount) = mounted();
    let tree = sample_tree();
    let source = format!("{}/", tree.path().display());
    let rsync = format!("rsync -aH --itemize-changes --exclude=/.relay {source} .");
    assert_ne!(sh(&mount.path(), &rsync), "");
    mount.wait_clean();
    // The root belongs to the mount's owner and keeps its own time.
    let transfers = |mount: &Mount| sh(&mount.path(), &format!("{rsync} | grep -v '^\\.d' || true"));
    assert_eq!(transfers(&mount), "");
    mount.remount();
    server.reset_counts();
    assert_eq!(transfers(&mount), "", "also after a remount");
    mount.wait_clean();
    assert_eq!(server.writes(), 0);
    assert_eq!(inventory(&mount.path()), inventory(tree.path()));
}

#[test]
fn cp_archives_within_the_mount() {
    let (server, mount) = mounted();
    let tree = sample_tree();
    sh(&mount.path(), &format!("cp -a {} one; cp -a one two", tree.path().display()));
    assert_eq!(inventory(&mount.at("two")), inventory(tree.path()));
    mount.wait_clean();
    assert_eq!(server.get("/two/blob").unwrap().content, noise(50_000, 7));
}
