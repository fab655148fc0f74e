//! The program `dawson`.
use std::process::ExitCode;

fn main() -> ExitCode {
    dawson::cli::main()
}
