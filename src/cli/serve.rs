//! `relayfile serve`: the embedded server as a process of its own.

use super::args::Serve;
use super::report;
use crate::preflight::{Code, Exit, Problem};

pub fn run(options: &Serve) -> Exit {
    let problem = Problem::new(
        Code::ServerFailed,
        format!("cannot serve {}: the server is not built in yet", options.data_dir.display()),
        "use a later version",
    );
    report("relayfile", &problem)
}
