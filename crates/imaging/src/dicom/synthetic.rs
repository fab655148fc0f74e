//! DICOM files written byte by byte for tests, so that no reader proves itself.

/// Explicit little endian.
pub(crate) fn element(tag: (u16, u16), vr: &[u8; 2], value: &[u8]) -> Vec<u8> {
    let mut value = value.to_vec();
    if value.len() % 2 == 1 {
        value.push(if matches!(vr, b"UI" | b"OB") { 0 } else { b' ' });
    }
    let mut all = [tag.0.to_le_bytes(), tag.1.to_le_bytes()].concat();
    all.extend_from_slice(vr);
    if matches!(vr, b"OB" | b"OW" | b"SQ" | b"UN" | b"UT") {
        all.extend_from_slice(&[0, 0]);
        all.extend_from_slice(&(value.len() as u32).to_le_bytes());
    } else {
        all.extend_from_slice(&(value.len() as u16).to_le_bytes());
    }
    all.extend_from_slice(&value);
    all
}

pub(crate) fn text(tag: (u16, u16), vr: &[u8; 2], value: &str) -> Vec<u8> {
    element(tag, vr, value.as_bytes())
}

pub(crate) fn short(tag: (u16, u16), value: u16) -> Vec<u8> {
    element(tag, b"US", &value.to_le_bytes())
}

/// A file of a transfer syntax around a data set.
pub(crate) fn file(syntax: &str, data: &[u8]) -> Vec<u8> {
    let mut all = vec![0; 128];
    all.extend_from_slice(b"DICM");
    all.extend(text((2, 0x10), b"UI", syntax));
    all.extend_from_slice(data);
    all
}

pub(crate) const EXPLICIT: &str = "1.2.840.10008.1.2.1";

/// An axial FLAIR slice of 6 rows and 8 columns at `z` mm; what is in `more` comes last of the header.
#[derive(Clone)]
pub(crate) struct Slice {
    pub(crate) series: &'static str,
    pub(crate) instance: usize,
    pub(crate) position: [f64; 3],
    pub(crate) orientation: &'static str,
    pub(crate) slope: f64,
    pub(crate) pixels: Vec<u16>,
    pub(crate) echo_ms: f64,
    pub(crate) acquisition: u16,
    pub(crate) more: Vec<u8>,
}

pub(crate) const ROWS: usize = 6;
pub(crate) const COLUMNS: usize = 8;

impl Slice {
    pub(crate) fn at(k: usize) -> Self {
        let pixel = |n: usize| (k * 100 + n) as u16;
        Self {
            series: "1.2.3",
            instance: k + 1,
            position: [-10.0, -20.0, 5.0 * k as f64 - 40.0],
            orientation: "1\\0\\0\\0\\1\\0",
            slope: 1.0,
            pixels: (0..ROWS * COLUMNS).map(pixel).collect(),
            echo_ms: 120.0,
            acquisition: 1,
            more: Vec::new(),
        }
    }

    /// Everything up to the pixels.
    pub(crate) fn header(&self) -> Vec<u8> {
        let [x, y, z] = self.position;
        let mut all = Vec::new();
        all.extend(text((8, 8), b"CS", "ORIGINAL\\PRIMARY\\M\\ND"));
        all.extend(text((8, 0x16), b"UI", "1.2.840.10008.5.1.4.1.1.4"));
        all.extend(text(
            (8, 0x18),
            b"UI",
            &format!("{}.{}", self.series, self.instance),
        ));
        all.extend(text((8, 0x60), b"CS", "MR"));
        all.extend(text((8, 0x103e), b"LO", "Doe Jane ax flair"));
        all.extend(text((0x10, 0x10), b"PN", "Doe^Jane"));
        all.extend(text((0x18, 0x20), b"CS", "SE\\IR"));
        all.extend(text((0x18, 0x80), b"DS", "9000"));
        all.extend(text((0x18, 0x81), b"DS", &self.echo_ms.to_string()));
        all.extend(text((0x18, 0x82), b"DS", "2500"));
        all.extend(text((0x20, 0xd), b"UI", "1.2"));
        all.extend(text((0x20, 0xe), b"UI", self.series));
        all.extend(text((0x20, 0x12), b"IS", &self.acquisition.to_string()));
        all.extend(text((0x20, 0x13), b"IS", &self.instance.to_string()));
        all.extend(text((0x20, 0x32), b"DS", &format!("{x}\\{y}\\{z}")));
        all.extend(text((0x20, 0x37), b"DS", self.orientation));
        all.extend(text((0x20, 0x52), b"UI", "1.2.9"));
        all.extend(short((0x28, 2), 1));
        all.extend(text((0x28, 4), b"CS", "MONOCHROME2"));
        all.extend(short((0x28, 0x10), ROWS as u16));
        all.extend(short((0x28, 0x11), COLUMNS as u16));
        all.extend(text((0x28, 0x30), b"DS", "2\\1.5"));
        for (tag, value) in [(0x100, 16), (0x101, 16), (0x102, 15), (0x103, 0)] {
            all.extend(short((0x28, tag), value));
        }
        all.extend(text((0x28, 0x1052), b"DS", "0"));
        all.extend(text((0x28, 0x1053), b"DS", &self.slope.to_string()));
        all.extend_from_slice(&self.more);
        all
    }

    pub(crate) fn data(&self) -> Vec<u8> {
        let bytes: Vec<u8> = self.pixels.iter().flat_map(|p| p.to_le_bytes()).collect();
        let mut all = self.header();
        all.extend(element((0x7fe0, 0x10), b"OW", &bytes));
        all
    }

    pub(crate) fn file(&self) -> Vec<u8> {
        file(EXPLICIT, &self.data())
    }
}

/// Twenty slices of 5 mm.
pub(crate) fn head() -> Vec<Slice> {
    (0..20).map(Slice::at).collect()
}

/// Fragments with an empty offset table.
pub(crate) fn fragments(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut all = vec![
        0xe0, 0x7f, 0x10, 0, b'O', b'B', 0, 0, 0xff, 0xff, 0xff, 0xff,
    ];
    let mut item = |bytes: &[u8]| {
        all.extend_from_slice(&[0xfe, 0xff, 0, 0xe0]);
        all.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        all.extend_from_slice(bytes);
    };
    item(&[]);
    parts.iter().for_each(|part| item(part));
    all.extend_from_slice(&[0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0]);
    all
}

/// Packs 16-bit values by runs and literals of PS3.5 annex G.
pub(crate) fn rle(values: &[u16]) -> Vec<u8> {
    let pack = |bytes: Vec<u8>| {
        let mut packed = Vec::new();
        for run in bytes.chunk_by(|a, b| a == b) {
            for part in run.chunks(128) {
                if part.len() == 1 {
                    packed.extend([0, part[0]]);
                } else {
                    packed.extend([(257 - part.len()) as u8, part[0]]);
                }
            }
        }
        packed
    };
    let high = pack(values.iter().map(|v| (v >> 8) as u8).collect());
    let low = pack(values.iter().map(|v| *v as u8).collect());
    let mut all = Vec::new();
    for n in 0..16 {
        let word = match n {
            0 => 2,
            1 => 64,
            2 => 64 + high.len(),
            _ => 0,
        };
        all.extend_from_slice(&(word as u32).to_le_bytes());
    }
    all.extend(high);
    all.extend(low);
    if all.len() % 2 == 1 {
        all.push(0);
    }
    all
}
