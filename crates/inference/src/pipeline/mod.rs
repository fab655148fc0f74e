//! The path of a study, from the bytes of its scans to lesions and a report.
//!
//! [`Segmenter::segment`] is the only way to a mask: the command line, the service's workers and the
//! benchmarks call it. It knows nothing of HTTP, jobs or disks. It blocks, reports progress through a callback
//! and looks between patches whether it is still wanted.
mod account;
mod anatomy;
mod artifacts;
mod bias;
mod clock;
mod dicom;
mod error;
mod infer;
mod intake;
mod looks;
mod needs;
mod quality;
mod settings;

use std::sync::Arc;

use account::{engine_report, lesions_report, model_report, settings_report, study_report};
use anatomy::{Shown, Told, TooLargeOr};
pub use artifacts::{Artifact, MediaType};
use clock::Clock;
pub use clock::{Progress, Stage};
pub use dawson_imaging::dicom::Pseudonyms;
use dawson_imaging::dicom::{SiteRule, Source};
use dawson_imaging::grid::Grid;
use dawson_imaging::lesions::Lesions;
use dawson_imaging::nifti::{Limits, SpatialFields};
use dawson_imaging::normalise::{Scale, normalise};
use dawson_imaging::preview::Frame;
use dawson_imaging::regions::{self, Place};
use dawson_imaging::resample::resample;
use dawson_imaging::study::{self, Contrast, Cut, Extent, Sent, Study};
use dawson_imaging::volume::{TOGETHER, Volume};
pub use dicom::{RulesError, Selection, series_rules};
pub use error::{Error, engine_code, model_code, nifti_code};
use intake::{Taken, Unpacked, align, describe_placement, header_warnings, take, unpack};
pub use needs::{Needs, ScanSize};
use rayon::prelude::*;
pub use settings::{Asked, OutOfRange, Output, Settings};

pub use crate::engine::{Cancel, Precision};
use crate::engine::{Engine, EngineInfo};
use crate::models::{self, AnatomyModel, Model, golden};
use crate::report::{NOTICE, Report, SCHEMA};

/// One contrast's file.
#[derive(Debug, Clone)]
pub struct ContrastFile {
    /// Which contrast it is.
    pub contrast: Contrast,
    /// A `.nii` or `.nii.gz` file.
    pub bytes: Vec<u8>,
}

/// A study as it was sent.
#[derive(Debug, Clone)]
pub enum Input {
    /// One NIfTI file for each contrast.
    Contrasts(Vec<ContrastFile>),
    /// The files of a DICOM study; the contrasts are found among its series.
    Dicom(Vec<Vec<u8>>),
    /// The same, as a zip archive.
    DicomZip(Vec<u8>),
}

impl From<Vec<ContrastFile>> for Input {
    fn from(files: Vec<ContrastFile>) -> Self {
        Self::Contrasts(files)
    }
}

/// What computes studies: an engine, which its clones share, and what a scan may unpack to.
#[derive(Debug, Clone)]
pub struct Segmenter {
    engine: Arc<Engine>,
    limits: Limits,
    anatomy: Option<Arc<AnatomyModel>>,
    rules: Vec<SiteRule>,
    pseudonyms: Option<Pseudonyms>,
}

/// What a study is run with.
#[derive(Clone, Copy)]
struct Run<'a> {
    model: &'a Arc<Model>,
    settings: &'a Settings,
    engine: &'a Engine,
    limits: Limits,
    anatomy: Option<&'a Arc<AnatomyModel>>,
    rules: &'a [SiteRule],
    pseudonyms: Option<&'a Pseudonyms>,
}

/// The result of a study.
#[derive(Debug)]
pub struct Segmentation {
    /// The FLAIR as it was sent.
    pub flair: Volume<f32>,
    /// The header fields that place it.
    pub spatial: SpatialFields,
    /// The probability on the FLAIR's own grid, 0 to 1.
    pub probability: Volume<f32>,
    /// The lesions on the FLAIR's own grid.
    pub lesions: Lesions,
    /// The DICOM series that the FLAIR was made of; none for NIfTI.
    pub source: Option<Source>,
    /// Those of the other contrasts that the network saw.
    pub also_seen: Vec<Source>,
    /// What was found, and how.
    pub report: Report,
    /// The brain on the FLAIR's own grid, if it is known.
    pub brain: Option<Volume<u8>>,
    /// Where each lesion lies, in their order; none without an anatomy network.
    pub places: Vec<Place>,
    frame: Frame,
    settings: Settings,
    /// The de-identified images of its contrasts, if that was asked for.
    images: Vec<Artifact>,
}

