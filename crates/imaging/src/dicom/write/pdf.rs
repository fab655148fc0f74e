//! The report to be read: one page, as an Encapsulated PDF (PS3.3 A.45.1).
//!
//! The patient, what was found and where, what to know before believing it, the largest lesions in
//! three planes, and what it was computed with.
use dicom_core::VR;
use dicom_dictionary_std::tags;

use super::codes::DIAGNOSTIC_REPORT;
use super::modules::{Placed, instances};
use super::page::{A4, Heading, Page, Style, Weight, lines, sayable};
use super::sr::total_ml;
use super::{Error, Kind, NOTICE, Object, Writer, spelled};
use crate::lesions::Lesion;
use crate::preview::{Shown, View, outline_rgb, views};
use crate::regions::Region;

const TITLE: &str = "MS lesion report";
const MARGIN: f64 = 42.0;
/// Points below which no picture reaches: the method and the foot stand there.
const FLOOR: f64 = 92.0;
/// The most lesions in the table, and in pictures.
const LISTED: usize = 6;
const PICTURED: usize = 2;
/// The most lines of what to know.
const FLAG_LINES: usize = 5;

const INK: [u8; 3] = [30, 30, 30];
const GREY: [u8; 3] = [110, 110, 110];
const RULE: [u8; 3] = [190, 190, 190];
const ALERT: [u8; 3] = [176, 0, 32];

const fn style(weight: Weight, size: f64, rgb: [u8; 3]) -> Style {
    Style { weight, size, rgb }
}
const HEAD: Style = style(Weight::Bold, 18.0, INK);
const WARN: Style = style(Weight::Bold, 10.0, ALERT);
const SUM: Style = style(Weight::Bold, 13.0, INK);
const BODY: Style = style(Weight::Regular, 9.0, INK);
const STRONG: Style = style(Weight::Bold, 9.0, INK);
const LABEL: Style = style(Weight::Regular, 9.0, GREY);
const SMALL: Style = style(Weight::Regular, 7.0, GREY);

