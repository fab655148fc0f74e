//! `dawson segment`: the lesions of one study, or of a table of studies.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use clap::Args as ClapArgs;
use dawson_imaging::align::Align;
use dawson_imaging::dicom::Wish;
use dawson_imaging::study::Contrast;
use dawson_imaging::vote::Weighting;
use dawson_inference::engine::Precision;
use dawson_inference::models::{Model, Voting};
use dawson_inference::pipeline::{
    Artifact, Asked, Cancel, ContrastFile, Input, Output, Progress, Segmentation, Segmenter,
    Settings, Stage,
};
use dawson_inference::problem::Code;
use dawson_inference::report::Report;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};

use super::engine::EngineArgs;
use super::say::{say, say_aside};
use super::{Failure, dicom, print_json};
use crate::files::{self, Existing};

/// A study, and how it is computed.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  dawson segment --flair flair.nii.gz --t1w t1w.nii.gz --out result/
  dawson segment --dicom study.zip --out result/
  dawson segment --cohort cases.csv --out results/ --jobs 2 --resume

cases.csv has a header line: case, flair, and any of t1w, t2w, pdw, t1gd; paths may be relative to it.")]
pub(super) struct Args {
    /// The FLAIR, .nii or .nii.gz: the one contrast that every study needs
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present_any = ["cohort", "dicom"],
        conflicts_with = "cohort"
    )]
    flair: Option<PathBuf>,
    /// T1-weighted, before contrast agent
    #[arg(long, value_name = "FILE", conflicts_with = "cohort")]
    t1w: Option<PathBuf>,
    /// T2-weighted
    #[arg(long, value_name = "FILE", conflicts_with = "cohort")]
    t2w: Option<PathBuf>,
    /// Proton-density-weighted
    #[arg(long, value_name = "FILE", conflicts_with = "cohort")]
    pdw: Option<PathBuf>,
    /// T1-weighted, after gadolinium
    #[arg(long, value_name = "FILE", conflicts_with = "cohort")]
    t1gd: Option<PathBuf>,
    /// A DICOM study instead: a folder, or a zip; its contrasts are found
    #[arg(long, value_name = "DIR|ZIP", conflicts_with_all = ["cohort", "flair", "t1w", "t2w", "pdw", "t1gd"])]
    dicom: Option<PathBuf>,
    /// With --dicom: the series that is a contrast, such as flair=1.2.840.1 (repeat for others)
    #[arg(long, value_name = "CONTRAST=UID", requires = "dicom", value_parser = wish)]
    series: Vec<Wish>,
    #[arg(
        long,
        value_name = "FILE",
        requires = "dicom",
        help = "With --dicom: the site's rules on how it names its series (TOML) [env: DAWSON_SERIES_RULES]"
    )]
    series_rules: Option<PathBuf>,
    #[arg(
        long,
        value_name = "FILE",
        requires = "de_identify",
        help = "With --de-identify: a file of 64 hexadecimal digits, the same of which give the same pseudonyms and \
                UIDs [default: drawn for this run] [env: DAWSON_DE_IDENTIFY_KEY]"
    )]
    de_identify_key: Option<PathBuf>,
    /// A table of studies (CSV); the network stays loaded, a failed study does not stop the others
    #[arg(long, value_name = "FILE")]
    cohort: Option<PathBuf>,
    /// The folder for the results (with --cohort: one folder a case, and results.csv)
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Replace results that are there already
    #[arg(long)]
    overwrite: bool,
    /// With --cohort: studies at once
    #[arg(long, default_value = "1", value_name = "N", requires = "cohort")]
    jobs: std::num::NonZeroUsize,
    /// With --cohort: skip studies whose results are there, of the same files and model
    #[arg(long, requires = "cohort")]
    resume: bool,
    /// Print the report (with --cohort: the table) as JSON on stdout
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