impl Segmenter {
    /// Studies are computed by `engine`; scans may unpack to `limits`.
    #[must_use]
    pub fn new(engine: Engine, limits: Limits) -> Self {
        Self {
            engine: Arc::new(engine),
            limits,
            anatomy: None,
            rules: Vec::new(),
            pseudonyms: None,
        }
    }

    /// Gives patients, studies and images of de-identified results these other names.
    #[must_use]
    pub fn with_pseudonyms(self, pseudonyms: Pseudonyms) -> Self {
        Self {
            pseudonyms: Some(pseudonyms),
            ..self
        }
    }

    /// Chooses the series of DICOM studies by a site's rules before its own.
    #[must_use]
    pub fn with_series_rules(self, rules: Vec<SiteRule>) -> Self {
        Self { rules, ..self }
    }

    /// Reads the headers of a zipped DICOM study and chooses its series; nothing is decoded.
    ///
    /// # Errors
    /// [`Error::Archive`], [`Error::Dicom`], [`Error::Choice`]: what [`Segmenter::segment`] would say.
    pub fn select(&self, zip: &[u8], settings: &Settings) -> Result<Selection, Error> {
        Selection::of_zip(zip, &settings.series, &self.rules, false)
    }

    /// Finds the brain in a head, and the regions of lesions, by an anatomy network.
    #[must_use]
    pub fn with_anatomy(self, anatomy: Option<Arc<AnatomyModel>>) -> Self {
        Self { anatomy, ..self }
    }

    /// What the engine runs on.
    #[must_use]
    pub fn engine(&self) -> &EngineInfo {
        self.engine.info()
    }

    /// Whether the engine still works.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.engine.is_alive()
    }

    /// What a scan may unpack to.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Runs a model's golden patch, so that a wrong network or engine is seen before a study is.
    ///
    /// # Errors
    /// What [`golden::verify`] finds.
    pub fn verify(&self, model: &Arc<Model>, precision: Precision) -> Result<(), models::Error> {
        golden::verify(
            &model.network,
            &model.manifest.golden,
            &self.engine,
            precision,
        )
    }

    /// Runs the anatomy network's golden patch, if there is one.
    ///
    /// # Errors
    /// What [`golden::verify`] finds.
    pub fn verify_anatomy(&self) -> Result<(), models::Error> {
        self.anatomy.as_ref().map_or(Ok(()), |model| {
            let golden = &model.manifest.golden;
            golden::verify(&model.network, golden, &self.engine, Precision::F32)
        })
    }

    /// Finds the lesions of a study.
    ///
    /// `progress` is called at the start of each stage and after each patch. The result is the same
    /// bits for the same files, settings, model and engine, whatever else the engine computes
    /// meanwhile.
    ///
    /// # Errors
    /// [`Error`]; [`Error::Cancelled`] soon after `cancel` was asked for.
    pub fn segment(
        &self,
        input: impl Into<Input>,
        model: &Arc<Model>,
        settings: &Settings,
        progress: &mut dyn FnMut(Progress),
        cancel: &Arc<Cancel>,
    ) -> Result<Segmentation, Error> {
        let run = Run {
            model,
            settings,
            engine: &self.engine,
            limits: self.limits,
            anatomy: self.anatomy.as_ref().filter(|_| settings.anatomy),
            rules: &self.rules,
            pseudonyms: self.pseudonyms.as_ref(),
        };
        segment(input.into(), run, progress, cancel)
    }
}

