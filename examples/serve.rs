//! Runs the embedded server alone: `serve --data-dir DIR [--listen ADDR] [--allow-faults] [--body-limit N]
//! [--rate-limit N]`.

use std::process::ExitCode;

use relayfile::server::{ServerConfig, serve_until_signal};

fn config() -> Result<ServerConfig, String> {
    let mut config = ServerConfig::new(std::env::temp_dir().join("relayfile-serve"));
    // Accepts the subcommand of `relayfile serve`, so that scripts can run either.
    let mut args = std::env::args().skip(1).peekable();
    args.next_if(|arg| arg == "serve");
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--data-dir" => config.data_dir = value()?.into(),
            "--listen" => config.listen = value()?.parse().map_err(|e| format!("--listen: {e}"))?,
            "--body-limit" => config.body_limit = value()?.parse().map_err(|e| format!("--body-limit: {e}"))?,
            "--rate-limit" => config.rate_limit = Some(value()?.parse().map_err(|e| format!("--rate-limit: {e}"))?),
            "--allow-faults" => config.allow_faults = true,
            other => return Err(format!("unknown argument {other}")),
        }
    }
    Ok(config)
}

fn main() -> ExitCode {
    let result = config().and_then(|config| serve_until_signal(config).map_err(|e| e.to_string()));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("serve: {e}");
            ExitCode::FAILURE
        }
    }
}
