//! `dawson models`: the installed networks.
use clap::{Args as ClapArgs, Subcommand};
use dawson_inference::models::Made;
use serde::Serialize;

use super::engine::{EngineArgs, ModelsArg};
use super::say::say;
use super::{Failure, print_json};

/// What to do with the networks.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  dawson models list\n  dawson models verify --device openvino\n  dawson models show ms-lesion"
)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// One line for each network
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        models: ModelsArg,
    },
    /// Check every network: SHA-256, description, and its golden patch on the device
    Verify {
        #[command(flatten)]
        engine: EngineArgs,
    },
    /// Print a network's card
    Show {
        /// name or name@version
        name: String,
        #[command(flatten)]
        models: ModelsArg,
    },
}

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    version: &'a str,
    title: &'a str,
    contrasts: Vec<&'static str>,
    sha256: &'a str,
    made: Option<&'a Made>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    match &args.action {
        Action::List { json, models } => list(models, *json),
        Action::Verify { engine } => verify(engine),
        Action::Show { name, models } => {
            let model = models.registry()?.get(name)?;
            say!("{}", model.card()?);
            Ok(())
        }
    }
}

fn list(models: &ModelsArg, json: bool) -> Result<(), Failure> {
    let registry = models.registry()?;
    let rows: Vec<Row<'_>> = registry
        .models()
        .iter()
        .map(|model| Row {
            name: &model.manifest.heading.name,
            version: &model.manifest.heading.version,
            title: &model.manifest.heading.title,
            contrasts: model
                .manifest
                .input
                .contrasts
                .iter()
                .map(|c| c.name())
                .collect(),
            sha256: model.sha256(),
            made: model.manifest.heading.made.as_ref(),
        })
        .collect();
    if json {
        return print_json(&rows);
    }
    for row in rows {
        say!(
            "{}@{}  {}  ({})",
            row.name,
            row.version,
            row.title,
            row.contrasts.join(", ")
        );
    }
    Ok(())
}

fn verify(engine: &EngineArgs) -> Result<(), Failure> {
    let registry = engine.registry()?;
    let segmenter = engine.segmenter()?;
    for model in registry.models() {
        for &precision in segmenter.engine().device.precisions() {
            segmenter.verify(model, precision)?;
            say!(
                "{}: good on {} in {precision}",
                model.id(),
                segmenter.engine().device
            );
        }
    }
    if let Some(anatomy) = registry.anatomy() {
        segmenter.verify_anatomy()?;
        say!("{}: good on {}", anatomy.id(), segmenter.engine().device);
    }
    Ok(())
}
