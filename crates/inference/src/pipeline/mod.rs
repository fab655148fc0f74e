//! The path of a study, from the bytes of its scans to lesions and a report.
//!
//! [`Segmenter::segment`] is the only way to a mask: the command line, the service's workers and the
//! benchmarks call it. It knows nothing of HTTP, jobs or disks. It blocks, reports progress through a callback
//! and looks between patches whether it is still wanted.
mod anatomy;
mod artifacts;
mod error;
mod infer;
mod needs;
mod quality;
mod settings;

use std::sync::Arc;
use std::time::Instant;

use anatomy::Seen;
pub use artifacts::{Artifact, MediaType};
use dawson_imaging::brain::Extent;
use dawson_imaging::lesions::{CountingRule, Lesions};
use dawson_imaging::nifti::{self, AffineSource, Limits, Scan, SpatialFields};
use dawson_imaging::normalise::{Scale, normalise};
use dawson_imaging::preview::Frame;
use dawson_imaging::regions::{self, Place};
use dawson_imaging::resample::{Resampling, nearest, resample};
use dawson_imaging::study::{self, Contrast, Placed, Sent, Study};
use dawson_imaging::volume::Volume;
pub use error::{Error, engine_code, model_code, nifti_code};
pub use needs::Needs;
use rayon::prelude::*;
pub use settings::{Asked, OutOfRange, Output, Settings};
use sha2::{Digest, Sha256};
use tracing::info_span;
use tracing::span::EnteredSpan;

pub use crate::engine::Cancel;
use crate::engine::{Engine, EngineInfo, Precision};
use crate::models::{self, AnatomyModel, Model, golden, hex};
use crate::report::{
    AlignmentReport, BoxReport, ContrastReport, EngineReport, LesionReport, LesionsReport,
    ModelReport, NOTICE, Report, SCHEMA, SettingsReport, StudyReport, Timings, Warning,
};

/// Sform and qform may disagree by this much before it is reported.
const DISAGREEMENT_MM: f64 = 0.1;
/// A contrast that covers less of the brain than this is reported.
const FULL_COVERAGE: f64 = 0.95;

/// One contrast's file.
#[derive(Debug, Clone)]
pub struct ContrastFile {
    /// Which contrast it is.
    pub contrast: Contrast,
    /// A `.nii` or `.nii.gz` file.
    pub bytes: Vec<u8>,
}

/// A part of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "each stage is described at the field of that name in `Timings`"
)]
pub enum Stage {
    Decode,
    Align,
    Anatomy,
    Assemble,
    Normalise,
    Infer,
    Restore,
    Count,
}

impl Stage {
    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Align => "align",
            Self::Anatomy => "anatomy",
            Self::Assemble => "assemble",
            Self::Normalise => "normalise",
            Self::Infer => "infer",
            Self::Restore => "restore",
            Self::Count => "count",
        }
    }
}

/// How far a study has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The stage that has begun or goes on.
    pub stage: Stage,
    /// Patches done, in [`Stage::Infer`].
    pub done: usize,
    /// Patches in all, in [`Stage::Infer`].
    pub total: usize,
}

/// What computes studies: an engine, and what a scan may unpack to.
#[derive(Debug)]
pub struct Segmenter {
    engine: Engine,
    limits: Limits,
    anatomy: Option<Arc<AnatomyModel>>,
}

/// What a study is run with.
#[derive(Clone, Copy)]
struct Run<'a> {
    model: &'a Arc<Model>,
    settings: &'a Settings,
    engine: &'a Engine,
    limits: Limits,
    anatomy: Option<&'a Arc<AnatomyModel>>,
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
    /// What was found, and how.
    pub report: Report,
    /// The brain on the FLAIR's own grid, if it is known.
    pub brain: Option<Volume<u8>>,
    /// Where each lesion lies, in their order; none without an anatomy network.
    pub places: Vec<Place>,
    frame: Frame,
    outputs: Vec<Output>,
}

