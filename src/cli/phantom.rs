//! `dawson phantom`: a synthetic head with known lesions, as files.
use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};
use dawson_imaging::grid::{Grid, Orientation};
use dawson_imaging::nifti::{Compression, Element, SpatialFields, encode};
use dawson_imaging::phantom::{PhantomOptions, Skull, head};
use dawson_imaging::study::Contrast;
use dawson_imaging::volume::Volume;
use dawson_inference::problem::Code;

use super::Failure;
use super::say::say;
use crate::files::{self, Existing};

/// Which head, and how it is scanned.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  dawson phantom --seed 1 --out phantom/
  dawson phantom --seed 1 --spacing 0.7,0.7,4 --orientation LPS --skull kept --out thick/

Writes <contrast>.nii.gz for each contrast, lesions.nii.gz (the truth) and brain.nii.gz.")]
pub(super) struct Args {
    /// Whose head: the same number is the same head on any grid
    #[arg(long)]
    seed: u64,
    /// The folder for the files
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Volume of all lesions in millilitres, 0 for a healthy head
    #[arg(long, default_value = "8", value_name = "ML")]
    load_ml: f64,
    /// Whether skull and scalp are on the images
    #[arg(long, value_enum, default_value = "stripped")]
    skull: SkullArg,
    /// Where the voxel axes point, such as RAS or LPI
    #[arg(long, default_value = "LAS", value_parser = orientation)]
    orientation: Orientation,
    /// Millimetres between voxels along left-right, back-front and down-up
    #[arg(long, default_value = "1,1,1", value_parser = spacing, value_name = "X,Y,Z")]
    spacing: Spacing,
    /// Contrasts to make [default: all]
    #[arg(long, value_delimiter = ',', value_parser = contrast)]
    contrasts: Option<Vec<Contrast>>,
    /// Replace files that are there already
    #[arg(long)]
    overwrite: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SkullArg {
    Kept,
    Stripped,
}

/// Millimetres between voxels.
#[derive(Debug, Clone, Copy)]
struct Spacing([f64; 3]);

fn spacing(text: &str) -> Result<Spacing, String> {
    let wrong = || "must be three numbers from 0.3 to 20 such as 0.7,0.7,4".to_owned();
    let numbers: Result<Vec<f64>, _> = text.split(',').map(|n| n.trim().parse()).collect();
    let spacing = <[f64; 3]>::try_from(numbers.map_err(|_| wrong())?).map_err(|_| wrong())?;
    if spacing.iter().all(|s| (0.3..=20.0).contains(s)) {
        Ok(Spacing(spacing))
    } else {
        Err(wrong())
    }
}

fn orientation(text: &str) -> Result<Orientation, String> {
    Orientation::parse(text)
        .ok_or_else(|| "must be three letters such as RAS, LPS or PIR".to_owned())
}

fn contrast(text: &str) -> Result<Contrast, String> {
    Contrast::parse(text).ok_or_else(|| "must be flair, t1w, t2w, pdw or t1gd".to_owned())
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let standard = PhantomOptions::standard(args.seed);
    let options = PhantomOptions {
        grid: grid(&standard.grid, args)?,
        skull: match args.skull {
            SkullArg::Kept => Skull::Kept,
            SkullArg::Stripped => Skull::Stripped,
        },
        lesion_load_ml: load(args.load_ml)?,
        contrasts: args
            .contrasts
            .clone()
            .unwrap_or_else(|| Contrast::ALL.to_vec()),
        ..standard
    };
    let made = head(&options);
    std::fs::create_dir_all(&args.out).map_err(|e| Failure::file(&files::named(&args.out, &e)))?;
    let spatial = SpatialFields::of(&options.grid);
    for (contrast, volume) in &made.scans {
        write(
            args,
            contrast.name(),
            &volume.map(|v| v.round().clamp(0.0, 32767.0) as i16),
            &spatial,
        )?;
    }
    write(args, "lesions", &made.lesions, &spatial)?;
    write(args, "brain", &made.brain, &spatial)?;
    say!(
        "{} scans, lesions.nii.gz and brain.nii.gz in {}",
        made.scans.len(),
        args.out.display()
    );
    Ok(())
}

/// The standard field of view, or a larger one for a head with its skull, at the spacing and in the
/// orientation asked for.
fn grid(standard: &Grid, args: &Args) -> Result<Grid, Failure> {
    let wrong =
        |e: &dyn std::fmt::Display| Failure::new(Code::InvalidOptions, format!("--spacing: {e}"));
    let canonical = standard.canonical();
    let field = match args.skull {
        SkullArg::Stripped => canonical,
        SkullArg::Kept => canonical
            .crop([-20, -24, -10], [222, 266, 210])
            .map_err(|e| wrong(&e))?,
    };
    Ok(field
        .with_spacing(args.spacing.0)
        .map_err(|e| wrong(&e))?
        .oriented(args.orientation))
}

fn load(ml: f64) -> Result<f64, Failure> {
    if (0.0..=80.0).contains(&ml) {
        Ok(ml)
    } else {
        Err(Failure::new(
            Code::InvalidOptions,
            format!("--load-ml is {ml}, must be 0 to 80"),
        ))
    }
}

fn write<T: Element>(
    args: &Args,
    name: &str,
    volume: &Volume<T>,
    spatial: &SpatialFields,
) -> Result<(), Failure> {
    let existing = if args.overwrite {
        Existing::Replace
    } else {
        Existing::Keep
    };
    let bytes = encode(volume, spatial, Compression::Gzip);
    files::write(&args.out.join(format!("{name}.nii.gz")), &bytes, existing)
        .map_err(|e| Failure::file(&e))
}