/// What shapes the result; the model has a default for each.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Settings")]
struct SettingsArgs {
    /// The network: name or name@version
    #[arg(long, default_value = "ms-lesion", env = "DAWSON_MODEL")]
    model: String,
    /// The least probability of a lesion's voxel, 0 to 1
    #[arg(long, value_name = "P")]
    threshold: Option<f32>,
    /// The least volume of a lesion in millilitres
    #[arg(long, value_name = "ML")]
    min_lesion_ml: Option<f64>,
    /// full: overlapping patches vote; single: one look at the whole brain; adaptive: one look, and patches vote where
    /// it is in doubt
    #[arg(long, value_parser = voting)]
    voting: Option<Voting>,
    /// The share of a patch that the next one covers again, 0 to 0.9
    #[arg(long)]
    overlap: Option<f64>,
    /// Voxels of a patch where patches vote, multiples of the network's from 32 to 256, such as 64,64,64
    #[arg(long, value_parser = patch, value_name = "I,J,K")]
    patch: Option<Patch>,
    /// How votes weigh: bspline2, gaussian or uniform
    #[arg(long, value_parser = weighting)]
    weighting: Option<Weighting>,
    /// Look at each patch once more, turned by half a turn about the body's long axis: better, and twice the time
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    flips: Option<bool>,
    /// auto (the model's), f32 (reproducible) or bf16 (faster where the device has it)
    #[arg(long, value_parser = precision, default_value = AUTO)]
    precision: PrecisionChoice,
    /// none: headers are believed; rigid: contrasts are turned and shifted onto the FLAIR; affine: and stretched
    #[arg(long, value_parser = align)]
    align: Option<Align>,
    /// With --dicom: nothing that is made says whose study it is, and the images come back without names (the face in
    /// them stays)
    #[arg(long, requires = "dicom")]
    de_identify: bool,
    /// Do not ask the anatomy network: no brain is found in a head, and lesions have no region
    #[arg(long)]
    no_anatomy: bool,
    #[arg(
        long,
        value_delimiter = ',',
        value_parser = output,
        help = "What to make: lesions, instances, probability, probability_uint8, preview, brain, regions \
                [default: all but probability_uint8]"
    )]
    outputs: Option<Vec<Output>>,
}

fn wish(text: &str) -> Result<Wish, String> {
    let (name, uid) = text.split_once('=').unwrap_or_default();
    Wish::parse(name, uid)
        .ok_or_else(|| "must be a contrast, = and a SeriesInstanceUID (digits and dots)".to_owned())
}

fn voting(text: &str) -> Result<Voting, String> {
    named(text, &Voting::ALL, Voting::name)
}

/// Voxels of a patch.
#[derive(Debug, Clone, Copy)]
struct Patch([usize; 3]);

fn patch(text: &str) -> Result<Patch, String> {
    let wrong = || "must be three whole numbers such as 64,64,64".to_owned();
    let sides: Result<Vec<usize>, _> = text.split(',').map(|n| n.trim().parse()).collect();
    sides
        .ok()
        .and_then(|sides| sides.try_into().ok())
        .map(Patch)
        .ok_or_else(wrong)
}

fn weighting(text: &str) -> Result<Weighting, String> {
    named(text, &Weighting::ALL, Weighting::name)
}

/// A precision, or the model's.
#[derive(Debug, Clone, Copy)]
struct PrecisionChoice(Option<Precision>);

const AUTO: &str = "auto";

fn precision(text: &str) -> Result<PrecisionChoice, String> {
    let all = [None, Some(Precision::F32), Some(Precision::Bf16)];
    named(text, &all, |precision| {
        precision.map_or(AUTO, Precision::name)
    })
    .map(PrecisionChoice)
}

fn align(text: &str) -> Result<Align, String> {
    named(text, &Align::ALL, Align::name)
}

fn output(text: &str) -> Result<Output, String> {
    named(text, &Output::ALL, Output::name)
}

fn named<T: Copy>(text: &str, all: &[T], name: impl Fn(T) -> &'static str) -> Result<T, String> {
    let names = || all.iter().map(|&t| name(t)).collect::<Vec<_>>().join(", ");
    all.iter()
        .copied()
        .find(|&t| name(t) == text)
        .ok_or_else(|| format!("must be one of {}", names()))
}

impl SettingsArgs {
    fn resolve(&self, series: &[Wish], model: &Model) -> Result<Settings, Failure> {
        let asked = Asked {
            threshold: self.threshold,
            min_lesion_ml: self.min_lesion_ml,
            voting: self.voting,
            overlap: self.overlap,
            patch: self.patch.map(|patch| patch.0),
            weighting: self.weighting,
            flips: self.flips,
            align: self.align,
            anatomy: self.no_anatomy.then_some(false),
            precision: self.precision.0,
            outputs: self.outputs.clone(),
            series: series.to_vec(),
            de_identify: self.de_identify.then_some(true),
        };
        Settings::resolve(&asked, &model.manifest)
            .map_err(|e| Failure::new(Code::InvalidOptions, e.to_string()))
    }
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let (mut segmenter, model) = args
        .engine
        .open(&args.settings.model, args.settings.precision.0)?;
    if args.dicom.is_some() {
        let rules = dicom::named(args.series_rules.as_deref(), "DAWSON_SERIES_RULES");
        segmenter = segmenter.with_series_rules(dicom::series_rules_of(rules.as_deref())?);
    }
    if args.settings.de_identify {
        let key = dicom::named(args.de_identify_key.as_deref(), "DAWSON_DE_IDENTIFY_KEY");
        segmenter = segmenter.with_pseudonyms(dicom::pseudonyms_of(key.as_deref())?);
    }
    let settings = args.settings.resolve(&args.series, &model)?;
    let work = Work {
        segmenter,
        model,
        settings,
        existing: args.existing(),
        bars: MultiProgress::new(),
    };
    match &args.cohort {
        Some(table) => cohort(args, table, &work),
        None => one(args, &work),
    }
}

