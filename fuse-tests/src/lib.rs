//! The harness of the tests that mount for real.
//!
//! A test runs what users run: `relayfile serve` as the remote, `relayfile-mount` on a directory, ordinary programs on top.
//! Everything lives in temporary directories of the test, so that all tests can run at once, and goes away with the values
//! that own it, also when the test fails; then the end of the mount's log is printed.
//!
//! ```text
//! Server   the remote: files as others see them, its events, request counters, faults, stop and start
//! Mount    a mount of it: where it is, its status, kill -9, unmount, start again with the same state
//! Letter   a dead letter as the mount shows it
//! wait     conditions with a deadline, instead of sleeps
//! run      programs, and the message when one is not installed
//! Terminal a program on a terminal: keys in, screen out
//! Trace    the system calls of a program's save, repeated
//! sys      system calls that std does not have
//! ```
//!
//! Needed: `/dev/fuse`, root, the two binaries (`cargo build --workspace --bins`) beside the test programs or in
//! `RELAYFILE_BIN_DIR`. What is missing fails the test with a message; nothing is skipped.

mod binaries;
mod letter;
mod mount;
mod run;
mod server;
pub mod sys;
mod terminal;
pub mod trace;
mod wait;

pub use binaries::binary;
pub use letter::Letter;
pub use mount::{Mount, Options, is_mounted, processes_about};
pub use run::{output, require, run, sh};
pub use server::{Event, RemoteFile, Server};
pub use terminal::Terminal;
pub use trace::Trace;
pub use wait::{PATIENCE, eventually, until};

/// Bytes that look random and are the same each time: xorshift64* (Vigna 2016), one seed for one sequence.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        (x.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}
