//! Pixels as they stand in a file, to values.
//!
//! Every decoder gives the cells of one frame as unsigned numbers of `BitsAllocated` bits; what a cell
//! means (bits stored, sign, slope and intercept) is said in one place, [`Cells::values`].
mod jpeg;
mod jpeg2000;
mod jpegls;
mod rle;

use super::guard::RawPixels;
use super::{Error, Syntax};

/// What the cells of an image are (PS3.3 C.7.6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cells {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) frames: usize,
    /// 8, 16 or 32.
    pub(super) allocated: u32,
    pub(super) stored: u32,
    pub(super) high_bit: u32,
    pub(super) signed: bool,
}

impl Cells {
    pub(super) fn in_frame(&self) -> usize {
        self.rows.saturating_mul(self.columns)
    }

    pub(super) fn bytes_each(&self) -> usize {
        (self.allocated / 8) as usize
    }

    fn frame_bytes(&self) -> usize {
        self.in_frame().saturating_mul(self.bytes_each())
    }

    /// The lowest bit of the stored ones.
    fn low_bit(&self) -> u32 {
        self.high_bit.saturating_add(1).saturating_sub(self.stored)
    }

    /// A cell of which only the stored bits are left, where once overlays stood beside them; the sign goes on above.
    pub(super) fn bare(&self, cell: u32) -> u32 {
        (self.stored(cell) << self.low_bit()) as u32
    }

    /// The number that a cell holds: bits above `high_bit` mean nothing, the sign stands in it.
    fn stored(&self, cell: u32) -> i64 {
        let low = self.low_bit();
        let unused = 64_u32.saturating_sub(self.stored);
        let bits = u64::from(cell >> low) << unused;
        if self.signed {
            (bits as i64) >> unused
        } else {
            (bits >> unused) as i64
        }
    }

    /// Values of a frame: stored · slope + intercept, in f64, kept as f32.
    pub(super) fn values(&self, cells: &[u32], slope: f64, intercept: f64, into: &mut Vec<f32>) {
        let value = |&cell: &u32| (self.stored(cell) as f64).mul_add(slope, intercept) as f32;
        into.extend(cells.iter().map(value));
    }

    /// Whether there are as many bytes or fragments as the header promises; nothing is decoded.
    pub(super) fn check(&self, pixels: &RawPixels, syntax: Syntax) -> Result<(), Error> {
        match pixels {
            RawPixels::None => Err(Error::Missing { name: "PixelData" }),
            RawPixels::Native(bytes) => {
                if syntax.is_encapsulated() {
                    let reason = "pixels are not in fragments as the transfer syntax says";
                    return Err(Error::Pixels { frame: 1, reason });
                }
                let needed = self.frame_bytes().saturating_mul(self.frames);
                let found = bytes.len();
                if found < needed {
                    return Err(Error::PixelsShort { found, needed });
                }
                Ok(())
            }
            RawPixels::Fragments { .. } => {
                for frame in 0..self.frames {
                    let packed = self.packed(pixels, frame)?;
                    let checked = match syntax {
                        Syntax::Rle => rle::check(&packed, self),
                        Syntax::JpegLossless => jpeg::check(&packed, self),
                        Syntax::JpegLs => jpegls::check(&packed, self),
                        Syntax::Jpeg2000 => jpeg2000::check(&packed, self),
                        _ => Err("fragments in a syntax without them"),
                    };
                    checked.map_err(|reason| wrong(frame, reason))?;
                }
                Ok(())
            }
        }
    }

    /// The cells of a frame, counted from 0: `columns` run fastest.
    pub(super) fn decode(
        &self,
        pixels: &RawPixels,
        syntax: Syntax,
        frame: usize,
    ) -> Result<Vec<u32>, Error> {
        let cells = match pixels {
            RawPixels::None => return Err(Error::Missing { name: "PixelData" }),
            RawPixels::Native(bytes) => Ok(self.native(bytes, syntax, frame)),
            RawPixels::Fragments { .. } => {
                let packed = self.packed(pixels, frame)?;
                match syntax {
                    Syntax::Rle => rle::decode(&packed, self),
                    Syntax::JpegLossless => {
                        super::caught("JPEG decoder", || Ok(jpeg::decode(&packed, self)))?
                    }
                    Syntax::JpegLs => jpegls::decode(&packed, self),
                    Syntax::Jpeg2000 => {
                        super::caught("JPEG 2000 decoder", || Ok(jpeg2000::decode(&packed, self)))?
                    }
                    _ => Err("fragments in a syntax without them"),
                }
            }
        };
        let cells = cells.map_err(|reason| wrong(frame, reason))?;
        if cells.len() != self.in_frame() {
            return Err(wrong(frame, "other than rows times columns pixels"));
        }
        Ok(cells)
    }

