//! Whether each contrast is what it was sent as: of a head, of this head, and of that contrast.
use dawson_imaging::anatomy::Anatomy;
use dawson_imaging::appearance::{Appearance, Look};
use dawson_imaging::study::{Contrast, Study};
use dawson_imaging::volume::Volume;
use rayon::prelude::*;

use super::anatomy::Told;
use super::{Error, error};
use crate::report::{AppearanceReport, ContrastReport, Warning};

/// A contrast that shows less of the FLAIR's cortex and white matter than this is said to lack them.
const MOST_EMPTY: f64 = 0.05;

/// Why what is on a FLAIR is taken for no head.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum NoHead {
    /// Neither cortex nor white matter.
    #[error("the anatomy network finds neither cortex nor white matter on it")]
    NoTissue,
    /// What the network took for the parts of a brain is not told apart by any MR contrast.
    #[error(
        "what would be fluid is brighter than what would be white matter in {:.0} % of pairs, and what would be \
         cortex in {:.0} %: no brain looks so on any contrast", fluid * 100.0, cortex * 100.0
    )]
    NoOrder {
        /// [`Appearance::fluid_over_white`]
        fluid: f64,
        /// [`Appearance::cortex_over_white`]
        cortex: f64,
    },
}

/// Why a contrast is taken for one of another head.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error(
    "it is of another head than the FLAIR: {doubt}, and its tissues are not where those of the FLAIR are"
)]
pub struct AnotherHead {
    /// Why its alignment is doubtful.
    pub(super) doubt: String,
}

/// How the parts show on the FLAIR that they were told from.
pub(super) fn of_flair(view: &Volume<f32>, anatomy: &Anatomy) -> Result<Appearance, Error> {
    let found = Appearance::of(anatomy, |at| view.samples().get(at).copied());
    let flair = found.ok_or(Error::NoHead(NoHead::NoTissue))?;
    match (flair.look(), flair.fluid_over_white) {
        (Some(Look::NoContrast), Some(fluid)) => Err(Error::NoHead(NoHead::NoOrder {
            fluid,
            cortex: flair.cortex_over_white,
        })),
        _ => Ok(flair),
    }
}

/// Writes down what each contrast looks like and warns of those that are not what they were sent as.
pub(super) fn judge(
    told: &Told,
    study: &Study,
    contrasts: &mut [ContrastReport],
    warnings: &mut Vec<Warning>,
) -> Result<(), Error> {
    let found: Vec<Option<Appearance>> = study
        .images
        .par_iter()
        .map(|image| match image.contrast {
            Contrast::Flair => Some(told.flair),
            _ => Appearance::on(&told.anatomy, &image.volume),
        })
        .collect();
    for (image, found) in study.images.iter().zip(found) {
        let contrast = image.contrast;
        let (Some(appearance), Some(report)) = (
            found,
            contrasts.iter_mut().find(|c| c.contrast == contrast.name()),
        ) else {
            continue;
        };
        report.appearance = Some(AppearanceReport {
            fluid_over_white: appearance.fluid_over_white,
            cortex_over_white: appearance.cortex_over_white,
            empty: appearance.empty,
        });
        if appearance.empty > MOST_EMPTY && contrast != Contrast::Flair {
            let detail = format!(
                "it is exactly 0 in {:.0} % of the cortex and white matter on the FLAIR",
                appearance.empty * 100.0
            );
            warnings.push(error::warning(
                "contrast_incomplete",
                Some(contrast),
                detail,
            ));
        }
        let Some(look) = appearance.look().filter(|look| !look.suits(contrast)) else {
            continue;
        };
        let doubt = report.alignment.as_ref().and_then(|a| a.doubt.clone());
        if let (Look::NoContrast, Some(doubt)) = (look, doubt) {
            let reason = AnotherHead { doubt };
            return Err(Error::AnotherHead { contrast, reason });
        }
        let detail = format!(
            "it looks like {look}, not like a {}: fluid is brighter than white matter in {:.0} % of pairs of voxels, \
             cortex in {:.0} %",
            contrast.name(),
            appearance.fluid_over_white.unwrap_or(f64::NAN) * 100.0,
            appearance.cortex_over_white * 100.0
        );
        warnings.push(error::warning("contrast_mismatch", Some(contrast), detail));
    }
    Ok(())
}
