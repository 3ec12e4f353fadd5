//! `longshore`: the agent and its command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything can shake hands: rustls panics without a provider.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        unreachable!("nothing installs a provider before main");
    }
    agent::logging::begin();
    match agent::cli::main() {
        Ok(code) => code,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "the last word of the program")]
            {
                eprintln!("longshore: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}
