//! The embedded server from outside: over sockets, as a client sees it.

mod access;
mod client;
mod durability;
mod faults;
mod hostile;
mod live;
mod merge;
mod recordings;
mod scale;

pub use client::*;