impl Args {
    fn existing(&self) -> Existing {
        if self.overwrite || self.resume {
            Existing::Replace
        } else {
            Existing::Keep
        }
    }

    fn files(&self) -> Vec<(Contrast, PathBuf)> {
        let given = |contrast| match contrast {
            Contrast::Flair => self.flair.clone(),
            Contrast::T1w => self.t1w.clone(),
            Contrast::T2w => self.t2w.clone(),
            Contrast::Pdw => self.pdw.clone(),
            Contrast::T1gd => self.t1gd.clone(),
        };
        Contrast::ALL
            .into_iter()
            .filter_map(|c| Some((c, given(c)?)))
            .collect()
    }
}

/// What every study of a call shares.
struct Work {
    segmenter: Segmenter,
    model: Arc<Model>,
    settings: Settings,
    existing: Existing,
    bars: MultiProgress,
}

impl Work {
    fn segment(&self, name: &str, input: impl Into<Input>) -> Result<Segmentation, Failure> {
        let bar = self.bar(name);
        let mut progress = |p: Progress| show(&bar, p);
        let cancel = Arc::new(Cancel::default());
        let outcome =
            self.segmenter
                .segment(input, &self.model, &self.settings, &mut progress, &cancel);
        bar.finish_and_clear();
        Ok(outcome?)
    }

    /// A bar on a terminal; `indicatif` draws none elsewhere.
    fn bar(&self, name: &str) -> ProgressBar {
        let style =
            ProgressStyle::with_template("{prefix} {msg:10} {wide_bar} {pos}/{len} {elapsed}");
        let bar = self
            .bars
            .add(ProgressBar::no_length())
            .with_prefix(name.to_owned());
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar
    }
}

fn show(bar: &ProgressBar, progress: Progress) {
    bar.set_message(progress.stage.name());
    // A bar of length 0 is drawn full, one without a length empty.
    if progress.stage == Stage::Infer && progress.total > 0 {
        bar.set_length(progress.total as u64);
        bar.set_position(progress.done as u64);
    }
}

fn read(files: &[(Contrast, PathBuf)]) -> Result<Vec<ContrastFile>, Failure> {
    files
        .iter()
        .map(|(contrast, path)| {
            let bytes = files::read(path).map_err(|e| Failure::file(&e))?;
            Ok(ContrastFile {
                contrast: *contrast,
                bytes,
            })
        })
        .collect()
}

fn write(folder: &Path, artifacts: &[Artifact], existing: Existing) -> Result<(), Failure> {
    std::fs::create_dir_all(folder).map_err(|e| Failure::file(&files::named(folder, &e)))?;
    let taken = artifacts
        .iter()
        .map(|a| folder.join(&a.name))
        .find(|path| path.exists());
    if let (Existing::Keep, Some(path)) = (existing, taken) {
        let detail = format!(
            "{} is there already: choose another folder or say --overwrite",
            path.display()
        );
        return Err(Failure::new(Code::MalformedRequest, detail));
    }
    for artifact in artifacts {
        files::write(&folder.join(&artifact.name), &artifact.bytes, existing)
            .map_err(|e| Failure::file(&e))?;
    }
    Ok(())
}

fn one(args: &Args, work: &Work) -> Result<(), Failure> {
    let input = match &args.dicom {
        Some(path) => dicom::files_of(path)?,
        None => read(&args.files())?.into(),
    };
    let found = work.segment("study", input)?;
    write(
        &args.out,
        &found.artifacts(jiff::Timestamp::now().as_millisecond())?,
        work.existing,
    )?;
    if args.json {
        return print_json(&found.report);
    }
    print_report(&found.report);
    say!("results in {}", args.out.display());
    Ok(())
}

