//! One page as PDF 1.4 (ISO 32000-1), written by hand: text, lines, boxes and pictures.
//!
//! Equal content gives equal bytes. Text is set in Helvetica, one of the fourteen fonts that every reader
//! has (ISO 32000-1, 9.6.2.2), in `WinAnsiEncoding`; what that cannot say becomes a question mark, so ask
//! [`sayable`] first where this matters.
use std::fmt::Write as _;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::ZlibEncoder;

use crate::preview::Canvas;

/// Width and height of A4 in points.
pub(super) const A4: [f64; 2] = [595.0, 842.0];

/// Weight of the letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    Regular,
    Bold,
}

/// How a text stands at its place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Style {
    pub(super) weight: Weight,
    /// Points.
    pub(super) size: f64,
    pub(super) rgb: [u8; 3],
}

/// A page while it is filled. Places are points from its lower left corner.
#[derive(Default)]
pub(super) struct Page {
    content: String,
    pictures: Vec<Picture>,
}

struct Picture {
    width: u32,
    height: u32,
    /// The RGB bytes, compressed (`FlateDecode`).
    data: Vec<u8>,
}

/// Title and time of a document.
pub(super) struct Heading<'a> {
    pub(super) title: &'a str,
    /// `YYYYMMDDHHMMSS`.
    pub(super) created: &'a str,
    /// Identifies the content.
    pub(super) id: &'a [u8],
}

impl Page {
    pub(super) fn text(&mut self, style: Style, [x, y]: [f64; 2], text: &str) {
        let font = match style.weight {
            Weight::Regular => "F1",
            Weight::Bold => "F2",
        };
        let size = style.size;
        let hex = encoded(text).iter().fold(String::new(), |mut hex, byte| {
            push(&mut hex, format_args!("{byte:02X}"));
            hex
        });
        push(
            &mut self.content,
            format_args!(
                "BT /{font} {size} Tf {} rg {x:.2} {y:.2} Td <{hex}> Tj ET\n",
                colour(style.rgb)
            ),
        );
    }

    /// Text that ends at `x`.
    pub(super) fn text_right(&mut self, style: Style, [x, y]: [f64; 2], text: &str) {
        self.text(style, [x - width(style, text), y], text);
    }

    pub(super) fn line(&mut self, rgb: [u8; 3], [x0, y0]: [f64; 2], [x1, y1]: [f64; 2]) {
        push(
            &mut self.content,
            format_args!(
                "{} RG 0.5 w {x0:.2} {y0:.2} m {x1:.2} {y1:.2} l S\n",
                colour(rgb)
            ),
        );
    }

    pub(super) fn rectangle(&mut self, rgb: [u8; 3], [x, y]: [f64; 2], [across, up]: [f64; 2]) {
        push(
            &mut self.content,
            format_args!(
                "{} rg {x:.2} {y:.2} {across:.2} {up:.2} re f\n",
                colour(rgb)
            ),
        );
    }

    /// A picture with its lower left corner at a place.
    pub(super) fn picture(&mut self, canvas: &Canvas, [x, y]: [f64; 2], [across, up]: [f64; 2]) {
        let number = self.pictures.len();
        push(
            &mut self.content,
            format_args!("q {across:.2} 0 0 {up:.2} {x:.2} {y:.2} cm /P{number} Do Q\n"),
        );
        self.pictures.push(Picture {
            width: canvas.size.width,
            height: canvas.size.height,
            data: deflated(&canvas.rgb),
        });
    }

