//! What the objects of one result are made from.
use super::Error;
use crate::dicom::Source;
use crate::lesions::Lesions;
use crate::preview;
use crate::regions::Place;
use crate::volume::Volume;

/// A network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Model<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
    /// SHA-256 of its file, 64 hexadecimal digits.
    pub sha256: &'a str,
}

/// What made the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MadeBy<'a> {
    /// The version of the program.
    pub version: &'a str,
    /// The network that found the lesions.
    pub model: Model<'a>,
    /// The network that told the regions, if one did.
    pub anatomy: Option<Model<'a>>,
    /// How lesions are counted, and the settings of the run, in a sentence or two.
    pub method: &'a str,
}

/// Something to know before believing the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flag<'a> {
    /// Stable code.
    pub code: &'a str,
    /// What was found.
    pub detail: &'a str,
}

/// A date and time of day, given by the caller: when the result was computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// `YYYYMMDD`.
    pub(super) date: String,
    /// `HHMMSS`.
    pub(super) time: String,
}

impl Moment {
    /// Reads `YYYYMMDDHHMMSS`.
    ///
    /// # Errors
    /// [`Error::Moment`] if it is anything else.
    ///
    /// ```
    /// # use dawson_imaging::dicom::write::Moment;
    /// assert!(Moment::parse("20260102101500").is_ok());
    /// assert!(Moment::parse("20261302101500").is_err());
    /// ```
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = || Error::Moment {
            text: text.to_owned(),
        };
        let digits = text.len() == 14 && text.bytes().all(|b| b.is_ascii_digit());
        let (date, time) = digits.then(|| text.split_at(8)).ok_or_else(wrong)?;
        let number = |of: &str, from: usize| of[from..from + 2].parse::<u8>().ok();
        let within = |n: Option<u8>, from: u8, to: u8| n.is_some_and(|n| (from..=to).contains(&n));
        let fits = within(number(date, 4), 1, 12)
            && within(number(date, 6), 1, 31)
            && within(number(time, 0), 0, 23)
            && within(number(time, 2), 0, 59)
            && within(number(time, 4), 0, 60);
        if !fits {
            return Err(wrong());
        }
        Ok(Self {
            date: date.to_owned(),
            time: time.to_owned(),
        })
    }
}

/// All that the objects of one result are made from.
#[derive(Debug, Clone, Copy)]
pub struct Findings<'a> {
    /// The series of the FLAIR, on whose slices the results lie.
    pub source: &'a Source,
    /// The other series that the network saw.
    pub also_seen: &'a [&'a Source],
    /// The FLAIR, on its source's grid.
    pub flair: &'a Volume<f32>,
    /// The lesions, on the same grid; its axes may stand in another order.
    pub lesions: &'a Lesions,
    /// Where each of them lies; empty if that is not known.
    pub places: &'a [Place],
    /// The box of the head, and which values are black and white.
    pub frame: preview::Frame,
    /// What made the result.
    pub made_by: MadeBy<'a>,
    /// What to know before believing it.
    pub flags: &'a [Flag<'a>],
    /// When it was computed.
    pub computed: &'a Moment,
}
