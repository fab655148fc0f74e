//! `dawson completions` and `dawson man`: made from the commands' own description.
use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;

use super::Failure;
use super::say::say;
use crate::files::{self, Existing};

/// For which shell.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dawson completions bash > /etc/bash_completion.d/dawson")]
pub(super) struct CompletionsArgs {
    /// bash, elvish, fish, powershell or zsh
    shell: Shell,
}

/// Where to.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dawson man --out /usr/local/share/man/man1")]
pub(super) struct ManArgs {
    /// The folder for the pages
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(super) fn run(args: &CompletionsArgs, command: &mut Command) {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "dawson", &mut script);
    say!("{}", String::from_utf8_lossy(&script).trim_end());
}

pub(super) fn man(args: &ManArgs, command: &Command) -> Result<(), Failure> {
    let mut pages = vec![("dawson.1".to_owned(), command.clone())];
    for sub in command.get_subcommands() {
        let name = format!("dawson-{}", sub.get_name());
        pages.push((format!("{name}.1"), sub.clone().name(name)));
    }
    std::fs::create_dir_all(&args.out).map_err(|e| Failure::file(&files::named(&args.out, &e)))?;
    for (name, command) in pages {
        let mut page = Vec::new();
        clap_mangen::Man::new(command)
            .render(&mut page)
            .map_err(|e| Failure::file(&e))?;
        files::write(&args.out.join(name), &page, Existing::Replace)
            .map_err(|e| Failure::file(&e))?;
    }
    Ok(())
}
