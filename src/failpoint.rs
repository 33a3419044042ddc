//! Named places at which a test lets the process die.
//!
//! `RELAYFILE_FAILPOINT=sent` kills the process with SIGKILL when it comes to the place named `sent`; `sent:3` at its third
//! visit. Only in builds with debug assertions; in a release build a failpoint is nothing at all.

/// Every name, so that a test can go through all of them.
pub const ALL: &[&str] = &[
    "flush",
    "flushed",
    "claimed",
    "payload-written",
    "rebased",
    "sent",
    "answered",
    "merged",
    "set-aside",
    "acknowledged",
    "before-retry-later",
    "retry-later",
    "before-bury",
    "buried",
    "letter-payload",
    "letter-sidecar",
    "letter-record",
    "letter-removed",
    "state-json",
    "retried",
    "discarded",
    "delivery-looked",
    "delivery-refused",
    "replay-asked",
    "brought",
    "fetched",
    "import-file",
    "imported",
];

/// Dies here, if this is where a test wants it.
#[inline]
pub fn hit(name: &str) {
    #[cfg(debug_assertions)]
    armed::hit(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    struct Armed {
        name: String,
        visits_left: AtomicU32,
    }

    static ARMED: LazyLock<Option<Armed>> = LazyLock::new(|| {
        let text = std::env::var("RELAYFILE_FAILPOINT").ok()?;
        let (name, visits) = match text.split_once(':') {
            Some((name, visits)) => (name.to_owned(), visits.parse().ok()?),
            None => (text, 1),
        };
        Some(Armed { name, visits_left: AtomicU32::new(visits) })
    });

    pub fn hit(name: &str) {
        debug_assert!(super::ALL.contains(&name), "the failpoint {name} is not in the list");
        let Some(armed) = &*ARMED else { return };
        if armed.name == name && armed.visits_left.fetch_sub(1, Ordering::Relaxed) == 1 {
            log::error!("failpoint {name}: the process dies here");
            // SAFETY: raise takes a number; SIGKILL ends the process at once, as `kill -9` does.
            unsafe { libc::raise(libc::SIGKILL) };
        }
    }
}
