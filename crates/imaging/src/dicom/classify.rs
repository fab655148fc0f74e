//! Which contrast a stack shows, by how it was acquired.
//!
//! Times decide wherever they are given, because names mislead: "t2_space_dark-fluid" is a FLAIR and "T1 FLAIR"
//! is T1-weighted. An enhanced image's `AcquisitionContrast` comes before the times, a name after them and with
//! low confidence. Ranges are widened from Siemens 3 T sidecars (`OpenNeuro` ds004199) and two public rule sets.
use std::fmt;

use super::protocol::Protocol;
use crate::study::Contrast;

/// What a stack shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// One of the contrasts that a study is made of.
    Contrast(Contrast),
    /// A survey for planning.
    Localizer,
    /// Diffusion or perfusion, raw or computed, or another echo-planar image.
    EchoPlanar,
    /// A projection, a subtraction or a picture of a report.
    Projection,
    /// A phase, real or imaginary image.
    Phase,
    /// T2*- or susceptibility-weighted.
    Susceptibility,
    /// None of these.
    Other,
}

impl Class {
    /// A stable name, in `snake_case`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Contrast(contrast) => contrast.name(),
            Self::Localizer => "localizer",
            Self::EchoPlanar => "echo_planar",
            Self::Projection => "projection",
            Self::Phase => "phase",
            Self::Susceptibility => "susceptibility",
            Self::Other => "other",
        }
    }
}

/// How sure a class is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Confidence {
    /// By a name, or by times of which some are missing.
    Low,
    /// By the times of the sequence, or by what an enhanced image says of itself.
    High,
    /// The caller or the site's rules say so.
    Stated,
}

impl Confidence {
    /// A stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::High => "high",
            Self::Stated => "stated",
        }
    }
}

/// A class and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Classified {
    /// What it shows.
    pub class: Class,
    /// How sure that is.
    pub confidence: Confidence,
    /// Whether it was computed from other images.
    pub derived: bool,
    /// The attributes that decided, such as `InversionTime 1800 ms`; never a text that somebody typed.
    pub because: Vec<String>,
}

pub(super) fn classify(protocol: &Protocol) -> Classified {
    let (class, confidence, because) = decide(protocol);
    Classified {
        class,
        confidence,
        derived: protocol.is_type("DERIVED") || protocol.is_type("MPR"),
        because,
    }
}

type Found = (Class, Confidence, Vec<String>);

fn decide(protocol: &Protocol) -> Found {
    if let Some(found) = excluded(protocol) {
        return found;
    }
    let times = Times::of(protocol);
    let (class, confidence) = match by_own_word(protocol).or_else(|| times.class()) {
        Some(found) => (found, Confidence::High),
        None => match by_name(protocol, &times) {
            Some(found) => (Class::Contrast(found), Confidence::Low),
            None => return (Class::Other, Confidence::Low, times.said()),
        },
    };
    let mut because = times.said();
    if by_own_word(protocol).is_some() {
        because.push("AcquisitionContrast".to_owned());
    }
    if confidence == Confidence::Low {
        because.push("the series' names".to_owned());
    }
    if class == Class::Contrast(Contrast::T1w) && has_agent(protocol) {
        because.push("contrast agent".to_owned());
        return (Class::Contrast(Contrast::T1gd), confidence, because);
    }
    (class, confidence, because)
}

/// What is none of the contrasts whatever its times are.
fn excluded(protocol: &Protocol) -> Option<Found> {
    let high = |class, why: &str| Some((class, Confidence::High, vec![why.to_owned()]));
    let any = |words: &[&str]| words.iter().any(|word| protocol.is_type(word));
    let named = names(protocol);
    if any(&["LOCALIZER"])
        || has(
            &named,
            &["localizer", "localiser", "scout", "survey", "loc"],
        )
    {
        return high(
            Class::Localizer,
            "ImageType or the series' names say localizer",
        );
    }
    if any(&["ADC", "TRACEW", "FA", "DIFFUSION", "PERFUSION", "ASL"]) {
        return high(Class::EchoPlanar, "ImageType of diffusion or perfusion");
    }
    let by_contrast = ["diffusion", "perfusion"].contains(&protocol.acquisition_contrast.as_str());
    if protocol.scans("EP") || protocol.b_value.is_some_and(|b| b > 0.0) || by_contrast {
        return high(
            Class::EchoPlanar,
            "ScanningSequence EP, or a diffusion b-value",
        );
    }
    if any(&[
        "MIP",
        "MINIP",
        "MIN IP",
        "PROJECTION",
        "PROJECTION IMAGE",
        "SUBTRACTION",
        "CSA REPORT",
    ]) {
        return high(
            Class::Projection,
            "ImageType of a projection, subtraction or report",
        );
    }
    let third = protocol.image_type.get(2).map(String::as_str);
    if matches!(third, Some("P" | "R" | "I")) || any(&["PHASE", "PHASE MAP", "REAL", "IMAGINARY"]) {
        return high(
            Class::Phase,
            "ImageType of a phase, real or imaginary image",
        );
    }
    None
}

