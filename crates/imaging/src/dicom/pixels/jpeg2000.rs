//! JPEG 2000 (ITU-T T.800) by the `hayro-jpeg2000` crate, which forbids `unsafe`.
use hayro_jpeg2000::{DecodeSettings, DecoderContext, Image};

use super::Cells;

/// Start of codestream, then the size: nothing of a JP2 file around it (PS3.5 A.4.4).
const START: [u8; 4] = [0xff, 0x4f, 0xff, 0x51];
/// More tiles or layers than any encoder makes of an image of this size cost time and memory.
const MAX_TILES: u64 = 1024;
const MAX_LAYERS: u16 = 128;

/// The main header's size, component, depth, tiles and layers against the image's.
pub(super) fn check(packed: &[u8], cells: &Cells) -> Result<(), &'static str> {
    let cut = "the JPEG 2000 header is cut off";
    let body = packed.strip_prefix(&START).ok_or("no JPEG 2000 starts")?;
    let word = |at: usize| -> Result<u64, &'static str> {
        let bytes = body.get(at..at.saturating_add(4)).ok_or(cut)?;
        bytes
            .try_into()
            .map_or(Err(cut), |b| Ok(u64::from(u32::from_be_bytes(b))))
    };
    // Lsiz, Rsiz, then eight words: size, offset, tile size, tile offset.
    let (right, bottom, left, top) = (word(4)?, word(8)?, word(12)?, word(16)?);
    let (tile_columns, tile_rows) = (word(20)?, word(24)?);
    let Some(&[c1, c0, depth, step_x, step_y]) = body.get(36..41) else {
        return Err(cut);
    };
    let size = (bottom.checked_sub(top), right.checked_sub(left));
    if size != (Some(cells.rows as u64), Some(cells.columns as u64)) {
        return Err("the JPEG 2000's size is not rows times columns");
    }
    if u16::from_be_bytes([c1, c0]) != 1 || (step_x, step_y) != (1, 1) {
        return Err("the JPEG 2000 has several components");
    }
    let depth_bits = u32::from(depth & 0x7f).saturating_add(1);
    if depth_bits < cells.stored || depth_bits > cells.allocated.min(24) {
        return Err("the JPEG 2000's depth is not that of the pixels");
    }
    let across = right.checked_div(tile_columns);
    let down = bottom.checked_div(tile_rows);
    let tiles = across.zip(down).map_or(u64::MAX, |(a, d)| {
        a.saturating_add(1).saturating_mul(d.saturating_add(1))
    });
    if tiles > MAX_TILES {
        return Err("the JPEG 2000 has more tiles than an image of this size needs");
    }
    let first = u16::from_be_bytes([*body.first().ok_or(cut)?, *body.get(1).ok_or(cut)?]);
    layers(body.get(usize::from(first)..).ok_or(cut)?)
}

/// Looks through the main header for its coding style.
fn layers(mut rest: &[u8]) -> Result<(), &'static str> {
    let cut = "the JPEG 2000 header is cut off";
    loop {
        let (&[0xff, marker], after) = rest.split_first_chunk().ok_or(cut)? else {
            return Err("the JPEG 2000 header is damaged");
        };
        // The first tile begins.
        if marker == 0x90 {
            return Ok(());
        }
        let (&length, _) = after.split_first_chunk().ok_or(cut)?;
        let length = usize::from(u16::from_be_bytes(length));
        if marker == 0x52 {
            let Some(&[l1, l0]) = after.get(4..6) else {
                return Err(cut);
            };
            if u16::from_be_bytes([l1, l0]) > MAX_LAYERS {
                return Err("the JPEG 2000 has more layers than any encoder makes");
            }
        }
        rest = after.get(length.max(2)..).ok_or(cut)?;
    }
}

pub(super) fn decode(packed: &[u8], cells: &Cells) -> Result<Vec<u32>, &'static str> {
    check(packed, cells)?;
    let damaged = "the JPEG 2000 is damaged";
    let settings = DecodeSettings {
        resolve_palette_indices: false,
        strict: true,
        target_resolution: None,
    };
    let image = Image::new(packed, &settings).map_err(|_| damaged)?;
    let mut context = DecoderContext::default();
    let decoded = image.decode(&mut context).map_err(|_| damaged)?;
    let component = decoded.components().first().ok_or(damaged)?;
    // The decoder adds half the range to signed samples too (T.800 G.1 does so to unsigned ones alone).
    let (&signed_depth, half) = packed
        .get(42)
        .zip(Some(
            1_i64 << component.bit_depth().clamp(1, 32).saturating_sub(1),
        ))
        .ok_or(damaged)?;
    let shift = if signed_depth & 0x80 == 0 { 0 } else { half };
    let cell = |&sample: &f32| (sample.round() as i64).wrapping_sub(shift) as u32;
    Ok(component.samples().iter().map(cell).collect())
}