impl Writer<'_> {
    /// The report as a page to read.
    ///
    /// # Errors
    /// [`Error::Picture`] if a plane cannot be laid through the scan, [`Error::Encode`].
    pub(super) fn document(&self) -> Result<Object, Error> {
        let kind = Kind::Document;
        let pdf = self.pdf()?;
        let computed = self.findings.computed;
        let sources = self.sources().flat_map(instances).collect();
        let set = self
            .common(kind, Placed::Nowhere)
            .text(tags::CONVERSION_TYPE, VR::CS, "SYN")
            .text(
                tags::ACQUISITION_DATE_TIME,
                VR::DT,
                &format!("{}{}", computed.date, computed.time),
            )
            // The page names the patient.
            .text(tags::BURNED_IN_ANNOTATION, VR::CS, "YES")
            .text(tags::RECOGNIZABLE_VISUAL_FEATURES, VR::CS, "NO")
            .items(tags::SOURCE_INSTANCE_SEQUENCE, sources)
            .text(tags::DOCUMENT_TITLE, VR::ST, TITLE)
            .item(tags::CONCEPT_NAME_CODE_SEQUENCE, DIAGNOSTIC_REPORT.item())
            .text(
                tags::MIME_TYPE_OF_ENCAPSULATED_DOCUMENT,
                VR::LO,
                "application/pdf",
            )
            .ul(tags::ENCAPSULATED_DOCUMENT_LENGTH, pdf.len() as u32)
            .bytes(tags::ENCAPSULATED_DOCUMENT, pdf);
        let name = format!("{}.dcm", kind.name());
        set.into_object(kind, self.series(kind), name)
    }

    /// The page itself, as a PDF file.
    ///
    /// # Errors
    /// [`Error::Picture`] if a plane cannot be laid through the scan.
    pub fn pdf(&self) -> Result<Vec<u8>, Error> {
        let mut page = Page::default();
        let y = self.head(&mut page);
        let y = self.summary(&mut page, y);
        let y = self.flags(&mut page, y);
        self.pictures(&mut page, y)?;
        self.foot(&mut page);
        let computed = self.findings.computed;
        Ok(page.finish(&Heading {
            title: TITLE,
            created: &format!("{}{}", computed.date, computed.time),
            id: &self.digest[..16],
        }))
    }

    /// Title, warning and patient; gives the height below.
    fn head(&self, page: &mut Page) -> f64 {
        let [across, _] = A4;
        let right = across - MARGIN;
        page.text(HEAD, [MARGIN, 794.0], TITLE);
        page.text_right(LABEL, [right, 794.0], "Dawson");
        page.rectangle([253, 236, 238], [MARGIN, 766.0], [right - MARGIN, 18.0]);
        page.text(WARN, [MARGIN + 6.0, 771.5], NOTICE);
        let text = |tag| self.identity(tag);
        let name = name_of(&text(tags::PATIENT_NAME));
        let left = [
            ("Patient", name),
            ("Patient ID", text(tags::PATIENT_ID)),
            (
                "Born, sex",
                joined(&[
                    day(&text(tags::PATIENT_BIRTH_DATE)),
                    text(tags::PATIENT_SEX),
                ]),
            ),
        ];
        let study = joined(&[day(&text(tags::STUDY_DATE)), text(tags::STUDY_DESCRIPTION)]);
        let computed = self.findings.computed;
        let time = &computed.time;
        let when = format!("{} {}:{}", day(&computed.date), &time[..2], &time[2..4]);
        let other = [
            ("Study", study),
            ("Accession", text(tags::ACCESSION_NUMBER)),
            ("Computed", when),
        ];
        let mut y = 748.0;
        for row in 0..3 {
            for (x, (label, value)) in [(MARGIN, &left[row]), (MARGIN + 262.0, &other[row])] {
                page.text(LABEL, [x, y], label);
                let value = if sayable(value) {
                    value.as_str()
                } else {
                    "(see the DICOM header)"
                };
                let value = lines(BODY, 180.0, value).into_iter().next();
                page.text(BODY, [x + 62.0, y], &value.unwrap_or_default());
            }
            y -= 13.0;
        }
        page.line(RULE, [MARGIN, y + 4.0], [right, y + 4.0]);
        y - 16.0
    }

    fn identity(&self, tag: dicom_core::Tag) -> String {
        let attributes = self.findings.source.identity.attributes();
        let text = attributes.get(tag).and_then(|e| e.to_str().ok());
        text.map_or_else(String::new, |t| t.trim().to_owned())
    }

    /// Counts and volumes, by region and for the largest lesions.
    fn summary(&self, page: &mut Page, mut y: f64) -> f64 {
        let lesions = self.findings.lesions;
        let n = lesions.items.len();
        let total = lesions.volume_ml();
        let words = match n {
            0 => "No lesion found".to_owned(),
            1 => format!("1 lesion, {total:.2} ml"),
            n => format!("{n} lesions, {total:.2} ml in all"),
        };
        page.text(SUM, [MARGIN, y], &words);
        y -= 20.0;
        let top = y;
        let row =
            |page: &mut Page, style: Style, x: f64, y: f64, cells: [&str; 4], at: [f64; 3]| {
                page.text(style, [x, y], cells[0]);
                for (cell, to) in cells[1..].iter().zip(at) {
                    page.text_right(style, [x + to, y], cell);
                }
            };
        let by_region = [142.0, 180.0, 240.0];
        row(
            page,
            LABEL,
            MARGIN,
            y,
            ["Region", "lesions", "ml", "largest, ml"],
            by_region,
        );
        let known = !self.findings.places.is_empty() || n == 0;
        let regions = Region::ALL.into_iter().filter(|_| known).map(Some);
        for region in regions.chain([None]) {
            y -= 13.0;
            let there = self.of_region(region);
            let largest = there.iter().map(|l| l.volume_ml).fold(0.0, f64::max);
            let volume = match region {
                Some(_) => total_ml(&there),
                None => total,
            };
            let (name, style) = match region {
                Some(region) => {
                    page.rectangle(outline_rgb(Some(region)), [MARGIN, y - 0.5], [7.0, 7.0]);
                    (spelled(region), BODY)
                }
                None => ("All", STRONG),
            };
            let cells = [
                "",
                &there.len().to_string(),
                &format!("{volume:.2}"),
                &format!("{largest:.2}"),
            ];
            row(page, style, MARGIN, y, cells, by_region);
            let indent = if region.is_some() { 12.0 } else { 0.0 };
            page.text(style, [MARGIN + indent, y], name);
        }
        if !known {
            y -= 13.0;
            page.text(LABEL, [MARGIN, y], "Regions were not told.");
        }
        let below = self.largest(page, top, row);
        y.min(below) - 18.0
    }

    /// The largest lesions, beside the regions.
    fn largest(
        &self,
        page: &mut Page,
        mut y: f64,
        row: impl Fn(&mut Page, Style, f64, f64, [&str; 4], [f64; 3]),
    ) -> f64 {
        let items = &self.findings.lesions.items;
        if items.is_empty() {
            return y;
        }
        let (x, at) = (MARGIN + 268.0, [144.0, 184.0, 243.0]);
        let head = ["Largest lesions", "", "ml", "extent, mm"];
        row(page, LABEL, x, y, head, at);
        for lesion in items.iter().take(LISTED) {
            y -= 13.0;
            let place = self
                .region(lesion)
                .map_or(String::new(), |r| spelled(r).to_owned());
            let cells = [
                &format!("{}   {place}", lesion.id),
                "",
                &format!("{:.2}", lesion.volume_ml),
                &format!("{:.0}", lesion.largest_extent_mm),
            ];
            row(page, BODY, x, y, cells, at);
        }
        if items.len() > LISTED {
            y -= 13.0;
            let more = format!(
                "and {} more: see the measurements (SR)",
                items.len() - LISTED
            );
            page.text(LABEL, [x, y], &more);
        }
        y
    }

    /// What to know before believing it.
    fn flags(&self, page: &mut Page, mut y: f64) -> f64 {
        page.text(STRONG, [MARGIN, y], "Quality");
        let across = A4[0] - 2.0 * MARGIN - 62.0;
        if self.findings.flags.is_empty() {
            page.text(BODY, [MARGIN + 62.0, y], "No remark.");
            return y - 18.0;
        }
        let texts = self.findings.flags.iter();
        let all: Vec<String> = texts
            .flat_map(|f| lines(BODY, across, &format!("{}: {}", f.code, f.detail)))
            .collect();
        for (n, line) in all.iter().take(FLAG_LINES).enumerate() {
            let cut = n + 1 == FLAG_LINES && all.len() > FLAG_LINES;
            let line = if cut {
                "and more: see report.json"
            } else {
                line
            };
            page.text(BODY, [MARGIN + 62.0, y], line);
            y -= 12.0;
        }
        y - 6.0
    }

    /// The largest lesions in three planes, as large as there is room.
    fn pictures(&self, page: &mut Page, top: f64) -> Result<(), Error> {
        const GAP: f64 = 6.0;
        const CAPTION: f64 = 14.0;
        let shown = Shown {
            flair: &self.flair,
            lesions: self.findings.lesions,
            places: self.findings.places,
            frame: self.findings.frame,
        };
        let rows = views(&shown, PICTURED).map_err(Error::Picture)?;
        let Some(first) = rows.first() else {
            return Ok(());
        };
        let sizes = first.panels.each_ref().map(|canvas| canvas.size);
        let wide: u32 = sizes.iter().map(|size| size.width).sum();
        let high = sizes.iter().map(|size| size.height).max().unwrap_or(1);
        let room = A4[0] - 2.0 * MARGIN - 2.0 * GAP;
        let each = (top - FLOOR) / PICTURED as f64 - CAPTION - GAP;
        let scale = (room / f64::from(wide)).min(each / f64::from(high));
        let mut y = top;
        for view in &rows {
            page.text(BODY, [MARGIN, y - 4.0], &self.caption(view));
            y -= CAPTION - 4.0;
            let mut x = MARGIN;
            for canvas in &view.panels {
                let across = f64::from(canvas.size.width) * scale;
                let up = f64::from(canvas.size.height) * scale;
                page.picture(canvas, [x, y - up], [across, up]);
                x += across + GAP;
            }
            y -= f64::from(high) * scale + GAP + 6.0;
        }
        Ok(())
    }

    fn caption(&self, view: &View<'_>) -> String {
        let [x, y, z] = view.through.to_array();
        let at = format!("planes through x {x:+.0}, y {y:+.0}, z {z:+.0} mm (RAS)");
        let what = |lesion: &Lesion| {
            let place = self.region(lesion).map_or("", spelled).to_lowercase();
            let gap = if place.is_empty() { "" } else { ", " };
            format!(
                "Lesion {}{gap}{place}, {:.2} ml",
                lesion.id, lesion.volume_ml
            )
        };
        let what = view.lesion.map_or("No lesion found".to_owned(), what);
        format!("{what}: {at}")
    }

    fn foot(&self, page: &mut Page) {
        let right = A4[0] - MARGIN;
        let across = right - MARGIN;
        page.line(RULE, [MARGIN, 86.0], [right, 86.0]);
        let made_by = &self.findings.made_by;
        let text = format!("Dawson {}. {}", made_by.version, self.parameters());
        let mut all = lines(SMALL, across, &text);
        all.truncate(4);
        let source = self.findings.source;
        let series = self.sources().count();
        let sources = format!(
            "Source FLAIR: series {}; series seen by the network: {series}.",
            source.series_instance_uid
        );
        all.extend(lines(SMALL, across, &sources).into_iter().take(1));
        let mut y = 76.0;
        for line in all {
            page.text(SMALL, [MARGIN, y], &line);
            y -= 9.0;
        }
        page.text(WARN, [MARGIN, 24.0], NOTICE);
        page.text_right(SMALL, [right, 24.0], "Page 1 of 1");
    }
}

/// `Family^Given` as `Family, Given` (PS3.5 6.2.1); the first way in which it is written.
fn name_of(text: &str) -> String {
    let first = text.split('=').next().unwrap_or_default();
    let parts = first.split('^').map(str::trim).filter(|p| !p.is_empty());
    parts.collect::<Vec<_>>().join(", ")
}

/// `YYYYMMDD` with dashes; anything else as it is.
fn day(date: &str) -> String {
    if date.len() == 8 && date.is_ascii() {
        format!("{}-{}-{}", &date[..4], &date[4..6], &date[6..])
    } else {
        date.to_owned()
    }
}

fn joined(texts: &[String]) -> String {
    let there: Vec<&str> = texts
        .iter()
        .map(String::as_str)
        .filter(|t| !t.is_empty())
        .collect();
    there.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_days_are_written_as_people_read_them() {
        assert_eq!(name_of("Doe^Jane^^Dr=ド^ジ"), "Doe, Jane, Dr");
        assert_eq!(day("20260102"), "2026-01-02");
        assert_eq!(day("1980"), "1980");
    }
}
