//! What the commands print.
//!
//! `println!` panics when nobody can take the line: the reader of a pipe has seen enough, the disk behind
//! a redirection is full. Here the first ends the program quietly, as it ends other tools, and the second with an error.
use std::fmt::Arguments;
use std::io::{ErrorKind, Write, stderr, stdout};

/// What a shell says of a program that wrote into a pipe without a reader.
const NO_READER: i32 = 128 + 13;
/// What the command line says of anything that it has no other code for.
const FAILED: i32 = 1;

/// Prints a line on stdout, or ends the program.
macro_rules! say {
    ($($line:tt)*) => { $crate::cli::say::or_end(format_args!($($line)*)) };
}

/// Prints a line on stdout, if somebody can take it: a server serves on.
macro_rules! announce {
    ($($line:tt)*) => { $crate::cli::say::or_go_on(std::io::stdout(), format_args!($($line)*)) };
}

/// Prints a line on stderr, if somebody can take it.
macro_rules! say_aside {
    ($($line:tt)*) => { $crate::cli::say::or_go_on(std::io::stderr(), format_args!($($line)*)) };
}

pub(super) use {announce, say, say_aside};

#[expect(
    clippy::exit,
    reason = "nothing is left to do for who asked, and every caller would pass it on to main"
)]
pub(super) fn or_end(line: Arguments<'_>) {
    let mut out = stdout().lock();
    if let Err(error) = writeln!(out, "{line}").and_then(|()| out.flush()) {
        if error.kind() == ErrorKind::BrokenPipe {
            std::process::exit(NO_READER);
        }
        or_go_on(
            stderr(),
            format_args!("error: stdout takes no more: {error}"),
        );
        std::process::exit(FAILED);
    }
}

pub(super) fn or_go_on(mut out: impl Write, line: Arguments<'_>) {
    let _unheard = writeln!(out, "{line}");
}