/// The report as a table for people.
fn print_report(report: &Report) {
    let lesions = &report.lesions;
    say!(
        "{} lesions, {:.2} ml together",
        lesions.count,
        lesions.volume_ml
    );
    if lesions.count > 0 {
        say!(
            "{:>4} {:>9} {:>10} {:>6} {:>7}  centroid x, y, z (RAS mm)",
            "id",
            "ml",
            "extent mm",
            "mean p",
            "max p"
        );
    }
    for lesion in &lesions.items {
        let [x, y, z] = lesion.centroid_mm;
        say!(
            "{:>4} {:>9.3} {:>10.1} {:>6.2} {:>7.2}  {x:+.1}, {y:+.1}, {z:+.1}",
            lesion.id,
            lesion.volume_ml,
            lesion.largest_extent_mm,
            lesion.mean_probability,
            lesion.max_probability
        );
    }
    for warning in &report.warnings {
        let about = warning
            .contrast
            .as_ref()
            .map_or_else(String::new, |c| format!("{c}: "));
        say!("warning {}: {about}{}", warning.code, warning.detail);
    }
    if let Some(anatomy) = &report.anatomy {
        let regions: Vec<String> = anatomy
            .regions
            .iter()
            .map(|r| {
                let name = r.region.replace('_', " ");
                format!("{name} {} ({:.2} ml)", r.count, r.volume_ml)
            })
            .collect();
        say!("{}", regions.join(", "));
        say!(
            "brain {:.0} ml, ventricles {:.0} ml",
            anatomy.brain_ml,
            anatomy.ventricles_ml
        );
    }
    let t = &report.timings_s;
    say!(
        "{} {}, {} on {}: {:.1} s, {:.1} s of it in the network; {}",
        report.model.name,
        report.model.version,
        report.engine.precision,
        report.engine.device,
        t.total,
        t.network + t.anatomy_network,
        report.notice
    );
}

/// A study of the table.
struct Case {
    name: String,
    files: Vec<(Contrast, PathBuf)>,
}

/// What became of a study: a line of `results.csv`.
#[derive(Debug, Clone, serde::Serialize)]
struct Row {
    case: String,
    state: &'static str,
    lesions: Option<usize>,
    volume_ml: Option<f64>,
    largest_ml: Option<f64>,
    warnings: String,
    seconds: Option<f64>,
    code: &'static str,
    detail: String,
}

fn cohort(args: &Args, table: &Path, work: &Work) -> Result<(), Failure> {
    let cases = read_table(table)?;
    let next = Mutex::new(cases.iter());
    let rows = Mutex::new(BTreeMap::new());
    std::thread::scope(|threads| {
        for _ in 0..args.jobs.get() {
            threads.spawn(|| {
                loop {
                    let case = next.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(case) = case else { return };
                    let row = run_case(args, case, work);
                    if let Some(line) = line_about(&row) {
                        // Above the bars where there are some.
                        if work.bars.println(&line).is_err() || !console_is_drawn() {
                            say_aside!("{line}");
                        }
                    }
                    rows.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(row.case.clone(), row);
                }
            });
        }
    });
    let mut by_name = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
    let rows: Vec<Row> = cases
        .iter()
        .filter_map(|case| by_name.remove(&case.name))
        .collect();
    write_table(&args.out, &rows)?;
    let failed = rows.iter().filter(|row| row.state == "failed").count();
    if args.json {
        print_json(&rows)?;
    } else {
        say!(
            "{} studies, {failed} failed; results in {}",
            rows.len(),
            args.out.display()
        );
    }
    if failed > 0 {
        let detail = format!("{failed} of {} studies failed: see results.csv", rows.len());
        return Err(Failure::new(Code::MalformedRequest, detail));
    }
    Ok(())
}

fn console_is_drawn() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stderr())
}

fn line_about(row: &Row) -> Option<String> {
    match (row.state, row.lesions, row.volume_ml) {
        ("failed", ..) => Some(format!("{}: failed: {}", row.case, row.detail)),
        (state, Some(lesions), Some(ml)) => Some(format!(
            "{}: {state}: {lesions} lesions, {ml:.2} ml",
            row.case
        )),
        _ => None,
    }
}

