//! A real mount over a workspace that panics at every call: needs root and /dev/fuse, else it says so and passes.

use std::sync::Arc;
use std::time::Duration;

use super::{MountOptions, is_mounted, our_mounts, start};
use crate::ids::OpId;
use crate::status::{OperationView, Status, StatusSource};
use crate::workspace::Workspace;

struct Silent;

impl StatusSource for Silent {
    fn status(&self) -> Status {
        unimplemented!()
    }
    fn pending(&self) -> Vec<OperationView> {
        unimplemented!()
    }
    fn pending_one(&self, _: &OpId) -> Option<OperationView> {
        unimplemented!()
    }
}

#[test]
fn a_panic_answers_eio_and_the_mount_lives_until_it_is_unmounted() {
    let dir = tempfile::tempdir().unwrap();
    let options = MountOptions {
        mountpoint: dir.path().into(),
        source: "a, strange source".into(),
        allow_other: false,
        read_only: false,
        threads: None,
    };
    let session = match start(Arc::new(Workspace {}), Arc::new(Silent), options) {
        Ok(session) => session,
        Err(e) => return eprintln!("not tested here: {e}"),
    };
    assert!(is_mounted(session.mountpoint()).unwrap());
    let ours = our_mounts().unwrap().into_iter().find(|m| m.mountpoint == session.mountpoint()).unwrap();
    assert_eq!(ours.source, "a, strange source");

    for _ in 0..20 {
        let e = std::fs::read_dir(dir.path()).unwrap_err();
        assert_eq!(e.raw_os_error(), Some(libc::EIO));
    }

    session.unmount(false).unwrap();
    assert!(session.wait_timeout(Duration::from_secs(20)));
    assert!(!is_mounted(session.mountpoint()).unwrap());
    session.unmount(true).unwrap();
    session.join().unwrap();
}
