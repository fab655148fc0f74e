//! The parts of the head, by the anatomy network, on the same engine as the lesions.
use std::sync::Arc;

use crossbeam_channel::{Receiver, bounded};
use dawson_imaging::anatomy::{self, Anatomy, Part};
use dawson_imaging::appearance::Appearance;
use dawson_imaging::lesions::Lesions;
use dawson_imaging::regions::{Place, Region, TOUCH_MM};
use dawson_imaging::study;
use dawson_imaging::volume::{Volume, filled};

use super::account::model_report;
use super::infer::receive;
use super::{Error, Output, Run, Settings, error, looks};
use crate::engine::{Answer, Cancel, Patch, Precision};
use crate::models::AnatomyModel;
use crate::report::{AnatomyReport, RegionReport, Warning};

/// Whole brains are within this, millilitres.
const PLAUSIBLE_ML: std::ops::RangeInclusive<f64> = 700.0..=2200.0;

/// Less than this is no brain to speak of, be it cut off or not, millilitres.
const LEAST_ML: f64 = 200.0;

/// A sender who stripped a scan left little beside what the network takes for the brain: that is 95 to 98 % of the
/// supports of the real ones at hand (`models/training/README.md`).
const LEAST_OF_SUPPORT: f64 = 0.8;

/// Of what is seen of a head so much is scalp and skull: 38 to 41 % of the native FLAIRs at hand, at most 10 % of the
/// stripped ones (`models/training/predict.py` tells them apart alike).
const LEAST_SCALP: f64 = 0.25;

/// The most voxels of a head that is looked at: at 2 mm, 320 mm a side.
const MOST_VOXELS: usize = 160 * 160 * 160;

/// What the anatomy network told.
pub(super) struct Told {
    pub(super) anatomy: Anatomy,
    /// How the parts show on the FLAIR.
    pub(super) flair: Appearance,
    /// Whether the brain is of human size, or what was scanned of it.
    pub(super) is_believed: bool,
    /// Whether what had seemed to be stripped is a head.
    pub(super) is_a_head_after_all: bool,
    /// Seconds inside the network.
    pub(super) network_s: f64,
}

/// A head before the anatomy network, which looks at it while others work.
pub(super) struct Shown<'a> {
    model: &'a AnatomyModel,
    view: Volume<f32>,
    /// Voxels of the patch that the view begins.
    shape: [usize; 3],
    answers: Receiver<Answer>,
}

/// Something, or the warning that the head is too large for it.
pub(super) type TooLargeOr<T> = Result<T, Warning>;

/// Shows the FLAIR to the anatomy network, if there is one.
pub(super) fn show<'a>(
    flair: &Volume<f32>,
    is_stripped: bool,
    run: Run<'a>,
    cancel: &Arc<Cancel>,
) -> Result<Option<TooLargeOr<Shown<'a>>>, Error> {
    let Some(model) = run.anatomy else {
        return Ok(None);
    };
    let view = anatomy::view(flair, &model.manifest.showing, is_stripped).map_err(|e| {
        Error::Study(match e {
            anatomy::Error::Grid(e) => study::Error::Grid(e),
            anatomy::Error::NothingThere(e) => study::Error::NothingThere(e),
        })
    })?;
    // As little air as can be: the network scales what it sees by the whole patch.
    let multiple = model.manifest.multiple.get();
    let shape = view.grid().shape().map(|n| n.next_multiple_of(multiple));
    if shape.iter().product::<usize>() > MOST_VOXELS {
        let detail = format!(
            "the head's box of {:?} voxels is too large for the anatomy network",
            view.grid().shape()
        );
        let warning = error::warning("anatomy_not_told", None, detail);
        return Ok(Some(Err(warning)));
    }
    let mut image = filled(shape.iter().product(), 0.0);
    view.copy_box([0; 3], shape, &mut image);
    let (answer, answers) = bounded(1);
    run.engine.submit(Patch {
        network: Arc::clone(&model.network),
        shape,
        precision: Precision::F32,
        image,
        number: 0,
        cancel: Arc::clone(cancel),
        answer,
    })?;
    Ok(Some(Ok(Shown {
        model,
        view,
        shape,
        answers,
    })))
}

