//! What the report says of a study's result.
use dawson_imaging::lesions::{CountingRule, Lesions};
use dawson_imaging::regions::Place;
use dawson_imaging::study::{Extent, Study};

use super::{Run, Settings, infer, quality};
use crate::models::Heading;
use crate::report::{
    BoxReport, ContrastReport, EngineReport, LesionReport, LesionsReport, ModelReport,
    SeriesReport, SettingsReport, StudyReport,
};

pub(super) fn study_report(
    study: &Study,
    contrasts: Vec<ContrastReport>,
    series: Vec<SeriesReport>,
    seen: quality::Figures,
) -> StudyReport {
    let foreground = match study.extent {
        Extent::Brain => "brain",
        Extent::Head => "head",
        Extent::Extracted => "extracted",
    };
    StudyReport {
        contrasts,
        series,
        grid_shape: study.grid.shape(),
        grid_spacing_mm: study.grid.spacing_mm(),
        foreground: foreground.to_owned(),
        foreground_ml: study.brain_ml(),
        signal_to_noise: seen.signal_to_noise,
        ghosting: seen.ghosting,
    }
}

pub(super) fn model_report(heading: &Heading) -> ModelReport {
    ModelReport {
        name: heading.name.clone(),
        version: heading.version.clone(),
        sha256: heading.sha256.clone(),
    }
}

pub(super) fn engine_report(run: Run<'_>) -> EngineReport {
    let info = run.engine.info();
    EngineReport {
        device: info.device.to_string(),
        precision: run.settings.precision.name().to_owned(),
        runtime_version: info.runtime_version.clone(),
        threads: info.threads,
    }
}

pub(super) fn settings_report(settings: &Settings, inferred: &infer::Inferred) -> SettingsReport {
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

pub(super) fn lesions_report(
    lesions: &Lesions,
    places: &[Place],
    rule: CountingRule,
) -> LesionsReport {
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