impl Segmenter {
    /// Studies are computed by `engine`; scans may unpack to `limits`.
    #[must_use]
    pub fn new(engine: Engine, limits: Limits) -> Self {
        Self {
            engine,
            limits,
            anatomy: None,
        }
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
        files: Vec<ContrastFile>,
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
        };
        segment(files, run, progress, cancel)
    }
}

fn segment(
    files: Vec<ContrastFile>,
    run: Run<'_>,
    progress: &mut dyn FnMut(Progress),
    cancel: &Arc<Cancel>,
) -> Result<Segmentation, Error> {
    let mut clock = Clock::start(progress, cancel);

    clock.enter(Stage::Decode)?;
    check_contrasts(&files, run.model)?;
    let decoded = decode(files, run)?;
    let mut warnings = header_warnings(&decoded);

    let Unpacked {
        flair,
        spatial,
        mut others,
        mut contrasts,
    } = unpack(decoded, run.model, &mut warnings)?;

    clock.enter(Stage::Align)?;
    align(&flair, &mut others, run, &mut contrasts, &mut warnings);

    clock.enter(Stage::Anatomy)?;
    let cut = study::cut(&flair, run.model.manifest.input.spacing_mm).map_err(Error::Study)?;
    let Seen {
        cut,
        anatomy,
        network_s: anatomy_network_s,
    } = anatomy::see(&flair, cut, run, cancel, &mut warnings)?;

    clock.enter(Stage::Assemble)?;
    let mut study = cut.assemble(others).map_err(Error::Study)?;
    describe_placement(&study, &mut contrasts, &mut warnings);

    clock.enter(Stage::Normalise)?;
    let scale = normalise_all(&mut study, run.model)?;
    let frame = frame(&study, scale);

    clock.enter(Stage::Infer)?;
    let inferred = infer::probability(&study, run, clock.progress, cancel)?;
    warnings.extend(inferred.warning.clone());

    clock.enter(Stage::Restore)?;
    let (mut probability, _) = resample(&inferred.probability, flair.grid(), 0.0);
    to_steps(&mut probability);

    clock.enter(Stage::Count)?;
    let rule = CountingRule {
        threshold: run.settings.threshold,
        min_lesion_ml: run.settings.min_lesion_ml,
    };
    let lesions = Lesions::find(&probability, rule);
    let places = anatomy
        .as_ref()
        .map_or_else(Vec::new, |anatomy| regions::places(&lesions, anatomy));
    let brain = (study.extent != Extent::Head).then(|| nearest(&study.brain, flair.grid(), 0));
    quality::flag(
        &quality::Looked {
            flair: &flair,
            brain: brain.as_ref(),
            probability: &probability,
            lesions: &lesions,
            threshold: run.settings.threshold,
        },
        &mut warnings,
    );
    if anatomy.is_none() {
        warnings.extend(anatomy::missing_outputs(run.settings));
    }

    let timings_s = clock.end(inferred.network_s, anatomy_network_s);
    let report = Report {
        schema: SCHEMA.to_owned(),
        model: ModelReport {
            name: run.model.manifest.heading.name.clone(),
            version: run.model.manifest.heading.version.clone(),
            sha256: run.model.sha256().to_owned(),
        },
        engine: engine_report(run),
        study: StudyReport {
            contrasts,
            grid_shape: study.grid.shape(),
            grid_spacing_mm: study.grid.spacing_mm(),
            foreground: match study.extent {
                Extent::Brain => "brain".to_owned(),
                Extent::Head => "head".to_owned(),
                Extent::Extracted => "extracted".to_owned(),
            },
            foreground_ml: foreground_ml(&study),
        },
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
    let outputs = run.settings.outputs.clone();
    Ok(Segmentation {
        flair,
        spatial,
        probability,
        lesions,
        report,
        brain,
        places,
        frame,
        outputs,
    })
}

/// Probabilities are given in steps of 2⁻¹⁴: finer ones mean nothing, and files of them are five times
/// as large.
const STEPS: f32 = 16384.0;

fn to_steps(probability: &mut Volume<f32>) {
    let samples = probability.samples_mut();
    samples
        .par_iter_mut()
        .for_each(|p| *p = (*p * STEPS).round() / STEPS);
}

/// Times the stages and stops between them once the study is no longer wanted.
struct Clock<'a> {
    progress: &'a mut dyn FnMut(Progress),
    cancel: &'a Arc<Cancel>,
    begun: Instant,
    entered: Vec<(Stage, Instant)>,
    /// What is logged meanwhile says the stage.
    span: Option<EnteredSpan>,
}