/// Waits for what the network tells, if it was shown something.
///
/// A small head whose air was blotted out seems to be stripped. There the network finds a brain that is much smaller than
/// `stripped_ml`, what the sender would have left, and scalp around it once it is shown the scan as it is shown heads.
pub(super) fn hear(
    shown: Option<TooLargeOr<Shown<'_>>>,
    flair: &Volume<f32>,
    stripped_ml: Option<f64>,
    run: Run<'_>,
    cancel: &Arc<Cancel>,
    warnings: &mut Vec<Warning>,
) -> Result<Option<Told>, Error> {
    let shown = match shown {
        Some(Ok(shown)) => shown,
        Some(Err(too_large)) => {
            warnings.push(too_large);
            return Ok(None);
        }
        None => return Ok(None),
    };
    let told = shown.hear(run, cancel)?;
    let first_s = told.network_s;
    let told = match stripped_ml {
        Some(ml) if told.anatomy.brain_ml() < LEAST_OF_SUPPORT * ml => {
            let (of_head, network_s) = told_of_head(flair, run, cancel)?;
            Told {
                network_s: first_s + network_s,
                ..of_head.unwrap_or(told)
            }
        }
        _ => told,
    };
    let brain_ml = told.anatomy.brain_ml();
    if !PLAUSIBLE_ML.contains(&brain_ml) {
        let detail = format!(
            "the anatomy network finds {brain_ml:.0} ml of brain; {:.0} to {:.0} ml are human",
            PLAUSIBLE_ML.start(),
            PLAUSIBLE_ML.end()
        );
        warnings.push(error::warning("brain_implausible", None, detail));
    }
    Ok(Some(told))
}

/// What the network tells of a scan shown as a head, if it finds enough scalp on it; and its seconds.
fn told_of_head(
    flair: &Volume<f32>,
    run: Run<'_>,
    cancel: &Arc<Cancel>,
) -> Result<(Option<Told>, f64), Error> {
    let Some(Ok(shown)) = show(flair, false, run, cancel)? else {
        return Ok((None, 0.0));
    };
    let showing = &shown.model.manifest.showing;
    let view = shown.view.clone();
    let told = shown.hear(run, cancel)?;
    let is_head = told.anatomy.scalp_share(&view, showing) >= LEAST_SCALP;
    let network_s = told.network_s;
    let of_head = is_head.then_some(Told {
        is_a_head_after_all: true,
        ..told
    });
    Ok((of_head, network_s))
}

impl Shown<'_> {
    /// Waits for the network's answer and reads it.
    fn hear(self, run: Run<'_>, cancel: &Arc<Cancel>) -> Result<Told, Error> {
        let told = receive(&self.answers, run.engine, cancel)?.outcome?;
        let manifest = &self.model.manifest;
        let answer = anatomy::Answer {
            classes: &manifest.classes,
            shape: self.shape,
            probabilities: &told.values,
        };
        let anatomy = Anatomy::read(*self.view.grid(), &answer, manifest.fluid_within_mm);
        let flair = looks::of_flair(&self.view, &anatomy)?;
        let brain_ml = anatomy.brain_ml();
        // A part of a brain is one, if its tissues look like it.
        let is_believed = (LEAST_ML..=*PLAUSIBLE_ML.end()).contains(&brain_ml)
            && (PLAUSIBLE_ML.contains(&brain_ml) || flair.look().is_some());
        Ok(Told {
            anatomy,
            flair,
            is_believed,
            is_a_head_after_all: false,
            network_s: told.run_s,
        })
    }
}

/// Says which files were asked for that only an anatomy network can give.
pub(super) fn missing_outputs(settings: &Settings, told: Option<&Anatomy>) -> Option<Warning> {
    let asked = settings.outputs_named && settings.outputs.contains(&Output::Regions);
    (asked && told.is_none()).then(|| {
        let detail = "regions were asked for, but the parts of the head are not known".to_owned();
        error::warning("anatomy_not_told", None, detail)
    })
}

pub(super) fn report(
    anatomy: &Anatomy,
    model: &AnatomyModel,
    lesions: &Lesions,
    places: &[Place],
) -> AnatomyReport {
    let regions = Region::ALL.map(|region| {
        let of_region = || {
            let pairs = places.iter().zip(&lesions.items);
            pairs.filter(|(place, _)| place.region == region)
        };
        RegionReport {
            region: region.name().to_owned(),
            count: of_region().count(),
            volume_ml: of_region().fold(0.0, |sum, (_, lesion)| sum + lesion.volume_ml),
        }
    });
    AnatomyReport {
        model: model_report(&model.manifest.heading),
        brain_ml: anatomy.brain_ml(),
        ventricles_ml: anatomy.volume_ml(Part::Ventricles),
        cortex_ml: anatomy.volume_ml(Part::Cortex),
        white_matter_ml: anatomy.volume_ml(Part::WhiteMatter) + anatomy.volume_ml(Part::Lesion),
        deep_grey_ml: anatomy.volume_ml(Part::DeepGrey),
        infratentorial_ml: anatomy.volume_ml(Part::Brainstem) + anatomy.volume_ml(Part::Cerebellum),
        rule: format!(
            "infratentorial if at least half of it lies in brainstem or cerebellum, else periventricular or \
             juxtacortical by the first of ventricles and cortex within {TOUCH_MM} mm of it, else deep white matter"
        ),
        regions: regions.into(),
    }
}
