//! How long the kernel may trust an answer: the one place that decides it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::workspace::{Attr, Kind};

/// While the change feed is followed, every change is announced; the time only bounds what a lost one costs.
const FOLLOWED: Duration = Duration::from_secs(3600);
/// While it is not: old enough for a burst of `stat`, young enough for a person who waits.
const UNFOLLOWED: Duration = Duration::from_secs(2);

/// The times of new answers. What the kernel holds already keeps the time it was given: when the feed comes back after
/// a gap, what changed meanwhile must be invalidated.
#[derive(Debug)]
pub struct Ttl {
    followed: AtomicBool,
}

impl Ttl {
    /// Starts as followed.
    pub fn new() -> Ttl {
        Ttl { followed: AtomicBool::new(true) }
    }

    /// True while remote changes are heard of and announced to the kernel; false drops the times to two seconds.
    pub fn set_followed(&self, followed: bool) {
        self.followed.store(followed, Ordering::Relaxed);
    }

    /// Of a name, whether it exists or is known not to.
    pub(super) fn entry(&self) -> Duration {
        if self.followed.load(Ordering::Relaxed) { FOLLOWED } else { UNFOLLOWED }
    }

    /// Of attributes. Those of a file that someone writes to, or whose size is an estimate, are asked for each time.
    pub(super) fn attr(&self, attr: &Attr, size_known: bool, open_for_write: bool) -> Duration {
        let settled = attr.kind != Kind::File || (size_known && !open_for_write);
        if settled { self.entry() } else { Duration::ZERO }
    }
}

impl Default for Ttl {
    fn default() -> Ttl {
        Ttl::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::convert::tests::attr;

    #[test]
    fn a_settled_file_is_trusted_for_an_hour() {
        assert_eq!(Ttl::new().attr(&attr(Kind::File), true, false), FOLLOWED);
    }

    #[test]
    fn a_file_that_may_change_without_notice_is_not_trusted() {
        let ttl = Ttl::new();
        assert_eq!(ttl.attr(&attr(Kind::File), false, false), Duration::ZERO);
        assert_eq!(ttl.attr(&attr(Kind::File), true, true), Duration::ZERO);
        assert_eq!(ttl.entry(), FOLLOWED, "its name is");
    }

    #[test]
    fn without_the_feed_nothing_is_trusted_for_long() {
        let ttl = Ttl::new();
        ttl.set_followed(false);
        assert_eq!(ttl.entry(), UNFOLLOWED);
        assert_eq!(ttl.attr(&attr(Kind::Dir), true, false), UNFOLLOWED);
        ttl.set_followed(true);
        assert_eq!(ttl.entry(), FOLLOWED);
    }
}