fn segment(
    input: Input,
    run: Run<'_>,
    progress: &mut dyn FnMut(Progress),
    cancel: &Arc<Cancel>,
) -> Result<Segmentation, Error> {
    let mut clock = Clock::start(progress, cancel);

    clock.enter(Stage::Decode)?;
    let first_look = |flair: &Volume<f32>| first_look(flair, run, cancel);
    let (taken, (stripped, shown)) = take(input, run, first_look)?;
    let Taken {
        decoded,
        source,
        also,
        series,
        mut warnings,
        images,
    } = taken;
    warnings.extend(header_warnings(&decoded));

    let Unpacked {
        flair,
        spatial,
        mut others,
        mut contrasts,
    } = unpack(decoded, run, &mut warnings)?;

    // The anatomy network has the FLAIR: what can be done without its answer is done now.
    clock.enter(Stage::Align)?;
    align(&flair, &mut others, run, &mut contrasts, &mut warnings);
    let beside = Beside::lay(stripped, others)?;

    clock.enter(Stage::Anatomy)?;
    let stripped_ml = beside.stripped_ml();
    let told = anatomy::hear(shown, &flair, stripped_ml, run, cancel, &mut warnings)?;

    clock.enter(Stage::Assemble)?;
    let mut study = beside.study(&flair, told.as_ref(), run, cancel)?;
    describe_placement(&study, &mut contrasts, &mut warnings);
    if let Some(told) = &told {
        looks::judge(told, &study, &mut contrasts, &mut warnings)?;
    }
    let anatomy_network_s = told.as_ref().map_or(0.0, |told| told.network_s);
    let anatomy = told
        .filter(|told| told.is_believed)
        .map(|told| told.anatomy);

    clock.enter(Stage::Normalise)?;
    if let Some(anatomy) = &anatomy {
        bias::even_out(&mut study, anatomy, &mut contrasts, &mut warnings);
    }
    let scale = normalise_all(&mut study, run.model)?;
    let frame = frame(&study, scale);

    clock.enter(Stage::Infer)?;
    let meanwhile = || {
        let around = anatomy.as_ref().map(regions::Surroundings::of);
        (quality::look(&flair, &study), around)
    };
    let (inferred, (seen, around)) =
        infer::probability(&study, run, meanwhile, clock.progress, cancel)?;
    warnings.extend(inferred.warning.clone());

    clock.enter(Stage::Restore)?;
    let probability = restored(&inferred.probability, flair.grid());

    clock.enter(Stage::Count)?;
    let rule = run.settings.counting_rule();
    let lesions = Lesions::find(&probability, rule);
    let places = around.map_or_else(Vec::new, |around| regions::places(&lesions, &around));
    quality::flag(
        &quality::Looked {
            seen: &seen,
            probability: &probability,
            lesions: &lesions,
            threshold: rule.threshold,
        },
        &mut warnings,
    );
    let brain = (study.extent != Extent::Head).then_some(seen.foreground);
    let settings = run.settings;
    warnings.extend(anatomy::missing_outputs(settings, anatomy.as_ref()));
    warnings.extend(artifacts::missing_objects(settings, source.as_ref()));

    let timings_s = clock.end(inferred.network_s, anatomy_network_s);
    let report = Report {
        schema: SCHEMA.to_owned(),
        model: model_report(&run.model.manifest.heading),
        engine: engine_report(run),
        study: study_report(&study, contrasts, series, seen.figures),
        settings: settings_report(run.settings, &inferred),
        lesions: lesions_report(&lesions, &places, rule),
        anatomy: anatomy
            .as_ref()
            .zip(run.anatomy)
            .map(|(anatomy, model)| anatomy::report(anatomy, model, &lesions, &places)),
        warnings,
        timings_s,
        notice: NOTICE.to_owned(),
    };
    let seen = |contrast: &Contrast| run.model.manifest.input.contrasts.contains(contrast);
    let also_seen = also.into_iter().filter(|(contrast, _)| seen(contrast));
    Ok(Segmentation {
        flair,
        spatial,
        probability,
        lesions,
        source,
        also_seen: also_seen.map(|(_, source)| source).collect(),
        report,
        brain,
        places,
        frame,
        settings: settings.clone(),
        images,
    })
}