impl<'a> Clock<'a> {
    fn start(progress: &'a mut dyn FnMut(Progress), cancel: &'a Arc<Cancel>) -> Self {
        Self {
            progress,
            cancel,
            begun: Instant::now(),
            entered: Vec::new(),
            span: None,
        }
    }

    fn enter(&mut self, stage: Stage) -> Result<(), Error> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        self.span = None; // The last one ends before the next begins.
        let name = stage.name();
        self.span = Some(info_span!("stage", stage = name, otel.name = name).entered());
        self.entered.push((stage, Instant::now()));
        (self.progress)(Progress {
            stage,
            done: 0,
            total: 0,
        });
        Ok(())
    }

    fn end(&self, network: f64, anatomy_network: f64) -> Timings {
        let now = Instant::now();
        let seconds = |stage: Stage| {
            let at = self.entered.iter().position(|(s, _)| *s == stage);
            at.map_or(0.0, |at| {
                let end = self.entered.get(at + 1).map_or(now, |(_, start)| *start);
                (end - self.entered[at].1).as_secs_f64()
            })
        };
        Timings {
            decode: seconds(Stage::Decode),
            align: seconds(Stage::Align),
            anatomy: seconds(Stage::Anatomy),
            anatomy_network,
            assemble: seconds(Stage::Assemble),
            normalise: seconds(Stage::Normalise),
            infer: seconds(Stage::Infer),
            network,
            restore: seconds(Stage::Restore),
            count: seconds(Stage::Count),
            total: (now - self.begun).as_secs_f64(),
        }
    }
}

/// Each contrast once, and all that the model requires.
fn check_contrasts(files: &[ContrastFile], model: &Model) -> Result<(), Error> {
    for (n, file) in files.iter().enumerate() {
        if files[..n]
            .iter()
            .any(|other| other.contrast == file.contrast)
        {
            return Err(Error::Duplicate {
                contrast: file.contrast,
            });
        }
    }
    for &contrast in &model.manifest.input.required {
        if !files.iter().any(|file| file.contrast == contrast) {
            return Err(Error::Missing {
                contrast,
                model: model.id(),
            });
        }
    }
    Ok(())
}

/// A file and what was in it.
struct Decoded {
    contrast: Contrast,
    scan: Scan,
    sha256: String,
}

fn decode(files: Vec<ContrastFile>, run: Run<'_>) -> Result<Vec<Decoded>, Error> {
    let mut decoded: Vec<Decoded> = files
        .into_par_iter()
        .map(|ContrastFile { contrast, bytes }| {
            let sha256 = hex(&Sha256::digest(&bytes));
            let scan = nifti::decode(&bytes, run.limits)
                .map_err(|reason| Error::Decode { contrast, reason })?;
            Ok(Decoded {
                contrast,
                scan,
                sha256,
            })
        })
        .collect::<Result<_, Error>>()?;
    decoded.sort_by_key(|d| d.contrast);
    Ok(decoded)
}