/// What an enhanced image says of itself.
fn by_own_word(protocol: &Protocol) -> Option<Class> {
    match protocol.acquisition_contrast.as_str() {
        "fluid_attenuated" => Some(Class::Contrast(Contrast::Flair)),
        "t1" => Some(Class::Contrast(Contrast::T1w)),
        "t2" => Some(Class::Contrast(Contrast::T2w)),
        "proton_density" => Some(Class::Contrast(Contrast::Pdw)),
        "t2_star" => Some(Class::Susceptibility),
        _ => None,
    }
}

/// The times of a sequence in milliseconds, and what kind of sequence it is.
struct Times<'a> {
    protocol: &'a Protocol,
    echo: f64,
    repetition: f64,
    inversion: Option<f64>,
    flip: f64,
}

impl<'a> Times<'a> {
    fn of(protocol: &'a Protocol) -> Self {
        Self {
            protocol,
            echo: protocol.echo_ms.unwrap_or(f64::NAN),
            repetition: protocol.repetition_ms.unwrap_or(f64::NAN),
            // 0 is written by those who leave it out.
            inversion: protocol.inversion_ms.filter(|&ms| ms > 0.0),
            flip: protocol.flip_deg.unwrap_or(f64::NAN),
        }
    }

    /// The rules in words; a comparison with a missing time is false.
    fn class(&self) -> Option<Class> {
        let (te, tr, fa) = (self.echo, self.repetition, self.flip);
        let gradient = self.protocol.scans("GR");
        let spin = self.protocol.scans("SE") || (self.protocol.scans("IR") && !gradient);
        let volume = self.protocol.acquisition_type == "3d";
        let inverted = |range: std::ops::RangeInclusive<f64>| {
            self.inversion.is_some_and(|ti| range.contains(&ti))
        };
        let plain = self.inversion.is_none() && !self.protocol.scans("IR");
        if !gradient && inverted(1400.0..=3200.0) && tr >= 3500.0 && te >= 60.0 {
            return Some(Class::Contrast(Contrast::Flair));
        }
        let cycle = inverted(300.0..=1400.0) && (1000.0..=3500.0).contains(&tr);
        if (gradient || volume) && te < 12.0 && (cycle || (tr < 50.0 && fa >= 6.0)) {
            return Some(Class::Contrast(Contrast::T1w));
        }
        if gradient && te > 15.0 {
            return Some(Class::Susceptibility);
        }
        if spin && te < 30.0 {
            let short =
                (250.0..=1200.0).contains(&tr) && self.inversion.is_none_or(|ti| ti <= 1400.0);
            let t1_flair = inverted(600.0..=1400.0) && (1500.0..=3500.0).contains(&tr);
            if short || t1_flair {
                return Some(Class::Contrast(Contrast::T1w));
            }
        }
        if spin && plain && !suppressed(self.protocol) {
            if (60.0..=450.0).contains(&te) && tr >= 2000.0 {
                return Some(Class::Contrast(Contrast::T2w));
            }
            if te < 40.0 && tr >= 1800.0 {
                return Some(Class::Contrast(Contrast::Pdw));
            }
        }
        None
    }

    /// The times that are given.
    fn said(&self) -> Vec<String> {
        let protocol = self.protocol;
        let mut said = Vec::new();
        let times = [
            ("EchoTime", protocol.echo_ms),
            ("RepetitionTime", protocol.repetition_ms),
            ("InversionTime", protocol.inversion_ms),
        ];
        for (name, ms) in times {
            said.extend(ms.map(|ms| format!("{name} {ms} ms")));
        }
        let known = ["SE", "IR", "GR", "EP"]
            .into_iter()
            .filter(|word| protocol.scans(word));
        let known: Vec<&str> = known.collect();
        if !known.is_empty() {
            said.push(format!("ScanningSequence {}", known.join("\\")));
        }
        said
    }
}

/// The words of all names.
fn names(protocol: &Protocol) -> Vec<&str> {
    [&protocol.description, &protocol.name, &protocol.sequence]
        .into_iter()
        .flat_map(|text| text.split(|c: char| !c.is_alphanumeric() && c != '+'))
        .filter(|word| !word.is_empty())
        .collect()
}

fn has(names: &[&str], wanted: &[&str]) -> bool {
    names.iter().any(|name| wanted.contains(name))
}

/// Whether the names say that fluid is suppressed.
fn suppressed(protocol: &Protocol) -> bool {
    let texts = [&protocol.description, &protocol.name, &protocol.sequence];
    let words = [
        "flair",
        "dark-fluid",
        "dark_fluid",
        "darkfluid",
        "dark fluid",
        "tirm",
    ];
    texts
        .iter()
        .any(|text| words.iter().any(|word| text.contains(word)))
}

