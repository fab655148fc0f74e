//! The program `dawson`.
use std::process::ExitCode;

/// Volumes come and go; an allocator that keeps their pages halves what decoding costs
/// (`cargo bench --bench study` shows it: the system's maps and faults them in anew each time). It asks for no huge
/// pages (`no_thp`): clearing them for each thread that began was two fifths of what a storm of uploads cost, and at
/// rest the service held half as much again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    dawson::cli::main()
}
