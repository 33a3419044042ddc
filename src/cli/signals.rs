//! SIGINT, SIGTERM and SIGHUP as a value that a thread waits for, instead of a handler that may do next to nothing
//! (signal-safety(7)).

use std::mem::MaybeUninit;

/// The signals that end a mount, blocked in every thread.
#[derive(Debug)]
pub struct Signals {
    set: libc::sigset_t,
}

/// Which one came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    Interrupt,
    Terminate,
    HangUp,
}

impl std::fmt::Display for Signal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Signal::Interrupt => "SIGINT",
            Signal::Terminate => "SIGTERM",
            Signal::HangUp => "SIGHUP",
        })
    }
}

impl Signals {
    /// Blocks the signals. To be called before the first thread is started: threads inherit the mask of their parent, and a
    /// thread without it would die of the signal. Children that `std::process::Command` spawns get an empty mask again.
    pub fn block() -> Signals {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset initialises the set before it is used; the old mask is not asked for.
        let set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
            set.assume_init()
        };
        Signals { set }
    }

    /// Waits for the next of them.
    pub fn wait(&self) -> Signal {
        loop {
            let mut signal = 0;
            // SAFETY: the set was initialised in `block`, and `signal` is a place for an int.
            let error = unsafe { libc::sigwait(&self.set, &mut signal) };
            match (error, signal) {
                (0, libc::SIGINT) => return Signal::Interrupt,
                (0, libc::SIGTERM) => return Signal::Terminate,
                (0, libc::SIGHUP) => return Signal::HangUp,
                _ => continue,
            }
        }
    }
}
