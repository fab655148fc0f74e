//! The parts of the head, by the anatomy network, on the same engine as the lesions.
use std::sync::Arc;

use crossbeam_channel::bounded;
use dawson_imaging::anatomy::{self, Anatomy, Part};
use dawson_imaging::appearance::Appearance;
use dawson_imaging::brain::Extent;
use dawson_imaging::lesions::Lesions;
use dawson_imaging::regions::{Place, Region, TOUCH_MM};
use dawson_imaging::study::{self, Cut};
use dawson_imaging::volume::Volume;

use super::account::model_report;
use super::infer::receive;
use super::{Error, Output, Run, Settings, error, looks};
use crate::engine::{Cancel, Patch, Precision};
use crate::models::AnatomyModel;
use crate::report::{AnatomyReport, RegionReport, Warning};

/// Whole brains are within this, millilitres.
const PLAUSIBLE_ML: std::ops::RangeInclusive<f64> = 700.0..=2200.0;

/// Less than this is no brain to speak of, be it cut off or not, millilitres.
const LEAST_ML: f64 = 200.0;

/// The most voxels of a head that is looked at: at 2 mm, 320 mm a side.
const MOST_VOXELS: usize = 160 * 160 * 160;

/// What was seen of a head.
pub(super) struct Seen {
    /// The FLAIR, cut to the brain if it was found.
    pub(super) cut: Cut,
    /// The parts, if an anatomy network was asked.
    pub(super) anatomy: Option<Told>,
    /// Seconds inside the network.
    pub(super) network_s: f64,
}

/// What the anatomy network told.
pub(super) struct Told {
    pub(super) anatomy: Anatomy,
    /// How the parts show on the FLAIR.
    pub(super) flair: Appearance,
    /// Whether the brain is of human size, or what was scanned of it.
    pub(super) is_believed: bool,
}

/// Asks the anatomy network, if there is one, and cuts the FLAIR to the brain that it finds.
pub(super) fn see(
    flair: &Volume<f32>,
    cut: Cut,
    run: Run<'_>,
    cancel: &Arc<Cancel>,
    warnings: &mut Vec<Warning>,
) -> Result<Seen, Error> {
    let Some(model) = run.anatomy else {
        return Ok(Seen {
            cut,
            anatomy: None,
            network_s: 0.0,
        });
    };
    let is_stripped = cut.extent() == Extent::Brain;
    let manifest = &model.manifest;
    let view = anatomy::view(flair, &manifest.showing, is_stripped).map_err(|e| {
        Error::Study(match e {
            anatomy::Error::Grid(e) => study::Error::Grid(e),
            anatomy::Error::NothingThere(e) => study::Error::NothingThere(e),
        })
    })?;
    let Some((anatomy, network_s)) = look(&view, model, run, cancel)? else {
        let detail = format!(
            "the head's box of {:?} voxels is too large for the anatomy network",
            view.grid().shape()
        );
        warnings.push(error::warning("anatomy_not_told", None, detail));
        return Ok(Seen {
            cut,
            anatomy: None,
            network_s: 0.0,
        });
    };
    let flair = looks::of_flair(&view, &anatomy)?;
    let brain_ml = anatomy.brain_ml();
    if !PLAUSIBLE_ML.contains(&brain_ml) {
        let detail = format!(
            "the anatomy network finds {brain_ml:.0} ml of brain; {:.0} to {:.0} ml are human",
            PLAUSIBLE_ML.start(),
            PLAUSIBLE_ML.end()
        );
        warnings.push(error::warning("brain_implausible", None, detail));
    }
    // A part of a brain is one, if its tissues look like it.
    let is_believed = (LEAST_ML..=*PLAUSIBLE_ML.end()).contains(&brain_ml)
        && (PLAUSIBLE_ML.contains(&brain_ml) || flair.look().is_some());
    // What the sender stripped is believed; a head is cut to the brain that was found in it.
    let cut = if is_believed && !is_stripped {
        cut.extracted(&anatomy.brain).map_err(Error::Study)?
    } else {
        cut
    };
    Ok(Seen {
        cut,
        anatomy: Some(Told {
            anatomy,
            flair,
            is_believed,
        }),
        network_s,
    })
}

/// One look at the whole head; `None` if it is too large for that.
fn look(
    view: &Volume<f32>,
    model: &Arc<AnatomyModel>,
    run: Run<'_>,
    cancel: &Arc<Cancel>,
) -> Result<Option<(Anatomy, f64)>, Error> {
    let manifest = &model.manifest;
    let grid = *view.grid();
    // As little air as can be: the network scales what it sees by the whole patch.
    let shape = grid
        .shape()
        .map(|n| n.next_multiple_of(manifest.multiple.get()));
    if shape.iter().product::<usize>() > MOST_VOXELS {
        return Ok(None);
    }
    let mut image = vec![0.0; shape.iter().product()];
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
    let probabilities = receive(&answers, run.engine, cancel)?.outcome?;
    // What was added to fill the patch is no part of the head.
    let [ni, nj, nk] = grid.shape();
    let padded = shape[0] * shape[1] * shape[2];
    let mut inside = Vec::with_capacity(manifest.classes.len() * grid.voxels());
    for class in probabilities.values.chunks_exact(padded) {
        for k in 0..nk {
            for j in 0..nj {
                let row = shape[0] * (j + shape[1] * k);
                inside.extend_from_slice(&class[row..row + ni]);
            }
        }
    }
    let anatomy = Anatomy::read(grid, &manifest.classes, &inside, manifest.fluid_within_mm);
    Ok(Some((anatomy, probabilities.run_s)))
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