/// Where times do not decide: exports often leave the inversion time out, or write 0.
fn by_name(protocol: &Protocol, times: &Times<'_>) -> Option<Contrast> {
    let names = names(protocol);
    if has(&names, &["stir", "dir"]) || times.inversion.is_some() {
        return None;
    }
    let begins = |what: &[&str]| {
        names
            .iter()
            .any(|name| what.iter().any(|w| name.starts_with(w)))
    };
    let long = protocol.repetition_ms.is_none_or(|tr| tr >= 3500.0);
    let late = protocol.echo_ms.is_none_or(|te| te >= 60.0);
    let t1 = begins(&["t1", "mprage", "mpr", "bravo", "fspgr", "spgr", "tfl3d"]);
    if suppressed(protocol) && !t1 && long && late && !protocol.scans("GR") {
        return Some(Contrast::Flair);
    }
    // Times that are there and fit no rule are not overruled by a name.
    if protocol.echo_ms.is_some() && protocol.repetition_ms.is_some() {
        return None;
    }
    if t1 {
        return Some(Contrast::T1w);
    }
    if begins(&["t2"]) && !has(&names, &["t2star"]) {
        return Some(Contrast::T2w);
    }
    if begins(&["pd"]) {
        return Some(Contrast::Pdw);
    }
    None
}

pub(super) fn has_agent(protocol: &Protocol) -> bool {
    let words = ["gd", "gad", "+c", "c+", "post", "km", "ce"];
    protocol.contrast_agent || has(&names(protocol), &words)
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protocol(scans: &[&str], te: f64, tr: f64, ti: f64, fa: f64, name: &str) -> Protocol {
        Protocol {
            image_type: ["ORIGINAL", "PRIMARY", "M"].map(str::to_owned).to_vec(),
            scanning_sequence: scans.iter().map(|&s| s.to_owned()).collect(),
            echo_ms: Some(te),
            repetition_ms: Some(tr),
            inversion_ms: Some(ti),
            flip_deg: Some(fa),
            description: name.to_lowercase(),
            ..Protocol::default()
        }
    }

    fn class(scans: &[&str], te: f64, tr: f64, ti: f64, fa: f64, name: &str) -> &'static str {
        classify(&protocol(scans, te, tr, ti, fa, name))
            .class
            .name()
    }

    #[test]
    fn times_decide_against_misleading_names() {
        let both = ["SE", "IR"];
        assert_eq!(
            class(&both, 388.0, 5000.0, 1800.0, 120.0, "t2_space_dark-fluid"),
            "flair"
        );
        assert_eq!(
            class(&["IR", "SE"], 97.0, 10000.0, 2650.0, 150.0, "T2 FLAIR"),
            "flair"
        );
        assert_eq!(class(&both, 8.0, 2300.0, 860.0, 120.0, "T1 FLAIR"), "t1w");
        assert_eq!(
            class(&["GR", "IR"], 2.98, 2300.0, 900.0, 9.0, "flair reference"),
            "t1w"
        );
        assert_eq!(class(&["GR"], 3.2, 8.2, 0.0, 12.0, "BRAVO"), "t1w");
        assert_eq!(class(&["SE"], 101.0, 6000.0, 0.0, 150.0, "ax t2"), "t2w");
        assert_eq!(class(&["SE"], 12.0, 3000.0, 0.0, 150.0, "pd+t2"), "pdw");
        assert_eq!(class(&["SE"], 9.2, 600.0, 0.0, 90.0, "AX T1 +C"), "t1gd");
        assert_eq!(class(&both, 60.0, 4000.0, 160.0, 150.0, "t2 stir"), "other");
        assert_eq!(
            class(&["GR"], 20.0, 28.0, 0.0, 15.0, "swi"),
            "susceptibility"
        );
        assert_eq!(
            class(&["EP"], 89.0, 4800.0, 0.0, 90.0, "dwi"),
            "echo_planar"
        );
        assert_eq!(
            class(&["GR"], 3.7, 8.6, 0.0, 20.0, "localizer"),
            "localizer"
        );
    }

    #[test]
    fn a_flair_without_its_inversion_time_is_one_with_low_confidence() {
        let found = classify(&protocol(
            &["SE"],
            120.0,
            9000.0,
            0.0,
            150.0,
            "AX FLAIR post",
        ));
        assert_eq!(found.class, Class::Contrast(Contrast::Flair));
        assert_eq!(found.confidence, Confidence::Low);
        let said = found.because.join(" ");
        assert!(
            said.contains("EchoTime 120 ms") && !said.contains("post"),
            "{said}"
        );
    }
}
