//! Telling the kernel what changed behind its back: one thread, one unbounded channel.
//!
//! A notification waits for locks that a request in progress holds, so it must never be sent from a handler, and no
//! handler may wait for it. That is why the channel has no bound and only this thread calls the kernel.

use std::io;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, select};
use fuser::Notifier;

use super::convert::inode_no;
use crate::workspace::Invalidation;

/// Runs until `stop` is disconnected or every sender of `changes` is gone.
pub(super) fn spawn(notifier: Notifier, changes: Receiver<Invalidation>, stop: Receiver<()>) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("notifier".into()).spawn(move || {
        loop {
            select! {
                recv(changes) -> change => match change {
                    Ok(change) => tell(&notifier, &change),
                    Err(_) => return,
                },
                recv(stop) -> _ => return,
            }
        }
    })
}

fn tell(notifier: &Notifier, change: &Invalidation) {
    let told = match change {
        Invalidation::Entry { parent, name } => notifier.inval_entry(inode_no(*parent), name),
        // Offset 0 with length 0 means all pages; a negative offset means none, only the attributes.
        Invalidation::Content(ino) => notifier.inval_inode(inode_no(*ino), 0, 0),
        Invalidation::Attributes(ino) => notifier.inval_inode(inode_no(*ino), -1, 0),
        Invalidation::Told(sender) => {
            let _ = sender.try_send(());
            return;
        }
    };
    match told {
        Ok(()) => {}
        // The kernel does not know it, or has unmounted: then there is nothing to forget.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::ENOTCONN | libc::ECONNABORTED)) => {}
        // A non-empty directory that is in use cannot be dropped; its name is looked up again when it is next needed.
        Err(e) if e.raw_os_error() == Some(libc::ENOTEMPTY) => log::debug!("kernel kept {change:?}: {e}"),
        Err(e) => log::warn!("kernel was not told of {change:?}: {e}"),
    }
}
