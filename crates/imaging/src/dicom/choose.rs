//! Which stack of a study is taken for which contrast, and why the others are not.
use super::classify::{Class, Confidence};
use super::deidentify::Pseudonyms;
use super::stack::Refusal;
use super::study::{Stack, Study};
use crate::study::Contrast;

/// The caller's word: this series is that contrast.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Which contrast.
    pub contrast: Contrast,
    /// (0020,000E) of the series.
    pub series_instance_uid: String,
}

impl Wish {
    /// A wish in words: the contrast's name, and the UID of a series. None if either is not one.
    #[must_use]
    pub fn parse(contrast: &str, series_instance_uid: &str) -> Option<Self> {
        let contrast = Contrast::parse(contrast)?;
        super::is_uid(series_instance_uid).then(|| Self {
            contrast,
            series_instance_uid: series_instance_uid.to_owned(),
        })
    }
}

/// A site's word on how it names its series. The first rule whose texts are all found decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SiteRule {
    /// Part of `SeriesDescription`, in any case.
    pub series_description: Option<String>,
    /// Part of `ProtocolName`, in any case.
    pub protocol_name: Option<String>,
    /// Part of `SequenceName` or `PulseSequenceName`, in any case.
    pub sequence_name: Option<String>,
    /// What such a series is; none means that it is never taken.
    pub contrast: Option<Contrast>,
}

impl SiteRule {
    fn fits(&self, stack: &Stack) -> bool {
        let protocol = &stack.protocol;
        let within = |part: &Option<String>, text: &str| {
            part.as_ref()
                .is_none_or(|part| text.contains(&part.to_lowercase()))
        };
        within(&self.series_description, &protocol.description)
            && within(&self.protocol_name, &protocol.name)
            && within(&self.sequence_name, &protocol.sequence)
    }
}

/// What became of a stack.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// It is the study's image of this contrast.
    Chosen(Contrast),
    /// It shows this contrast, and another one was better.
    RunnerUp(Contrast),
    /// It is no volume.
    Refused(Refusal),
    /// It shows none of the contrasts.
    Excluded,
    /// A rule of the site leaves it out.
    LeftOut,
}

impl Decision {
    /// A stable name, in `snake_case`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Chosen(_) => "chosen",
            Self::RunnerUp(_) => "runner_up",
            Self::Refused(_) => "refused",
            Self::Excluded => "excluded",
            Self::LeftOut => "left_out",
        }
    }
}

/// A stack, what it was taken for, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesRow {
    /// (0020,000E).
    pub series_instance_uid: String,
    /// Which part of the series, from 1; a series that is one stack has only the first.
    pub stack: usize,
    /// Images or frames.
    pub images: usize,
    /// What it shows.
    pub class: Class,
    /// How sure that is.
    pub confidence: Confidence,
    /// What decided the class.
    pub because: Vec<String>,
    /// Whether it was computed from other images.
    pub derived: bool,
    /// What became of it.
    pub decision: Decision,
}

/// A stack that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen {
    /// As which contrast.
    pub contrast: Contrast,
    /// Its place in [`Study::stacks`].
    pub stack: usize,
}

/// What was chosen of a study, FLAIR first.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// One stack for each contrast that there is.
    pub chosen: Vec<Chosen>,
    /// Every stack, in the order of [`Study::stacks`].
    pub series: Vec<SeriesRow>,
}

/// Why nothing can be chosen.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NoChoice {
    /// No stack is a FLAIR.
    #[error("none of the {stacks} stacks of {images} images is a FLAIR")]
    NoFlair {
        /// Stacks that were looked at.
        stacks: usize,
        /// Their images.
        images: usize,
    },
    /// What is the FLAIR, or what the caller asked for, is no volume.
    #[error("series {series_instance_uid} as {contrast}: {reason}")]
    Refused {
        /// Which contrast.
        contrast: Contrast,
        /// (0020,000E).
        series_instance_uid: String,
        /// Why.
        reason: Refusal,
    },
    /// The caller asked for a series that was not sent.
    #[error("series {series_instance_uid}, asked for as {contrast}, is not in the study")]
    UnknownSeries {
        /// Which contrast.
        contrast: Contrast,
        /// (0020,000E), as it was asked for.
        series_instance_uid: String,
    },
}

impl NoChoice {
    /// The same of a study that is to name nobody.
    #[must_use]
    pub fn nameless(self, pseudonyms: &Pseudonyms) -> Self {
        match self {
            Self::Refused {
                contrast,
                series_instance_uid,
                reason,
            } => Self::Refused {
                contrast,
                series_instance_uid: pseudonyms.uid(&series_instance_uid).as_str().to_owned(),
                reason,
            },
            // What the caller typed is the caller's.
            other => other,
        }
    }
}

/// Chooses a stack for each contrast: the caller's wishes first, then the site's rules, then
/// what [`super::Classified`] says.
///
/// Among several of a contrast: original over derived, then surer, three-dimensional, corrected (NORM), smaller
/// voxels, more of the head, later, and without contrast agent.
///
/// # Errors
/// [`NoChoice`]: without a FLAIR there is no study, and a wish that cannot be met is not replaced by a guess.
pub fn choose(study: &Study, wishes: &[Wish], rules: &[SiteRule]) -> Result<Choice, NoChoice> {
    let mut series: Vec<SeriesRow> = study.stacks.iter().map(|stack| row(stack, rules)).collect();
    for wish in wishes {
        state(&mut series, wish)?;
    }
    let mut chosen = Vec::new();
    for contrast in Contrast::ALL {
        if let Some(best) = best(&series, study, wishes, contrast) {
            chosen.push(Chosen {
                contrast,
                stack: best,
            });
        }
        let wish = wishes.iter().find(|wish| wish.contrast == contrast);
        if !chosen.iter().any(|chosen| chosen.contrast == contrast)
            && let Some(refused) = refused(&series, contrast)
            && (contrast == Contrast::Flair || wish.is_some())
        {
            return Err(refused);
        }
    }
    for Chosen { contrast, stack } in &chosen {
        if let Some(row) = series.get_mut(*stack) {
            row.decision = Decision::Chosen(*contrast);
        }
    }
    if !chosen
        .iter()
        .any(|chosen| chosen.contrast == Contrast::Flair)
    {
        return Err(NoChoice::NoFlair {
            stacks: series.len(),
            images: series
                .iter()
                .fold(0, |sum: usize, row| sum.saturating_add(row.images)),
        });
    }
    Ok(Choice { chosen, series })
}

