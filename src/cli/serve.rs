//! `relayfile serve`: the embedded server as a process of its own.

use super::args::Serve;
use super::{logging, report};
use crate::preflight::{Code, Exit, Problem, shell_word};
use crate::server::{self, ServerConfig};

pub fn run(options: &Serve) -> Exit {
    let level = match options.verbose {
        0 => log::LevelFilter::Warn,
        1 => log::LevelFilter::Info,
        _ => log::LevelFilter::Debug,
    };
    logging::start(level, None);
    match serve(options) {
        Ok(()) => Exit::Ok,
        Err(problem) => report("relayfile", &problem),
    }
}

fn serve(options: &Serve) -> Result<(), Problem> {
    let jwt_secret = options.jwt_secret_file.as_deref().map(read_secret).transpose()?;
    let config = ServerConfig {
        listen: options.listen,
        allow_faults: options.allow_faults,
        body_limit: options.body_limit as u64,
        rate_limit: options.rate_limit,
        jwt_secret,
        ..ServerConfig::new(&options.data_dir)
    };
    server::serve_until_signal(config).map_err(|e| {
        Problem::new(
            Code::ServerFailed,
            e.to_string(),
            format!("look at the directory and the address: ls -la {}; ss -ltn", shell_word(&options.data_dir)),
        )
    })
}

fn read_secret(path: &std::path::Path) -> Result<String, Problem> {
    let failed = |why: String| {
        Problem::new(
            Code::ServerFailed,
            format!("--jwt-secret-file {}: {why}", path.display()),
            "name a readable file with the secret",
        )
    };
    let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
    match text.trim() {
        "" => Err(failed("it is empty".into())),
        secret => Ok(secret.to_owned()),
    }
}
