//! What to know about a scan before its result is believed, each with the figure behind it.
//!
//! Nothing here hides a result. What scans should be like is taken from MAGNIMS-CMSC-NAIMS 2021 (Wattjes et
//! al., Lancet Neurol 20:653): FLAIR in 3D at 1 mm, or slices of at most 3 mm without gaps.
use dawson_imaging::lesions::Lesions;
use dawson_imaging::noise;
use dawson_imaging::resample::nearest;
use dawson_imaging::study::{Extent, Study};
use dawson_imaging::volume::Volume;
use rayon::prelude::*;

use super::error;
use crate::report::Warning;

/// The thickest slices that are recommended, millimetres; a hair more, since headers round.
const THICKEST_MM: f64 = 3.05;
/// The largest voxels in plane, millimetres.
const COARSEST_MM: f64 = 1.55;
/// More of the brain's outer voxels than this on one face: the field of view cuts it off.
const MOST_ON_FACE: f64 = 0.01;
/// More lesion than any patient of the public sets has, millilitres.
const MOST_LESION_ML: f64 = 120.0;
/// Probabilities within this of the threshold could as well be on its other side.
const UNDECIDED: f32 = 0.1;
/// More undecided voxels than this share of the decided ones.
const MOST_UNDECIDED: f64 = 0.5;

/// Noise of more than the tenth part of the signal: a lesion that is by a half brighter than white matter then stands
/// out by five times the noise, which the eye needs (Rose, J. Opt. Soc. Am. 38:196, 1948).
const LEAST_SIGNAL_TO_NOISE: f64 = 10.0;
/// More ghost than this share of the brain's signal. The American College of Radiology allows 0.025 of a phantom.
const MOST_GHOSTING: f64 = 0.025;

/// What can be seen of the FLAIR without its lesions.
pub(super) struct Seen {
    /// The brain, or the head, on the FLAIR's own grid.
    pub(super) foreground: Volume<u8>,
    /// The patient's side on which the field of view ends within the brain, if it is known and does.
    pub(super) cut_off: Option<&'static str>,
    pub(super) figures: Figures,
}

/// The figures that were found.
#[derive(Clone, Copy)]
pub(super) struct Figures {
    pub(super) signal_to_noise: Option<f64>,
    pub(super) ghosting: Option<f64>,
}

/// What is looked at, all on the FLAIR's own grid.
pub(super) struct Looked<'a> {
    pub(super) seen: &'a Seen,
    pub(super) probability: &'a Volume<f32>,
    pub(super) lesions: &'a Lesions,
    pub(super) threshold: f32,
}

/// Looks at the FLAIR, with its brain or head laid on its own grid.
pub(super) fn look(flair: &Volume<f32>, study: &Study) -> Seen {
    let foreground = nearest(&study.brain, flair.grid(), 0);
    figures(flair, foreground, study.extent)
}

fn figures(flair: &Volume<f32>, foreground: Volume<u8>, extent: Extent) -> Seen {
    // Air that a sender cut away says nothing; nor does the head's box where no brain is known.
    let is_air_there = extent == Extent::Extracted;
    let ghosting = is_air_there.then(|| noise::ghosting(flair, &foreground));
    let figures = Figures {
        signal_to_noise: noise::signal_to_noise(flair, &foreground),
        ghosting: ghosting.flatten(),
    };
    let brain = Some(&foreground).filter(|_| extent != Extent::Head);
    Seen {
        cut_off: brain.and_then(cut_off),
        foreground,
        figures,
    }
}