    fn native(&self, bytes: &[u8], syntax: Syntax, frame: usize) -> Vec<u32> {
        let each = self.bytes_each();
        let start = self.frame_bytes().saturating_mul(frame);
        let big = syntax.is_big();
        let cell = |bytes: &[u8]| {
            let join = |sum: u32, &byte: &u8| sum << 8 | u32::from(byte);
            if big {
                bytes.iter().fold(0, join)
            } else {
                bytes.iter().rev().fold(0, join)
            }
        };
        let bytes = bytes.get(start..).unwrap_or_default();
        bytes
            .chunks_exact(each.max(1))
            .take(self.in_frame())
            .map(cell)
            .collect()
    }

    /// The bytes of a frame: its fragments joined. One frame has them all; several have one each, or what the
    /// offset table gives them.
    fn packed(&self, pixels: &RawPixels, frame: usize) -> Result<Vec<u8>, Error> {
        let RawPixels::Fragments { offsets, fragments } = pixels else {
            return Err(wrong(frame, "no fragments"));
        };
        if self.frames == 1 && !fragments.is_empty() {
            return Ok(fragments.concat());
        }
        if fragments.len() == self.frames {
            return Ok(fragments.get(frame).cloned().unwrap_or_default());
        }
        let next = frame.saturating_add(1);
        let (Some(&first), true) = (offsets.get(frame), offsets.len() == self.frames) else {
            return Err(wrong(frame, "not as many fragments as frames"));
        };
        let last = offsets.get(next).copied().unwrap_or(u32::MAX);
        let mut at: u32 = 0;
        let mut packed = Vec::new();
        for fragment in fragments {
            if (first..last).contains(&at) {
                packed.extend_from_slice(fragment);
            }
            let length = u32::try_from(fragment.len()).unwrap_or(u32::MAX);
            at = at.saturating_add(length).saturating_add(8);
        }
        Ok(packed)
    }
}

fn wrong(frame: usize, reason: &'static str) -> Error {
    let frame = frame.saturating_add(1);
    Error::Pixels { frame, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(allocated: u32, stored: u32, high_bit: u32, signed: bool) -> Cells {
        Cells {
            rows: 1,
            columns: 2,
            frames: 1,
            allocated,
            stored,
            high_bit,
            signed,
        }
    }

    #[test]
    fn bits_beyond_those_stored_mean_nothing_and_the_sign_stands_in_the_high_bit() {
        assert_eq!(cells(16, 12, 11, false).stored(0xf234), 0x234);
        assert_eq!(cells(16, 12, 11, true).stored(0x0fff), -1);
        assert_eq!(cells(16, 12, 15, false).stored(0x1230), 0x123);
        assert_eq!(cells(32, 32, 31, true).stored(0xffff_fffe), -2);
        assert_eq!(cells(8, 8, 7, false).stored(0xff), 255);
    }

    #[test]
    fn a_bare_cell_holds_the_same_number_and_nothing_beside_it() {
        for (cells, cell, bare) in [
            (cells(16, 12, 11, false), 0xf234, 0x0234),
            (cells(16, 12, 11, true), 0x0fff, 0xffff),
            (cells(16, 12, 15, false), 0x123f, 0x1230),
            (cells(8, 8, 7, true), 0x80, 0x80),
            (cells(32, 32, 31, false), 0xffff_fffe, 0xffff_fffe),
        ] {
            let found = cells.bare(cell);
            let kept = 1_u64.checked_shl(cells.allocated).unwrap() - 1;
            assert_eq!(u64::from(found) & kept, bare, "{cell:x}");
            assert_eq!(cells.stored(found), cells.stored(cell));
        }
    }

    #[test]
    fn both_byte_orders_are_read() {
        let pixels = RawPixels::Native(vec![0x34, 0x12, 1, 0]);
        let cells = cells(16, 16, 15, false);
        let read = |syntax| cells.decode(&pixels, syntax, 0).unwrap();
        assert_eq!(read(Syntax::ExplicitLittle), [0x1234, 1]);
        assert_eq!(read(Syntax::ExplicitBig), [0x3412, 0x100]);
    }

    #[test]
    fn several_fragments_of_a_frame_are_joined_by_the_offset_table() {
        let two = Cells {
            frames: 2,
            ..cells(16, 16, 15, false)
        };
        let pixels = RawPixels::Fragments {
            offsets: vec![0, 20],
            fragments: vec![vec![1, 2], vec![3, 4], vec![5, 6]],
        };
        assert_eq!(two.packed(&pixels, 0).unwrap(), [1, 2, 3, 4]);
        assert_eq!(two.packed(&pixels, 1).unwrap(), [5, 6]);
    }
}
