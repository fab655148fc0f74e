//! `dawson evaluate`: a mask against a truth.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use dawson_imaging::evaluate::{
    Cohort, Evaluation, EvaluationOptions, OverlapRule, Share, SizeBin, cohort, evaluate,
};
use dawson_imaging::nifti::{self, Limits};
use dawson_imaging::volume::Volume;
use dawson_inference::pipeline::nifti_code;
use dawson_inference::problem::Code;
use serde::Serialize;

use super::say::say;
use super::{Failure, print_json};
use crate::files;

/// What a folder of cases calls its masks.
const MASK: &str = "lesions.nii.gz";
/// What `dawson segment` calls its probability.
const PROBABILITY: &str = "probability.nii.gz";

/// Two masks, or two folders with a folder a case and `lesions.nii.gz` in each.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  dawson evaluate --prediction result/lesions.nii.gz --truth truth.nii.gz --probability result/probability.nii.gz
  dawson evaluate --prediction results/ --truth labelled/

In folders, each case of --prediction that has a truth is evaluated, with its probability.nii.gz if it is there.")]
pub(super) struct Args {
    /// A mask (0 outside, above 0.5 inside), or a folder of cases
    #[arg(long, value_name = "FILE|DIR")]
    prediction: PathBuf,
    /// The true mask, or a folder of cases
    #[arg(long, value_name = "FILE|DIR")]
    truth: PathBuf,
    /// The probability behind the mask: gives the area under the precision-recall curve
    #[arg(long, value_name = "FILE")]
    probability: Option<PathBuf>,
    /// A brain mask: bounds the voxels that specificity and precision-recall look at
    #[arg(long, value_name = "FILE")]
    region: Option<PathBuf>,
    /// Lesions below this volume are not counted, in either mask
    #[arg(long, default_value = "0.003", value_name = "ML")]
    min_lesion_ml: f64,
    /// When a lesion counts as found: `any` common voxel, or a least share of its voxels such as 0.1
    #[arg(long, default_value = "any", value_parser = overlap_rule)]
    overlap: OverlapRule,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn overlap_rule(text: &str) -> Result<OverlapRule, String> {
    if text == "any" {
        return Ok(OverlapRule::AnyVoxel);
    }
    let share: f64 = text
        .parse()
        .map_err(|_| "must be any, or a share such as 0.1".to_owned())?;
    Share::new(share)
        .map(OverlapRule::AtLeast)
        .map_err(|e| e.to_string())
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    if args.prediction.is_dir() || args.truth.is_dir() {
        if args.region.is_some() || args.probability.is_some() {
            let detail = "--region and --probability are for one case, not for folders";
            return Err(Failure::new(Code::MalformedRequest, detail));
        }
        return folders(args);
    }
    let paths = Paths {
        prediction: args.prediction.clone(),
        truth: args.truth.clone(),
        probability: args.probability.clone(),
        region: args.region.clone(),
    };
    let found = one(&paths, args)?;
    if args.json {
        return print_json(&CaseJson::of(&found));
    }
    for figure in found.figures() {
        say!(
            "{:<44} {:>12} {}",
            figure.title,
            number(figure.value),
            figure.unit
        );
    }
    print_bins(&found.size_bins);
    Ok(())
}

/// The files of a case.
struct Paths {
    prediction: PathBuf,
    truth: PathBuf,
    probability: Option<PathBuf>,
    region: Option<PathBuf>,
}

fn one(paths: &Paths, args: &Args) -> Result<Evaluation, Failure> {
    let mask = |path: &Path| Ok::<_, Failure>(scan(path)?.map(|value| u8::from(value > 0.5)));
    let probability = paths.probability.as_deref().map(scan).transpose()?;
    let region = paths.region.as_deref().map(mask).transpose()?;
    let options = EvaluationOptions {
        min_lesion_ml: args.min_lesion_ml,
        overlap_rule: args.overlap,
    };
    evaluate(
        &mask(&paths.prediction)?,
        &mask(&paths.truth)?,
        probability.as_ref(),
        region.as_ref(),
        options,
    )
    .map_err(|e| {
        Failure::new(
            Code::InvalidOptions,
            format!("{}: {e}", paths.prediction.display()),
        )
    })
}

fn scan(path: &Path) -> Result<Volume<f32>, Failure> {
    let bytes = files::read(path).map_err(|e| Failure::file(&e))?;
    nifti::decode(&bytes, Limits::CLINICAL)
        .map(|scan| scan.volume)
        .map_err(|e| Failure::new(nifti_code(&e), format!("{}: {e}", path.display())))
}

fn folders(args: &Args) -> Result<(), Failure> {
    let mut found = BTreeMap::new();
    let entries = std::fs::read_dir(&args.prediction)
        .map_err(|e| Failure::file(&files::named(&args.prediction, &e)))?;
    for entry in entries {
        let folder = entry
            .map_err(|e| Failure::file(&files::named(&args.prediction, &e)))?
            .path();
        let name = folder
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        let (prediction, truth) = (folder.join(MASK), args.truth.join(&name).join(MASK));
        if !prediction.is_file() || !truth.is_file() {
            continue;
        }
        let probability = Some(folder.join(PROBABILITY)).filter(|path| path.is_file());
        found.insert(
            name,
            one(
                &Paths {
                    prediction,
                    truth,
                    probability,
                    region: None,
                },
                args,
            )?,
        );
    }
    if found.is_empty() {
        let detail = format!(
            "no case of {} has a {MASK} and a truth in {}",
            args.prediction.display(),
            args.truth.display()
        );
        return Err(Failure::new(Code::MalformedRequest, detail));
    }
    let all: Vec<Evaluation> = found.values().cloned().collect();
    let summary = cohort(&all);
    if args.json {
        return print_json(&CohortJson::of(&found, &summary));
    }
    print_cohort(&found, &summary);
    Ok(())
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| format!("{v:.3}"))
}