/// Shows the FLAIR to the anatomy network; cuts it to its brain if the sender stripped it.
fn first_look<'a>(
    flair: &Volume<f32>,
    run: Run<'a>,
    cancel: &Arc<Cancel>,
) -> Result<(Option<Cut>, Option<TooLargeOr<Shown<'a>>>), Error> {
    let stripped = study::stripped(flair, spacing_mm(run)).map_err(Error::Study)?;
    let shown = anatomy::show(flair, stripped.is_some(), run, cancel)?;
    if let Some(cut) = &stripped {
        infer::get_ready(cut.grid().shape(), run, cancel)?;
    }
    Ok((stripped, shown))
}

fn spacing_mm(run: Run<'_>) -> [f64; 3] {
    run.model.manifest.input.spacing_mm
}

/// The contrasts beside the FLAIR, and the study that they make if its brain is known already.
struct Beside {
    laid: Option<Study>,
    others: Vec<Sent>,
}

impl Beside {
    /// What the sender stripped is believed, so its box is known; a head's is told by the anatomy network.
    fn lay(stripped: Option<Cut>, others: Vec<Sent>) -> Result<Self, Error> {
        let laid = stripped.map(|cut| cut.assemble(&others)).transpose();
        Ok(Self {
            laid: laid.map_err(Error::Study)?,
            others,
        })
    }

    /// The brain that the sender left, millilitres.
    fn stripped_ml(&self) -> Option<f64> {
        self.laid.as_ref().map(Study::brain_ml)
    }

    /// The study; of a head, in the box of the brain that was found in it.
    fn study(
        self,
        flair: &Volume<f32>,
        told: Option<&Told>,
        run: Run<'_>,
        cancel: &Arc<Cancel>,
    ) -> Result<Study, Error> {
        let is_a_head = told.is_some_and(|told| told.is_a_head_after_all);
        if let Some(study) = self.laid.filter(|_| !is_a_head) {
            return Ok(study);
        }
        let cut = match told.filter(|told| told.is_believed) {
            Some(told) => study::extracted(flair, &told.anatomy.brain, spacing_mm(run)),
            None => study::head(flair, spacing_mm(run)),
        };
        let cut = cut.map_err(Error::Study)?;
        infer::get_ready(cut.grid().shape(), run, cancel)?;
        cut.assemble(&self.others).map_err(Error::Study)
    }
}

/// Probabilities are given in steps of 2⁻¹⁴: finer ones mean nothing, and files of them are five times
/// as large.
const STEPS: f32 = 16384.0;

/// The probability on the FLAIR's own grid, in steps.
fn restored(probability: &Volume<f32>, flair: &Grid) -> Volume<f32> {
    let (mut probability, _) = resample(probability, flair, 0.0);
    let samples = probability.samples_mut();
    samples
        .par_iter_mut()
        .with_min_len(TOGETHER)
        .for_each(|p| *p = rounded(*p * STEPS) / STEPS);
    probability
}

/// `value.round()` for what is not negative and small, without a call for each voxel.
fn rounded(value: f32) -> f32 {
    let whole = value as u32 as f32;
    whole + f32::from(u8::from(value - whole >= 0.5))
}

/// Scales every contrast; returns what was found for the FLAIR, which is the first.
fn normalise_all(study: &mut Study, model: &Model) -> Result<Scale, Error> {
    let how = model.manifest.normalisation;
    let brain = &study.brain;
    let scales: Vec<Scale> = study
        .images
        .par_iter_mut()
        .map(|image| {
            let contrast = image.contrast;
            normalise(&mut image.volume, brain, how)
                .map_err(|reason| Error::Normalise { contrast, reason })
        })
        .collect::<Result<_, _>>()?;
    let missing = Error::Missing {
        contrast: Contrast::Flair,
        model: model.id(),
    };
    scales.first().copied().ok_or(missing)
}

/// The picture shows the study's box, from deep within fluid to the brightest lesions.
fn frame(study: &Study, flair: Scale) -> Frame {
    let black = flair.median - 3.5 * flair.deviation;
    let white = flair.median + 3.5 * flair.deviation;
    Frame::around(&study.grid, black, white)
}
