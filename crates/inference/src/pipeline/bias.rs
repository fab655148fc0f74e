//! The bias field of each contrast: always measured, removed where it is strong.
//!
//! The network was taught with fields of its own and does best when a scan's is left alone: on labelled scans with a span
//! of 0.38 lesions are lost by removing it. Under much stronger ones they are lost by leaving it (docs/method.md, 4a).
use dawson_imaging::anatomy::Anatomy;
use dawson_imaging::bias::Field;
use dawson_imaging::study::Study;
use rayon::prelude::*;

use super::error;
use crate::report::{BiasFieldReport, ContrastReport, Warning};

/// A field that spans more than this is removed: the bright side is by 52 % brighter than the dark one. No contrast of
/// the seven real studies at hand reaches it (0.41).
const MOST: f64 = 0.42;

/// Measures the field of each contrast, removes the strong ones, and says so.
pub(super) fn even_out(
    study: &mut Study,
    anatomy: &Anatomy,
    contrasts: &mut [ContrastReport],
    warnings: &mut Vec<Warning>,
) {
    let brain = &study.brain;
    let spans: Vec<Option<f64>> = study
        .images
        .par_iter_mut()
        .map(|image| {
            let field = Field::of(&image.volume, anatomy)?;
            if field.span() > MOST {
                field.remove(&mut image.volume, brain);
            }
            Some(field.span())
        })
        .collect();
    for (image, span) in study.images.iter().zip(spans) {
        let name = image.contrast.name();
        let report = contrasts.iter_mut().find(|c| c.contrast == name);
        let (Some(span), Some(report)) = (span, report) else {
            continue;
        };
        let removed = span > MOST;
        report.bias_field = Some(BiasFieldReport { span, removed });
        if removed {
            let detail = format!(
                "one side of the brain is lit by {:.0} % more than the other: that was taken out before the network \
                 saw it",
                span.exp_m1() * 100.0
            );
            warnings.push(error::warning("bias_field", Some(image.contrast), detail));
        }
    }
}
