//! `relayfile serve`: the embedded server as a process of its own.

use std::io;
use std::net::SocketAddr;

use super::args::Serve;
use super::{logging, report};
use crate::preflight::{Code, Exit, Problem, shell_word};
use crate::server::{self, ServerConfig, ServerError};

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
    server::serve_until_signal(config).map_err(|e| Problem::new(Code::ServerFailed, e.to_string(), remedy(&e, options)))
}

fn remedy(error: &ServerError, options: &Serve) -> String {
    let dir = shell_word(&options.data_dir);
    let other_port = format!("relayfile serve --data-dir {dir} --listen {}", SocketAddr::new(options.listen.ip(), 0));
    match error {
        ServerError::Listen { addr, source } if source.kind() == io::ErrorKind::AddrInUse => {
            format!("ss -ltnp 'sport = :{}' shows who listens there; a free port: {other_port}", addr.port())
        }
        ServerError::Listen { source, .. } if source.kind() == io::ErrorKind::AddrNotAvailable => {
            "name an address of this machine (ip addr lists them), or 127.0.0.1:8080".to_owned()
        }
        ServerError::Listen { .. } => format!("choose another address; a free port: {other_port}"),
        ServerError::InUse { url } => format!("use the server that runs: curl {url}/health; its token: cat {dir}/token"),
        _ => format!("look at the directory: ls -la {dir}"),
    }
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