    /// The file.
    pub(super) fn finish(self, heading: &Heading<'_>) -> Vec<u8> {
        let [across, up] = A4;
        let mut pictures = String::new();
        for number in 0..self.pictures.len() {
            push(
                &mut pictures,
                format_args!("/P{number} {} 0 R ", 8 + number),
            );
        }
        let font = |name: &str| {
            format!("<</Type/Font/Subtype/Type1/BaseFont/{name}/Encoding/WinAnsiEncoding>>")
        };
        let mut objects: Vec<Vec<u8>> = vec![
            b"<</Type/Catalog/Pages 2 0 R/Lang(en)>>".to_vec(),
            b"<</Type/Pages/Kids[3 0 R]/Count 1>>".to_vec(),
            format!(
                "<</Type/Page/Parent 2 0 R/MediaBox[0 0 {across} {up}]/Contents 4 0 R\
                 /Resources<</Font<</F1 5 0 R/F2 6 0 R>>/XObject<<{pictures}>>>>>>"
            )
            .into_bytes(),
            stream("", &deflated(self.content.as_bytes())),
            font("Helvetica").into_bytes(),
            font("Helvetica-Bold").into_bytes(),
            format!(
                "<</Title({})/Producer(Dawson)/CreationDate(D:{})>>",
                heading.title, heading.created
            )
            .into_bytes(),
        ];
        for picture in &self.pictures {
            let Picture { width, height, .. } = picture;
            let entries = format!(
                "/Type/XObject/Subtype/Image/Width {width}/Height {height}\
                 /ColorSpace/DeviceRGB/BitsPerComponent 8"
            );
            objects.push(stream(&entries, &picture.data));
        }
        let id: String = heading.id.iter().fold(String::new(), |mut id, byte| {
            push(&mut id, format_args!("{byte:02X}"));
            id
        });
        file(&objects, &id)
    }
}

/// Objects 1 to n, their cross-reference table and trailer (ISO 32000-1, 7.5).
fn file(objects: &[Vec<u8>], id: &str) -> Vec<u8> {
    let mut bytes = b"%PDF-1.4\n%\xE2\xE3\xCF\xD3\n".to_vec();
    let mut table = format!("xref\n0 {}\n0000000000 65535 f \n", objects.len() + 1);
    for (number, object) in (1_usize..).zip(objects) {
        push(&mut table, format_args!("{:010} 00000 n \n", bytes.len()));
        bytes.extend(format!("{number} 0 obj\n").bytes());
        bytes.extend(object);
        bytes.extend(b"\nendobj\n");
    }
    let start = bytes.len();
    bytes.extend(table.bytes());
    let size = objects.len() + 1;
    bytes.extend(
        format!(
            "trailer\n<</Size {size}/Root 1 0 R/Info 7 0 R/ID[<{id}><{id}>]>>\n\
             startxref\n{start}\n%%EOF\n"
        )
        .bytes(),
    );
    bytes
}

fn stream(entries: &str, data: &[u8]) -> Vec<u8> {
    let length = data.len();
    let mut bytes =
        format!("<<{entries}/Filter/FlateDecode/Length {length}>>\nstream\n").into_bytes();
    bytes.extend(data);
    bytes.extend(b"\nendstream");
    bytes
}

fn deflated(data: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(6));
    let written = encoder.write_all(data);
    debug_assert!(written.is_ok(), "a Vec takes all bytes");
    encoder.finish().unwrap_or_default()
}

fn push(text: &mut String, more: std::fmt::Arguments<'_>) {
    let written = text.write_fmt(more);
    debug_assert!(written.is_ok(), "a String takes all text");
}

fn colour([r, g, b]: [u8; 3]) -> String {
    let [r, g, b] = [r, g, b].map(|value| f64::from(value) / 255.0);
    format!("{r:.3} {g:.3} {b:.3}")
}

/// Whether every character of a text has a letter in `WinAnsiEncoding`.
pub(super) fn sayable(text: &str) -> bool {
    text.chars().all(|c| byte(c).is_some())
}

fn byte(c: char) -> Option<u8> {
    let code = u8::try_from(u32::from(c)).ok()?;
    matches!(code, 0x20..=0x7E | 0xA0..=0xFF).then_some(code)
}

fn encoded(text: &str) -> Vec<u8> {
    text.chars().map(|c| byte(c).unwrap_or(b'?')).collect()
}

