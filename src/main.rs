//! The program `dawson`.
use std::process::ExitCode;

/// Volumes come and go; an allocator that keeps their pages halves what decoding costs
/// (`cargo bench --bench study` shows it: the system's maps and faults them in anew each time). It asks for no huge
/// pages (`no_thp`): each thread has pages of its own, and a storm of uploads begins many threads that use little of them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    dawson::cli::main()
}