fn run_case(args: &Args, case: &Case, work: &Work) -> Row {
    let folder = args.out.join(&case.name);
    let outcome = read(&case.files).and_then(|files| {
        if args.resume
            && let Some(report) = finished(&folder, &files, work)
        {
            return Ok(("kept", report));
        }
        let found = work.segment(&case.name, files)?;
        write(
            &folder,
            &found.artifacts(jiff::Timestamp::now().as_millisecond())?,
            work.existing,
        )?;
        Ok(("succeeded", found.report))
    });
    match outcome {
        Ok((state, report)) => Row {
            case: case.name.clone(),
            state,
            lesions: Some(report.lesions.count),
            volume_ml: Some(report.lesions.volume_ml),
            largest_ml: Some(report.lesions.largest_ml),
            warnings: report
                .warnings
                .iter()
                .map(|w| w.code.as_str())
                .collect::<Vec<_>>()
                .join(" "),
            seconds: Some(report.timings_s.total),
            code: "",
            detail: String::new(),
        },
        Err(failure) => Row {
            case: case.name.clone(),
            state: "failed",
            lesions: None,
            volume_ml: None,
            largest_ml: None,
            warnings: String::new(),
            seconds: None,
            code: failure.code.name(),
            detail: failure.detail,
        },
    }
}

/// The report in `folder`, if it is of these very files, this model and these settings.
fn finished(folder: &Path, sent: &[ContrastFile], work: &Work) -> Option<Report> {
    let bytes = files::read(&folder.join("report.json")).ok()?;
    let report: Report = serde_json::from_slice(&bytes).ok()?;
    let same = |file: &ContrastFile| {
        let sha256 = hex::encode(Sha256::digest(&file.bytes));
        report
            .study
            .contrasts
            .iter()
            .any(|c| c.contrast == file.contrast.name() && c.sha256 == sha256)
    };
    let all = report.study.contrasts.len() == sent.len() && sent.iter().all(same);
    let settings = &work.settings;
    let as_asked = report.model.sha256 == work.model.sha256()
        && report.settings.threshold.to_bits() == settings.threshold.to_bits()
        && report.settings.min_lesion_ml.to_bits() == settings.min_lesion_ml.to_bits()
        && report.settings.overlap.to_bits() == settings.overlap.to_bits()
        && report.settings.voting == settings.voting.name()
        && report.settings.flips == settings.flips
        && report.settings.align == settings.align.name()
        && report.settings.anatomy == settings.anatomy
        && report.engine.precision == settings.precision.name();
    (all && as_asked).then_some(report)
}

fn read_table(path: &Path) -> Result<Vec<Case>, Failure> {
    let wrong = |detail: String| {
        Failure::new(
            Code::MalformedRequest,
            format!("{}: {detail}", path.display()),
        )
    };
    let base = path.parent().unwrap_or(Path::new("."));
    let bytes = files::read(path).map_err(|e| Failure::file(&e))?;
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(bytes.as_slice());
    let header = reader.headers().map_err(|e| wrong(e.to_string()))?.clone();
    for column in &header {
        if column != "case" && Contrast::parse(column).is_none() {
            return Err(wrong(format!(
                "column '{column}' is not known, must be case, flair, t1w, t2w, pdw or t1gd"
            )));
        }
    }
    let mut cases: Vec<Case> = Vec::new();
    for (n, record) in reader.records().enumerate() {
        let line = n + 2;
        let record = record.map_err(|e| wrong(e.to_string()))?;
        let mut case = Case {
            name: String::new(),
            files: Vec::new(),
        };
        for (column, value) in header
            .iter()
            .zip(&record)
            .filter(|(_, value)| !value.is_empty())
        {
            match Contrast::parse(column) {
                Some(contrast) => case.files.push((contrast, base.join(value))),
                None => value.clone_into(&mut case.name),
            }
        }
        let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
        if case.name.is_empty() || case.name.starts_with('.') || !case.name.chars().all(plain) {
            let detail = format!(
                "line {line}: case '{}' must be letters, digits, '-', '_' or '.'",
                case.name
            );
            return Err(wrong(detail));
        }
        if cases.iter().any(|other| other.name == case.name) {
            return Err(wrong(format!(
                "line {line}: case '{}' stands there twice",
                case.name
            )));
        }
        cases.push(case);
    }
    Ok(cases)
}

fn write_table(folder: &Path, rows: &[Row]) -> Result<(), Failure> {
    let broken = |e: csv::Error| Failure::new(Code::Internal, format!("no table: {e}"));
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        writer.serialize(row).map_err(broken)?;
    }
    let bytes = writer
        .into_inner()
        .map_err(|e| Failure::new(Code::Internal, e.to_string()))?;
    std::fs::create_dir_all(folder).map_err(|e| Failure::file(&files::named(folder, &e)))?;
    files::write(&folder.join("results.csv"), &bytes, Existing::Replace)
        .map_err(|e| Failure::file(&e))
}
