//! From files to contrasts that lie on one another: what was sent, checked, decoded, aligned, and written down.
use dawson_imaging::align::Similarities;
use dawson_imaging::dicom::Source;
use dawson_imaging::nifti::{self, AffineSource, SpatialFields};
use dawson_imaging::resample::Resampling;
use dawson_imaging::study::{self, Contrast, Extent, Placed, Sent, Study};
use dawson_imaging::volume::Volume;
use sha2::{Digest, Sha256};

use super::dicom::Selection;
use super::{Artifact, ContrastFile, Error, Input, Run, error};
use crate::models::Model;
use crate::report::{AlignmentReport, ContrastReport, SeriesReport, Warning};

/// Sform and qform may disagree by this much before it is reported.
const DISAGREEMENT_MM: f64 = 0.1;
/// Two contrasts of one head tell at least this many times as much of each other as with the head turned away by 45
/// degrees. Measured: 1.9 to 3.9 for 12 real pairs of one head, 1.2 to 1.8 for 10 of two.
const SAME_HEAD: f64 = 1.7;
/// A contrast that covers less of the brain than this is reported.
const FULL_COVERAGE: f64 = 0.95;

/// Each contrast once, and all that the model requires.
fn check_contrasts(sent: &[Contrast], model: &Model) -> Result<(), Error> {
    for (n, contrast) in sent.iter().enumerate() {
        if sent[..n].contains(contrast) {
            return Err(Error::Duplicate {
                contrast: *contrast,
            });
        }
    }
    for &contrast in &model.manifest.input.required {
        if !sent.contains(&contrast) {
            return Err(Error::Missing {
                contrast,
                model: model.id(),
            });
        }
    }
    Ok(())
}

/// What was sent of a contrast, whatever its format.
pub(super) struct Decoded {
    pub(super) contrast: Contrast,
    pub(super) volume: Volume<f32>,
    pub(super) spatial: SpatialFields,
    /// The type of the stored numbers.
    pub(super) datatype: &'static str,
    /// The fields that place it.
    pub(super) affine_from: &'static str,
    /// How far apart two such fields put a corner.
    pub(super) disagreement_mm: Option<f64>,
    /// Whether left and right are known.
    pub(super) orientation_known: bool,
    pub(super) non_finite: usize,
    pub(super) sha256: String,
}

/// What was taken in.
pub(super) struct Taken {
    /// FLAIR first.
    pub(super) decoded: Vec<Decoded>,
    /// The series of the FLAIR, if it is DICOM.
    pub(super) source: Option<Source>,
    /// The series of the other contrasts, if they are.
    pub(super) also: Vec<(Contrast, Source)>,
    /// Every series of a DICOM study, and what became of it.
    pub(super) series: Vec<SeriesReport>,
    pub(super) warnings: Vec<Warning>,
    /// The de-identified images of what was decoded, if that was asked for.
    pub(super) images: Vec<Artifact>,
}

/// Decodes what was sent, once it is known that the model's contrasts are there; the FLAIR has its `first_look` while
/// the others are still being decoded.
pub(super) fn take<T: Send>(
    input: Input,
    run: Run<'_>,
    first_look: impl FnOnce(&Volume<f32>) -> Result<T, Error> + Send,
) -> Result<(Taken, T), Error> {
    let settings = run.settings;
    let (wishes, whole) = (&settings.series, settings.de_identify);
    let selection = match input {
        Input::Contrasts(files) => {
            let contrasts: Vec<Contrast> = files.iter().map(|file| file.contrast).collect();
            check_contrasts(&contrasts, run.model)?;
            let (decoded, looked) = decode(files, run, first_look)?;
            let taken = Taken {
                decoded,
                source: None,
                also: Vec::new(),
                series: Vec::new(),
                warnings: Vec::new(),
                images: Vec::new(),
            };
            return Ok((taken, looked));
        }
        Input::Dicom(files) => Selection::of(files, wishes, run.rules, whole),
        Input::DicomZip(zip) => Selection::of_zip(&zip, wishes, run.rules, whole),
    };
    let pseudonyms = match run.pseudonyms {
        None if settings.de_identify => return Err(Error::NoPseudonyms),
        pseudonyms => pseudonyms.filter(|_| settings.de_identify),
    };
    let selection = selection.map_err(|error| match (error, pseudonyms) {
        (Error::Choice(choice), Some(pseudonyms)) => Error::Choice(choice.nameless(pseudonyms)),
        (error, _) => error,
    });
    let taken = selection?.decode(settings, pseudonyms)?;
    let contrasts: Vec<Contrast> = taken.decoded.iter().map(|scan| scan.contrast).collect();
    check_contrasts(&contrasts, run.model)?;
    let flair = taken
        .decoded
        .iter()
        .find(|scan| scan.contrast == Contrast::Flair);
    let looked = first_look(&flair.ok_or_else(|| no_flair(run))?.volume)?;
    Ok((taken, looked))
}