/// A stack by itself: what it would be if there were no other.
fn row(stack: &Stack, rules: &[SiteRule]) -> SeriesRow {
    let classified = &stack.classified;
    let mut row = SeriesRow {
        series_instance_uid: stack.series_instance_uid.clone(),
        stack: stack.number,
        images: stack.planes.len(),
        class: classified.class,
        confidence: classified.confidence,
        because: classified.because.clone(),
        derived: classified.derived,
        decision: Decision::Excluded,
    };
    let rule = rules.iter().find(|rule| rule.fits(stack));
    if let Some(rule) = rule {
        row.because = vec!["a rule of the site".to_owned()];
        row.confidence = Confidence::Stated;
        row.class = rule.contrast.map_or(Class::Other, Class::Contrast);
    }
    row.decision = match (&stack.laid, row.class) {
        _ if rule.is_some_and(|rule| rule.contrast.is_none()) => Decision::LeftOut,
        (Err(refusal), _) => Decision::Refused(refusal.clone()),
        (Ok(_), Class::Contrast(contrast)) => Decision::RunnerUp(contrast),
        (Ok(_), _) => Decision::Excluded,
    };
    row
}

/// Puts a wish into the rows: the series is that contrast, and no other series is.
fn state(series: &mut [SeriesRow], wish: &Wish) -> Result<(), NoChoice> {
    let of_series = |row: &SeriesRow| row.series_instance_uid == wish.series_instance_uid;
    if !series.iter().any(of_series) {
        return Err(NoChoice::UnknownSeries {
            contrast: wish.contrast,
            series_instance_uid: wish.series_instance_uid.clone(),
        });
    }
    // Of a series in several parts (dual echo), those that show the contrast by themselves.
    let class = Class::Contrast(wish.contrast);
    let some_fit = series
        .iter()
        .any(|row| of_series(row) && row.class == class);
    for row in series.iter_mut().filter(|row| of_series(row)) {
        if some_fit && row.class != class {
            continue;
        }
        row.class = class;
        row.confidence = Confidence::Stated;
        row.because = vec!["the caller names the series".to_owned()];
        if !matches!(row.decision, Decision::Refused(_)) {
            row.decision = Decision::RunnerUp(wish.contrast);
        }
    }
    Ok(())
}

/// The best stack of a contrast among those that are volumes; of the series that was asked for, where one was.
fn best(series: &[SeriesRow], study: &Study, wishes: &[Wish], contrast: Contrast) -> Option<usize> {
    let asked = wishes.iter().any(|wish| wish.contrast == contrast);
    let wished = |row: &SeriesRow| {
        let mut named = wishes.iter().filter(|wish| wish.contrast == contrast);
        !asked || named.any(|wish| wish.series_instance_uid == row.series_instance_uid)
    };
    series
        .iter()
        .enumerate()
        .filter(|(_, row)| row.decision == Decision::RunnerUp(contrast))
        .filter(|(_, row)| wished(row))
        .filter_map(|(n, row)| Some((n, rank(study.stacks.get(n)?, row)?)))
        .max_by(|(m, a), (n, b)| a.cmp(b).then(n.cmp(m)))
        .map(|(n, _)| n)
}

/// Greater is better.
type Rank<'a> = ((bool, Confidence, bool, bool), (i64, i64), (&'a str, bool));

fn rank<'a>(stack: &'a Stack, row: &SeriesRow) -> Option<Rank<'a>> {
    let grid = stack.laid.as_ref().ok()?.grid;
    let protocol = &stack.protocol;
    // In steps of a thousandth of a millilitre: rounding in positions decides nothing.
    let voxel = (grid.voxel_ml() * 1e3).round() as i64;
    let [_, _, slices] = grid.shape();
    let [_, _, spacing] = grid.spacing_mm();
    let cover = (slices as f64 * spacing).round() as i64;
    Some((
        (
            !row.derived,
            row.confidence,
            protocol.acquisition_type == "3d",
            protocol.is_type("NORM"),
        ),
        (voxel.saturating_neg(), cover),
        (&protocol.time, !super::classify::has_agent(protocol)),
    ))
}

/// The refusal of what would have been this contrast.
fn refused(series: &[SeriesRow], contrast: Contrast) -> Option<NoChoice> {
    let of_contrast = series.iter().filter_map(|row| match &row.decision {
        Decision::Refused(reason) if row.class == Class::Contrast(contrast) => Some((row, reason)),
        _ => None,
    });
    // What was stated before what was found; of several, the one with most images is the one that was meant.
    let (row, reason) = of_contrast.max_by_key(|(row, _)| (row.confidence, row.images))?;
    Some(NoChoice::Refused {
        contrast,
        series_instance_uid: row.series_instance_uid.clone(),
        reason: reason.clone(),
    })
}