fn header_warnings(decoded: &[Decoded]) -> Vec<Warning> {
    let mut warnings = Vec::new();
    for Decoded { contrast, scan, .. } in decoded {
        let about = Some(*contrast);
        if let Some(mm) = scan
            .placement
            .disagreement_mm
            .filter(|mm| *mm > DISAGREEMENT_MM)
        {
            let detail =
                format!("sform and qform put a corner {mm:.2} mm apart; the sform was used");
            warnings.push(error::warning("affine_disagreement", about, detail));
        }
        if scan.placement.source == AffineSource::Pixdim {
            let detail =
                "neither sform nor qform is set, so left and right are not known".to_owned();
            warnings.push(error::warning("orientation_unknown", about, detail));
        }
        if scan.non_finite > 0 {
            let detail = format!(
                "{} voxels hold no finite number and were taken as 0",
                scan.non_finite
            );
            warnings.push(error::warning("non_finite_voxels", about, detail));
        }
    }
    warnings
}

/// The decoded files, taken apart.
struct Unpacked {
    flair: Volume<f32>,
    spatial: SpatialFields,
    /// The other contrasts that the network sees.
    others: Vec<Sent>,
    /// All contrasts as they were sent, FLAIR first.
    contrasts: Vec<ContrastReport>,
}

fn unpack(
    decoded: Vec<Decoded>,
    model: &Model,
    warnings: &mut Vec<Warning>,
) -> Result<Unpacked, Error> {
    let mut contrasts = Vec::new();
    let mut others = Vec::new();
    let mut flair = None;
    for Decoded {
        contrast,
        scan,
        sha256,
    } in decoded
    {
        let used = model.manifest.input.contrasts.contains(&contrast);
        contrasts.push(contrast_report(contrast, &scan, sha256, used));
        if contrast == Contrast::Flair {
            flair = Some((scan.volume, scan.header.spatial));
        } else if used {
            others.push(Sent::by_header(contrast, scan.volume));
        } else {
            let detail = format!(
                "model {} was not trained with it: it did not shape the result",
                model.id()
            );
            warnings.push(error::warning("contrast_not_used", Some(contrast), detail));
        }
    }
    let missing = || Error::Missing {
        contrast: Contrast::Flair,
        model: model.id(),
    };
    let (flair, spatial) = flair.ok_or_else(missing)?;
    Ok(Unpacked {
        flair,
        spatial,
        others,
        contrasts,
    })
}

fn contrast_report(contrast: Contrast, scan: &Scan, sha256: String, used: bool) -> ContrastReport {
    let grid = scan.placement.grid;
    ContrastReport {
        contrast: contrast.name().to_owned(),
        shape: grid.shape(),
        spacing_mm: grid.spacing_mm(),
        orientation: grid.orientation().to_string(),
        datatype: scan.header.datatype.name().to_owned(),
        affine_from: scan.placement.source.name().to_owned(),
        sha256,
        used,
        resampled: false,
        coverage: 0.0,
        alignment: None,
    }
}

/// Lays the other contrasts on the FLAIR, as far as the request wants that, and writes down how.
fn align(
    flair: &Volume<f32>,
    others: &mut [Sent],
    run: Run<'_>,
    contrasts: &mut [ContrastReport],
    warnings: &mut Vec<Warning>,
) {
    let found = study::align(flair, others, run.settings.align);
    for (other, alignment) in others.iter().zip(found) {
        if let Some(doubt) = alignment.doubt {
            let detail = format!("its alignment to the FLAIR is doubtful: {doubt}");
            warnings.push(error::warning(
                "alignment_doubtful",
                Some(other.contrast),
                detail,
            ));
        }
        let report = AlignmentReport {
            rotation_deg: alignment.rotation_deg,
            translation_mm: alignment.translation_mm.to_array(),
            similarity_before: alignment.similarity.before,
            similarity_after: alignment.similarity.after,
            doubt: alignment.doubt.map(|doubt| doubt.to_string()),
        };
        if let Some(contrast) = contrasts
            .iter_mut()
            .find(|c| c.contrast == other.contrast.name())
        {
            contrast.alignment = Some(report);
        }
    }
}