/// Breaks a text between words so that no line is wider than `across`; a longer word is broken anywhere.
pub(super) fn lines(style: Style, across: f64, text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut extend = |piece: &str, gap: &str| {
        if let Some(last) = lines.last_mut() {
            let gap = if last.is_empty() { "" } else { gap };
            if last.is_empty() || width(style, &format!("{last}{gap}{piece}")) <= across {
                *last += gap;
                *last += piece;
                return;
            }
        }
        lines.push(piece.to_owned());
    };
    for word in text.split_whitespace() {
        if width(style, word) <= across {
            extend(word, " ");
        } else {
            for (n, letter) in word.chars().enumerate() {
                extend(&letter.to_string(), if n == 0 { " " } else { "" });
            }
        }
    }
    lines
}

/// The width of a text in points.
pub(super) fn width(style: Style, text: &str) -> f64 {
    let thousandths: u32 = text.chars().map(advance).sum();
    let bold = match style.weight {
        Weight::Regular => 1.0,
        // Digits are as wide in both; letters at most so much wider.
        Weight::Bold if text.chars().all(|c| c.is_ascii_digit() || c == '.') => 1.0,
        Weight::Bold => 1.08,
    };
    f64::from(thousandths) / 1000.0 * style.size * bold
}

/// Widths of Helvetica's letters from space to tilde, thousandths of its size (its Adobe font metrics).
const ADVANCES: [u16; 95] = [
    278, 278, 355, 556, 556, 889, 667, 191, 333, 333, 389, 584, 278, 333, 278, 278, // to /
    556, 556, 556, 556, 556, 556, 556, 556, 556, 556, 278, 278, 584, 584, 584, 556, // to ?
    1015, 667, 667, 722, 722, 667, 611, 778, 722, 278, 500, 667, 556, 833, 722, 778, // to O
    667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 278, 278, 278, 469, 556, // to _
    333, 556, 556, 500, 556, 556, 278, 556, 556, 222, 222, 500, 222, 833, 556, 556, // to o
    556, 556, 333, 500, 278, 556, 500, 722, 500, 500, 500, 334, 260, 334, 584, // to ~
];

fn advance(c: char) -> u32 {
    let place = (c as usize).checked_sub(0x20);
    let known = place.and_then(|at| ADVANCES.get(at)).copied();
    u32::from(known.unwrap_or(667))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STYLE: Style = Style {
        weight: Weight::Regular,
        size: 10.0,
        rgb: [0, 0, 0],
    };

    #[test]
    fn lines_are_no_wider_than_asked_and_lose_no_word() {
        let text =
            "lesions of 26-connected voxels 0123456789abcdef0123456789abcdef0123456789abcdef end";
        let broken = lines(STYLE, 90.0, text);
        assert!(
            broken.iter().all(|line| width(STYLE, line) <= 90.0),
            "{broken:?}"
        );
        assert_eq!(broken.concat().replace(' ', ""), text.replace(' ', ""));
    }

    #[test]
    fn the_table_points_at_its_objects() {
        let mut page = Page::default();
        page.text(STYLE, [10.0, 10.0], "é(");
        page.picture(&Canvas::new(3, 2), [0.0, 0.0], [3.0, 2.0]);
        let file = page.finish(&Heading {
            title: "t",
            created: "20260102101500",
            id: &[1],
        });
        let text = String::from_utf8_lossy(&file).into_owned();
        let start: usize = text
            .rsplit("startxref\n")
            .next()
            .unwrap()
            .lines()
            .next()
            .unwrap()
            .parse()
            .unwrap();
        let table = std::str::from_utf8(&file[start..]).unwrap();
        for (number, line) in table.lines().skip(3).take(8).enumerate() {
            let at: usize = line[..10].parse().unwrap();
            let head = format!("{} 0 obj", number + 1);
            assert!(file[at..].starts_with(head.as_bytes()), "{number}");
        }
    }

    #[test]
    fn letters_outside_the_encoding_are_known() {
        assert!(sayable("Müller") && !sayable("山田"));
        assert_eq!(encoded("a山"), b"a?");
    }
}