/// Warns of what was found.
pub(super) fn flag(looked: &Looked<'_>, warnings: &mut Vec<Warning>) {
    let seen = looked.seen;
    let mut flag = |code: &'static str, detail: String| {
        warnings.push(error::warning(code, None, detail));
    };
    let mut spacing = seen.foreground.grid().spacing_mm();
    spacing.sort_by(f64::total_cmp);
    let [_, in_plane, slices] = spacing;
    if slices > THICKEST_MM {
        let detail = format!(
            "slices of {slices:.1} mm: 3 mm or less are recommended, and lesions smaller than a slice may be missed"
        );
        flag("thick_slices", detail);
    }
    if in_plane > COARSEST_MM {
        let detail = format!("voxels of {in_plane:.1} mm in plane: about 1 mm is recommended");
        flag("coarse_voxels", detail);
    }
    if let Some(side) = seen.cut_off {
        let detail =
            format!("the brain reaches the {side} face of the FLAIR: a part of it was not scanned");
        flag("field_of_view_clipped", detail);
    }
    let load = looked.lesions.volume_ml();
    if load > MOST_LESION_ML {
        let detail = format!(
            "{load:.0} ml of lesions are more than is seen in multiple sclerosis: look at the picture"
        );
        flag("lesion_load_implausible", detail);
    }
    // Each voxel's part in two counts, at once.
    let (above, undecided) = looked
        .probability
        .samples()
        .par_iter()
        .map(|p| {
            let decided = usize::from(*p >= looked.threshold);
            (
                decided,
                usize::from((p - looked.threshold).abs() < UNDECIDED),
            )
        })
        .reduce(|| (0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    let share = undecided as f64 / above.max(1) as f64;
    if above > 0 && share > MOST_UNDECIDED {
        let detail = format!(
            "{undecided} voxels have a probability within {UNDECIDED} of the threshold, {:.0} % as many as lie above it",
            share * 100.0
        );
        flag("undecided", detail);
    }
    let Figures {
        signal_to_noise,
        ghosting,
    } = seen.figures;
    if let Some(ratio) = signal_to_noise.filter(|ratio| *ratio < LEAST_SIGNAL_TO_NOISE) {
        let detail = format!(
            "the brain's signal is {ratio:.1} times the noise, at least {LEAST_SIGNAL_TO_NOISE} is wanted: small \
             and faint lesions are lost in it"
        );
        flag("noisy", detail);
    }
    if let Some(share) = ghosting.filter(|share| *share > MOST_GHOSTING) {
        let detail = format!(
            "the air beside the head is brighter than off it by {:.1} % of the brain's signal: ghosts of the head, \
             by motion or flow, lie over the brain too",
            share * 100.0
        );
        flag("ghosting", detail);
    }
}

/// The face of the volume, if any, that cuts the brain off.
fn cut_off(brain: &Volume<u8>) -> Option<&'static str> {
    let grid = brain.grid();
    let shape = grid.shape();
    let orientation = grid.orientation().to_string();
    let samples = brain.samples();
    let all = samples.par_iter().filter(|b| **b != 0).count();
    // The voxels of a face, by the two axes that span it.
    let on_face = |a: usize, at: usize| {
        let [b, c] = [(a + 1) % 3, (a + 2) % 3];
        let voxels = (0..shape[b]).flat_map(|y| (0..shape[c]).map(move |z| (y, z)));
        let is_brain = |&(y, z): &(usize, usize)| {
            let mut index = [at; 3];
            (index[b], index[c]) = (y, z);
            samples[grid.offset(index)] != 0
        };
        voxels.filter(is_brain).count()
    };
    let on_faces = [0, 1, 2].map(|a| [on_face(a, 0), on_face(a, shape[a] - 1)]);
    let mut towards = orientation.chars();
    for counts in on_faces {
        let positive = towards.next()?;
        for (count, is_last) in counts.into_iter().zip([false, true]) {
            // A slab of one slice touches both its faces with all that it has.
            if count as f64 > MOST_ON_FACE * all as f64 {
                return Some(side(positive, is_last));
            }
        }
    }
    None
}

/// The side of the patient at the end (or the beginning) of an axis that points to `towards`.
fn side(towards: char, is_last: bool) -> &'static str {
    let (there, opposite) = match towards {
        'L' => ("left", "right"),
        'R' => ("right", "left"),
        'A' => ("anterior", "posterior"),
        'P' => ("posterior", "anterior"),
        'S' => ("superior", "inferior"),
        _ => ("inferior", "superior"),
    };
    if is_last { there } else { opposite }
}

#[cfg(test)]
mod tests {
    use dawson_imaging::grid::Grid;
    use dawson_imaging::lesions::CountingRule;
    use glam::{DAffine3, DVec3};

    use super::*;

    fn codes(spacing: DVec3, brain_from: usize, probability: f32) -> Vec<String> {
        let grid = Grid::new([20, 20, 20], DAffine3::from_scale(spacing)).unwrap();
        let flair = Volume::filled(grid, 1.0_f32);
        let brain = Volume::from_fn(grid, |[i, j, k]| {
            u8::from((5..15).contains(&i) && (5..15).contains(&j) && (brain_from..15).contains(&k))
        });
        let probability = Volume::from_fn(grid, |[i, j, k]| {
            if i.max(j).max(k) < 4 {
                probability
            } else {
                0.0
            }
        });
        let rule = CountingRule {
            threshold: 0.5,
            min_lesion_ml: 0.0,
        };
        let lesions = Lesions::find(&probability, rule);
        let mut warnings = Vec::new();
        let looked = Looked {
            seen: &figures(&flair, brain, Extent::Brain),
            probability: &probability,
            lesions: &lesions,
            threshold: 0.5,
        };
        flag(&looked, &mut warnings);
        warnings.into_iter().map(|w| w.code).collect()
    }

    #[test]
    fn each_flag_has_its_cause_and_a_good_scan_has_none() {
        assert!(codes(DVec3::ONE, 5, 0.9).is_empty());
        assert_eq!(codes(DVec3::new(1.0, 1.0, 4.0), 5, 0.9), ["thick_slices"]);
        assert_eq!(codes(DVec3::splat(2.0), 5, 0.9), ["coarse_voxels"]);
        assert_eq!(codes(DVec3::ONE, 0, 0.9), ["field_of_view_clipped"]);
        assert_eq!(codes(DVec3::ONE, 5, 0.55), ["undecided"]);
        assert_eq!(
            codes(DVec3::splat(13.0), 5, 0.9).last().unwrap(),
            "lesion_load_implausible"
        );
    }

    #[test]
    fn the_side_that_is_cut_off_is_the_patient_s() {
        assert_eq!((side('S', false), side('L', true)), ("inferior", "left"));
    }
}