/// Writes down how each contrast came onto the study's grid, and what is missing there.
fn describe_placement(
    study: &Study,
    contrasts: &mut [ContrastReport],
    warnings: &mut Vec<Warning>,
) {
    if study.extent == Extent::Head {
        let detail = "the skull is on the images and was not removed: intensities were scaled over the whole \
                      head, which the network was not trained for";
        warnings.push(error::warning(
            "brain_not_extracted",
            None,
            detail.to_owned(),
        ));
    }
    for image in &study.images {
        let Placed {
            contrast,
            resampling,
            coverage,
            ..
        } = image;
        if let Some(report) = contrasts.iter_mut().find(|c| c.contrast == contrast.name()) {
            report.resampled = *resampling == Resampling::Linear;
            report.coverage = *coverage;
        }
        if *coverage < FULL_COVERAGE {
            let detail = format!(
                "its field of view holds {:.0} % of the brain",
                coverage * 100.0
            );
            warnings.push(error::warning("partial_coverage", Some(*contrast), detail));
        }
    }
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

fn foreground_ml(study: &Study) -> f64 {
    let voxels = study.brain.samples().iter().filter(|&&m| m != 0).count();
    voxels as f64 * study.grid.voxel_ml()
}

fn engine_report(run: Run<'_>) -> EngineReport {
    let info = run.engine.info();
    EngineReport {
        device: info.device.to_string(),
        precision: run.settings.precision.name().to_owned(),
        runtime_version: info.runtime_version.clone(),
        threads: info.threads,
    }
}

fn settings_report(settings: &Settings, inferred: &infer::Inferred) -> SettingsReport {
    SettingsReport {
        threshold: settings.threshold,
        min_lesion_ml: settings.min_lesion_ml,
        voting: inferred.voting.name().to_owned(),
        patch: inferred.patch,
        overlap: settings.overlap,
        weighting: inferred.weighting.name().to_owned(),
        flips: settings.flips,
        align: settings.align.name().to_owned(),
        anatomy: settings.anatomy,
        patches: inferred.patches,
    }
}

fn lesions_report(lesions: &Lesions, places: &[Place], rule: CountingRule) -> LesionsReport {
    let voxels: usize = lesions.items.iter().map(|l| l.voxels).sum();
    let sum: f64 = lesions
        .items
        .iter()
        .map(|l| l.mean_probability * l.voxels as f64)
        .sum();
    LesionsReport {
        counting_rule: format!(
            "voxels of the FLAIR with a probability of at least {}, joined across faces, edges and corners \
             (26 neighbours); components below {} ml are dropped; confluent lesions count as one",
            rule.threshold, rule.min_lesion_ml
        ),
        count: lesions.items.len(),
        volume_ml: lesions.volume_ml(),
        largest_ml: lesions.items.first().map_or(0.0, |l| l.volume_ml),
        mean_probability: if voxels == 0 {
            0.0
        } else {
            sum / voxels as f64
        },
        items: lesions
            .items
            .iter()
            .enumerate()
            .map(|(n, l)| LesionReport {
                region: places.get(n).map(|p| p.region.name().to_owned()),
                to_ventricles_mm: places.get(n).and_then(|p| known_mm(p.to_ventricles_mm)),
                to_cortex_mm: places.get(n).and_then(|p| known_mm(p.to_cortex_mm)),
                id: l.id,
                volume_ml: l.volume_ml,
                voxels: l.voxels,
                centroid_mm: l.centroid.0.to_array(),
                bbox_mm: BoxReport {
                    min: l.bbox[0].0.to_array(),
                    max: l.bbox[1].0.to_array(),
                },
                largest_extent_mm: l.largest_extent_mm,
                mean_probability: l.mean_probability,
                max_probability: l.max_probability,
                touches_border: l.touches_border,
            })
            .collect(),
    }
}

/// A distance to something that is there.
fn known_mm(mm: f64) -> Option<f64> {
    mm.is_finite().then_some(mm)
}
