//! JPEG lossless, process 14 (ITU-T T.81 annex H), by the `jpeg-decoder` crate.
use jpeg_decoder::{Decoder, PixelFormat};

use super::Cells;

/// The frame header's size, components and precision against the image's.
pub(super) fn check(packed: &[u8], cells: &Cells) -> Result<(), &'static str> {
    let frame = frame_header(packed, 0xc3)?;
    frame.fits(cells)
}

/// A JPEG or JPEG-LS frame header (SOF).
pub(super) struct FrameHeader {
    pub(super) precision: u32,
    rows: usize,
    columns: usize,
    components: u8,
}

impl FrameHeader {
    pub(super) fn fits(&self, cells: &Cells) -> Result<(), &'static str> {
        if (self.rows, self.columns) != (cells.rows, cells.columns) {
            return Err("the JPEG's size is not rows times columns");
        }
        if self.components != 1 {
            return Err("the JPEG has several components");
        }
        if self.precision < cells.stored || self.precision > cells.allocated {
            return Err("the JPEG's precision is not that of the pixels");
        }
        Ok(())
    }
}

/// Finds the frame header with marker `0xff, sof`; other frame headers are other processes.
pub(super) fn frame_header(packed: &[u8], sof: u8) -> Result<FrameHeader, &'static str> {
    let missing = "no JPEG frame header of this transfer syntax";
    let mut rest = packed.strip_prefix(&[0xff, 0xd8]).ok_or("no JPEG starts")?;
    loop {
        let (&[first, marker], after) = rest.split_first_chunk().ok_or(missing)?;
        if first != 0xff {
            return Err(missing);
        }
        if marker == 0xff {
            // Fill bytes before a marker.
            rest = rest.get(1..).ok_or(missing)?;
            continue;
        }
        let (length, _) = after.split_first_chunk().ok_or(missing)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let body = after.get(2..length).ok_or(missing)?;
        if marker == sof {
            let &[precision, r1, r0, c1, c0, components, ..] = body else {
                return Err(missing);
            };
            return Ok(FrameHeader {
                precision: u32::from(precision),
                rows: usize::from(u16::from_be_bytes([r1, r0])),
                columns: usize::from(u16::from_be_bytes([c1, c0])),
                components,
            });
        }
        if (0xc0..=0xcf).contains(&marker) && !matches!(marker, 0xc4 | 0xcc) || marker == 0xda {
            return Err(missing);
        }
        rest = after.get(length..).ok_or(missing)?;
    }
}

pub(super) fn decode(packed: &[u8], cells: &Cells) -> Result<Vec<u32>, &'static str> {
    check(packed, cells)?;
    let mut decoder = Decoder::new(packed);
    decoder.set_max_decoding_buffer_size(cells.in_frame().saturating_mul(2));
    let bytes = decoder.decode().map_err(|_| "the JPEG is damaged")?;
    let format = decoder.info().map(|info| info.pixel_format);
    match format {
        Some(PixelFormat::L8) => Ok(bytes.into_iter().map(u32::from).collect()),
        Some(PixelFormat::L16) => {
            let cell = |b: &[u8]| b.try_into().map_or(0, |b| u32::from(u16::from_ne_bytes(b)));
            Ok(bytes.chunks_exact(2).map(cell).collect())
        }
        _ => Err("the JPEG is not of one component"),
    }
}