fn print_bins(bins: &[SizeBin]) {
    for bin in bins.iter().filter(|bin| bin.true_lesions > 0) {
        say!(
            "{:<44} {:>12}",
            format!(
                "detected of true lesions {}",
                bin.title.trim_start_matches("LTPR ")
            ),
            format!("{}/{}", bin.detected_lesions, bin.true_lesions)
        );
    }
}

/// A line a case with the figures that are compared most, then means and medians of all.
fn print_cohort(found: &BTreeMap<String, Evaluation>, summary: &Cohort) {
    say!(
        "{:<24} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6} {:>7} {:>8} {:>8} {:>7}",
        "case",
        "dsc",
        "ppv",
        "tpr",
        "ltpr",
        "lfpr",
        "l-f1",
        "pr-auc",
        "found ml",
        "true ml",
        "hd95 mm"
    );
    for (name, e) in found {
        say!(
            "{name:<24} {:>6.3} {:>6} {:>6} {:>6} {:>6.3} {:>6.3} {:>7} {:>8.2} {:>8.2} {:>7}",
            e.dsc,
            number(e.ppv),
            number(e.sensitivity),
            number(e.ltpr),
            e.lfpr,
            e.lesion_f1,
            number(e.pr_auc),
            e.found_ml,
            e.true_ml,
            number(e.hd95_mm)
        );
    }
    say!(
        "\n{:<44} {:>12} {:>12} {:>4}",
        format!("{} cases", summary.cases),
        "mean",
        "median",
        "n"
    );
    for figure in &summary.figures {
        say!(
            "{:<44} {:>12} {:>12} {:>4} {}",
            figure.title,
            number(figure.mean),
            number(figure.median),
            figure.n,
            figure.unit
        );
    }
    print_bins(&summary.size_bins);
}

#[derive(Serialize)]
struct CaseJson {
    figures: BTreeMap<&'static str, Option<f64>>,
    size_bins: Vec<BinJson>,
}

#[derive(Serialize)]
struct BinJson {
    name: &'static str,
    true_lesions: usize,
    detected_lesions: usize,
}

#[derive(Serialize)]
struct CohortJson {
    cases: BTreeMap<String, CaseJson>,
    mean: BTreeMap<&'static str, Option<f64>>,
    median: BTreeMap<&'static str, Option<f64>>,
    n: BTreeMap<&'static str, usize>,
    volume_correlation: Option<f64>,
    isbi_scores: BTreeMap<String, Option<f64>>,
}

fn bins(bins: &[SizeBin]) -> Vec<BinJson> {
    bins.iter()
        .map(|b| BinJson {
            name: b.name,
            true_lesions: b.true_lesions,
            detected_lesions: b.detected_lesions,
        })
        .collect()
}

impl CaseJson {
    fn of(found: &Evaluation) -> Self {
        Self {
            figures: found
                .figures()
                .into_iter()
                .map(|f| (f.name, f.value))
                .collect(),
            size_bins: bins(&found.size_bins),
        }
    }
}

impl CohortJson {
    fn of(found: &BTreeMap<String, Evaluation>, summary: &Cohort) -> Self {
        Self {
            cases: found
                .iter()
                .map(|(name, e)| (name.clone(), CaseJson::of(e)))
                .collect(),
            mean: summary.figures.iter().map(|f| (f.name, f.mean)).collect(),
            median: summary.figures.iter().map(|f| (f.name, f.median)).collect(),
            n: summary.figures.iter().map(|f| (f.name, f.n)).collect(),
            volume_correlation: summary.volume_correlation,
            isbi_scores: found
                .keys()
                .cloned()
                .zip(summary.isbi_scores.iter().copied())
                .collect(),
        }
    }
}