fn no_flair(run: Run<'_>) -> Error {
    Error::Missing {
        contrast: Contrast::Flair,
        model: run.model.id(),
    }
}

fn decode<T: Send>(
    files: Vec<ContrastFile>,
    run: Run<'_>,
    first_look: impl FnOnce(&Volume<f32>) -> Result<T, Error> + Send,
) -> Result<(Vec<Decoded>, T), Error> {
    let (flair, others): (Vec<_>, Vec<_>) = files
        .into_iter()
        .partition(|file| file.contrast == Contrast::Flair);
    let flair = || {
        let file = flair.into_iter().next().ok_or_else(|| no_flair(run))?;
        let flair = decode_one(file, run)?;
        let looked = first_look(&flair.volume)?;
        Ok::<_, Error>((flair, looked))
    };
    // One after the other: who waits within the first look would else take one of them up, and the look with it.
    let others = || {
        let decoded = others.into_iter().map(|file| decode_one(file, run));
        decoded.collect::<Result<Vec<_>, Error>>()
    };
    let (flair, others) = rayon::join(flair, others);
    // What is wrong with a file is said before what is wrong with what is on another one.
    let mut decoded = others?;
    let (flair, looked) = flair?;
    decoded.push(flair);
    decoded.sort_by_key(|scan| scan.contrast);
    Ok((decoded, looked))
}

fn decode_one(
    ContrastFile { contrast, bytes }: ContrastFile,
    run: Run<'_>,
) -> Result<Decoded, Error> {
    let sha256 = hex::encode(Sha256::digest(&bytes));
    let scan =
        nifti::decode(&bytes, run.limits).map_err(|reason| Error::Decode { contrast, reason })?;
    Ok(Decoded {
        contrast,
        spatial: scan.header.spatial,
        datatype: scan.header.datatype.name(),
        affine_from: scan.placement.source.name(),
        disagreement_mm: scan.placement.disagreement_mm,
        orientation_known: scan.placement.source != AffineSource::Pixdim,
        non_finite: scan.non_finite,
        volume: scan.volume,
        sha256,
    })
}

pub(super) fn header_warnings(decoded: &[Decoded]) -> Vec<Warning> {
    let mut warnings = Vec::new();
    for scan in decoded {
        let about = Some(scan.contrast);
        if let Some(mm) = scan.disagreement_mm.filter(|mm| *mm > DISAGREEMENT_MM) {
            let detail =
                format!("sform and qform put a corner {mm:.2} mm apart; the sform was used");
            warnings.push(error::warning("affine_disagreement", about, detail));
        }
        if !scan.orientation_known {
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
pub(super) struct Unpacked {
    pub(super) flair: Volume<f32>,
    pub(super) spatial: SpatialFields,
    /// The other contrasts that the network sees.
    pub(super) others: Vec<Sent>,
    /// All contrasts as they were sent, FLAIR first.
    pub(super) contrasts: Vec<ContrastReport>,
}

pub(super) fn unpack(
    decoded: Vec<Decoded>,
    run: Run<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<Unpacked, Error> {
    let mut contrasts = Vec::new();
    let mut others = Vec::new();
    let mut flair = None;
    for scan in decoded {
        let contrast = scan.contrast;
        let used = run.model.manifest.input.contrasts.contains(&contrast);
        contrasts.push(contrast_report(&scan, used));
        if contrast == Contrast::Flair {
            flair = Some((scan.volume, scan.spatial));
        } else if used {
            others.push(Sent::by_header(contrast, scan.volume));
        } else {
            let detail = format!(
                "model {} was not trained with it: it did not shape the result",
                run.model.id()
            );
            warnings.push(error::warning("contrast_not_used", Some(contrast), detail));
        }
    }
    let (flair, spatial) = flair.ok_or_else(|| no_flair(run))?;
    Ok(Unpacked {
        flair,
        spatial,
        others,
        contrasts,
    })
}

fn contrast_report(scan: &Decoded, used: bool) -> ContrastReport {
    let grid = scan.volume.grid();
    ContrastReport {
        contrast: scan.contrast.name().to_owned(),
        shape: grid.shape(),
        spacing_mm: grid.spacing_mm(),
        orientation: grid.orientation().to_string(),
        datatype: scan.datatype.to_owned(),
        affine_from: scan.affine_from.to_owned(),
        sha256: scan.sha256.clone(),
        used,
        resampled: false,
        coverage: 0.0,
        alignment: None,
        appearance: None,
        bias_field: None,
    }
}

/// Lays the other contrasts on the FLAIR, as far as the request wants that, and writes down how.
pub(super) fn align(
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
        let Similarities { after, astray, .. } = alignment.similarity;
        if alignment.doubt.is_none() && after < SAME_HEAD * astray {
            let detail = format!(
                "it may be of another head: laid on the FLAIR, the two tell {:.2} times as much of each other as with \
                 the head turned away; {SAME_HEAD} times is usual for one head",
                after / astray
            );
            warnings.push(error::warning(
                "another_head_suspected",
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
pub(super) fn describe_placement(
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
