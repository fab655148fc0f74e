//! Run-length encoding, PS3.5 annex G: the bytes of the cells apart, the most significant first.
use super::Cells;

/// Sixteen words: how many segments there are, and where each starts.
const HEADER_BYTES: usize = 64;
/// A run packs at most 128 bytes into 2.
const MOST_PACKED: usize = 64;

pub(super) fn check(packed: &[u8], cells: &Cells) -> Result<(), &'static str> {
    segments(packed, cells).map(|_| ())
}

pub(super) fn decode(packed: &[u8], cells: &Cells) -> Result<Vec<u32>, &'static str> {
    let mut all = vec![0; cells.in_frame()];
    for segment in segments(packed, cells)? {
        let mut places = all.iter_mut();
        let mut bytes = segment.iter().copied();
        while places.len() > 0 {
            let control = bytes.next().ok_or("a segment ends before its pixels do")?;
            // 128 does nothing.
            let (literal, count) = match control {
                0..=127 => (true, usize::from(control).saturating_add(1)),
                128 => continue,
                129..=255 => (false, 257_usize.saturating_sub(usize::from(control))),
            };
            let mut byte = None;
            for place in places.by_ref().take(count) {
                if literal || byte.is_none() {
                    byte = bytes.next();
                }
                let byte = byte.ok_or("a segment ends before its pixels do")?;
                *place = *place << 8 | u32::from(byte);
            }
        }
    }
    Ok(all)
}

fn segments<'a>(packed: &'a [u8], cells: &Cells) -> Result<Vec<&'a [u8]>, &'static str> {
    let word = |n: usize| {
        let at = n.saturating_mul(4);
        let bytes = packed.get(at..at.saturating_add(4))?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
    };
    let header = packed.get(..HEADER_BYTES);
    let (Some(_), Some(count)) = (header, word(0)) else {
        return Err("the RLE header is cut off");
    };
    if count != cells.bytes_each() {
        return Err("not as many RLE segments as bytes of a pixel");
    }
    if packed.len().saturating_mul(MOST_PACKED) < cells.in_frame() {
        return Err("fewer RLE bytes than could hold the pixels");
    }
    let mut starts: Vec<usize> = (1..=count).filter_map(word).collect();
    starts.push(packed.len());
    let mut found = Vec::with_capacity(count);
    for ends in starts.windows(2) {
        let (&[start, end], true) = (ends, ends.first() >= Some(&HEADER_BYTES)) else {
            return Err("an RLE segment starts within the header");
        };
        let segment = packed.get(start..end);
        found.push(segment.ok_or("RLE segments overlap or lie outside")?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dicom::synthetic::rle;

    fn cells(columns: usize) -> Cells {
        Cells {
            rows: 1,
            columns,
            frames: 1,
            allocated: 16,
            stored: 16,
            high_bit: 15,
            signed: false,
        }
    }

    proptest! {
        #[test]
        fn what_was_packed_comes_back(values in prop::collection::vec(0_u16..4, 1..400)) {
            let wide: Vec<u16> = values.iter().map(|v| v * 300).collect();
            let cells = cells(wide.len());
            let unpacked = decode(&rle(&wide), &cells).unwrap();
            prop_assert!(unpacked.iter().zip(&wide).all(|(&a, &b)| a == u32::from(b)));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), count in 0_u8..3) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = count;
            }
            let _cells = decode(&bytes, &cells(40));
        }
    }
}
