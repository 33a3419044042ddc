fn main() -> std::process::ExitCode {
    relayfile::cli::relayfile()
}
