//! What edits are based on: kept without getting in anybody's way.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::workspace::tree::Node;

/// Whoever has the tree's lock asks the working file whether it changes; so nobody may hold that answer and wait for the tree.
#[test]
fn a_first_write_that_waits_for_the_tree_holds_nothing_that_the_holder_of_the_tree_needs() {
    let (_dir, rig) = rig(&[("/x", b"one")]);
    rig.read("/x").unwrap();
    let ino = rig.ino("/x").unwrap();
    let fh = rig.act(|ws| ws.open(ino, libc::O_WRONLY)).unwrap().fh;
    std::thread::scope(|scope| {
        let tree = rig.ws.tree.write();
        let working = Arc::clone(tree.get(ino).and_then(Node::file).unwrap().working.as_ref().unwrap());
        let writer = scope.spawn(|| rig.ws.write(fh, 0, b"two").unwrap());
        // Nothing tells when the writer has got to where it waits, so it is asked again and again.
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_millis(100) {
            let (answer, answered) = crossbeam_channel::bounded(1);
            let asked = Arc::clone(&working);
            std::thread::spawn(move || {
                let _ = answer.send(asked.is_changing());
            });
            let in_time = answered.recv_timeout(Duration::from_secs(5));
            if in_time.is_err() {
                drop(tree); // so that the test fails instead of hanging
                panic!("the write holds the working file while it waits for the tree");
            }
        }
        drop(tree);
        assert_eq!(writer.join().unwrap(), 3);
    });
    rig.ws.release(fh);
}
