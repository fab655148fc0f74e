//! What is said of a motion that was found, and when it is not to be trusted.
use glam::{DAffine3, DMat3, DVec3};

use super::LEAST_OVERLAP;

/// A similarity below this many times that of heads turned by [`super::ASTRAY`] is none.
const ABOVE_CHANCE: f64 = 1.25;
/// Nobody turns further within a scanner, degrees.
const MOST_ROTATION_DEG: f64 = 45.0;
/// Nor moves further, millimetres.
const MOST_TRANSLATION_MM: f64 = 60.0;
/// No scanner stretches or shears a head by more than this share.
const MOST_STRAIN: f64 = 0.15;

/// How a moving scan lies for a fixed one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Alignment {
    /// World points of the fixed scan to world points of the moving one, both RAS+ millimetres by their
    /// headers: what [`crate::resample::resample_moved`] and [`crate::study::Sent::motion`] take. The
    /// identity if nothing better was found or nothing is to be believed.
    pub motion: DAffine3,
    /// The angle of `motion`'s rotation, degrees, 0 to 180.
    pub rotation_deg: f64,
    /// How far `motion` takes the centre of the fixed scan's head, RAS+ millimetres.
    pub translation_mm: DVec3,
    /// What the scans tell of each other.
    pub similarity: Similarities,
    /// The share (0 to 1) of the fixed scan's head within the moving field of view, by `motion`.
    pub overlap: f64,
    /// Why the result should not be trusted, if so.
    pub doubt: Option<Doubt>,
}

/// Mutual information of two scans in nats, 0 and more, over one set of points in the fixed head; 0
/// where less than 30 per cent of them lie in the moving field of view.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Similarities {
    /// As the headers have it.
    pub before: f64,
    /// By the motion that was found.
    pub after: f64,
    /// With the head turned away by 45 degrees about each axis in turn, the most of the three: what two
    /// round things tell of each other anyway.
    pub astray: f64,
}

/// Which of two scans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one that stays.
    Fixed,
    /// The one that is moved.
    Moving,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Fixed => "fixed",
            Self::Moving => "moving",
        })
    }
}

/// Why an alignment should not be trusted; of several reasons the first of this list.
///
/// By the first three nothing is known, and the headers are believed: the motion is the identity. By
/// the others the motion was found and is better than the headers, but somebody should look.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Doubt {
    /// A scan of one brightness.
    #[error("the {side} scan shows nothing")]
    NothingToSee {
        /// Which one.
        side: Side,
    },
    /// The scans show different places, however one moves them.
    #[error("only {:.0} % of the head lies in the moving field of view", share * 100.0)]
    LittleOverlap {
        /// The share of the fixed head, 0 to 1.
        share: f64,
    },
    /// The scans tell hardly more of each other than any two round things.
    #[error("a similarity of {nats:.3} nats is hardly above the {astray:.3} of a head turned away")]
    NearChance {
        /// The highest that was found.
        nats: f64,
        /// With the head turned away.
        astray: f64,
    },
    /// A motion that no patient makes; the headers may not belong together.
    #[error("a motion of {translation_mm:.0} mm and {rotation_deg:.0} degrees is not a patient's")]
    LargeMotion {
        /// The angle.
        rotation_deg: f64,
        /// The way of the head's centre.
        translation_mm: f64,
    },
    /// An affine motion that makes another head of it.
    #[error("a head stretched or sheared by {:.0} % is not a scanner's work", share * 100.0)]
    LargeStrain {
        /// The largest entry of `(AᵀA − 1) / 2` for the motion's matrix A.
        share: f64,
    },
    /// Another place fits nearly as well.
    #[error("a place {apart_mm:.0} mm away fits nearly as well: {rival:.3} nats, not {best:.3}")]
    StartsDisagree {
        /// How far the other place is, as the mean over the head.
        apart_mm: f64,
        /// Its similarity at coarse voxels.
        rival: f64,
        /// That of the place that was taken.
        best: f64,
    },
}

pub(super) fn hardly_similar(alignment: &Alignment) -> Option<Doubt> {
    let Similarities { after, astray, .. } = alignment.similarity;
    if alignment.overlap < LEAST_OVERLAP {
        let share = alignment.overlap;
        return Some(Doubt::LittleOverlap { share });
    }
    let nats = after;
    (after < ABOVE_CHANCE * astray).then_some(Doubt::NearChance { nats, astray })
}

pub(super) fn too_far(alignment: &Alignment) -> Option<Doubt> {
    let (rotation_deg, translation_mm) =
        (alignment.rotation_deg, alignment.translation_mm.length());
    let far = rotation_deg > MOST_ROTATION_DEG || translation_mm > MOST_TRANSLATION_MM;
    if far {
        return Some(Doubt::LargeMotion {
            rotation_deg,
            translation_mm,
        });
    }
    let a = alignment.motion.matrix3;
    let strain = (a.transpose() * a - DMat3::IDENTITY) * 0.5;
    let entries = strain.to_cols_array().map(f64::abs);
    let share = entries.into_iter().fold(0.0, f64::max);
    (share > MOST_STRAIN).then_some(Doubt::LargeStrain { share })
}

/// The headers' own word, with the reason why no more is known.
pub(super) fn unmoved(doubt: Doubt) -> Alignment {
    Alignment {
        motion: DAffine3::IDENTITY,
        rotation_deg: 0.0,
        translation_mm: DVec3::ZERO,
        similarity: Similarities {
            before: 0.0,
            after: 0.0,
            astray: 0.0,
        },
        overlap: 0.0,
        doubt: Some(doubt),
    }
}
