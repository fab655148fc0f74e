//! Bytes packed as gzip, many blocks side by side.
//!
//! Every block is deflated by itself and ends at a whole byte (RFC 1951, an empty stored block), so that
//! one after the other they are one stream of one gzip member (RFC 1952), which every reader understands.
//! The same blocks give the same bytes, whatever the number of threads.
use std::sync::{Arc, OnceLock};

use flate2::{Compress, Compression, Crc, FlushCompress};
use rayon::prelude::*;

/// No name, no time, packed fast, on no system in particular.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255];
/// What may be needed beyond a block's own bytes before its end is flushed.
const SLACK: usize = 64;

/// A deflated block, and the checksum of what it was.
struct Packed {
    bytes: Vec<u8>,
    crc: Crc,
}

/// Packs the blocks 0 to `count - 1`; none make an empty file.
#[must_use]
pub(crate) fn pack(count: usize, block: impl Fn(usize) -> Vec<u8> + Sync) -> Vec<u8> {
    let count = count.max(1);
    // Most blocks of a mask are zeros, of one length.
    let zeros: OnceLock<(usize, Arc<Packed>)> = OnceLock::new();
    let packed: Vec<Arc<Packed>> = (0..count)
        .into_par_iter()
        .map(|n| {
            let (block, last) = (block(n), n + 1 == count);
            if !last && are_zeros(&block) {
                let once = || (block.len(), Arc::new(deflate(&block, false)));
                let (length, packed) = zeros.get_or_init(once);
                if *length == block.len() {
                    return Arc::clone(packed);
                }
            }
            Arc::new(deflate(&block, last))
        })
        .collect();
    let bytes: usize = packed.iter().map(|packed| packed.bytes.len()).sum();
    let mut file = Vec::with_capacity(HEADER.len() + bytes + 8);
    file.extend_from_slice(&HEADER);
    let mut all = Crc::new();
    for packed in packed {
        file.extend_from_slice(&packed.bytes);
        all.combine(&packed.crc);
    }
    file.extend_from_slice(&all.sum().to_le_bytes());
    file.extend_from_slice(&all.amount().to_le_bytes());
    file
}

fn are_zeros(block: &[u8]) -> bool {
    // Stretch by stretch: within one, all are compared at once.
    block
        .chunks(4096)
        .all(|stretch| stretch.iter().fold(0, |any, byte| any | byte) == 0)
}

fn deflate(block: &[u8], last: bool) -> Packed {
    let mut crc = Crc::new();
    crc.update(block);
    let mut packer = Compress::new(Compression::new(1), false);
    let mut bytes = Vec::with_capacity(block.len() / 2 + SLACK);
    let flush = if last {
        FlushCompress::Finish
    } else {
        FlushCompress::Sync
    };
    loop {
        let rest = &block[packer.total_in() as usize..];
        let status = packer.compress_vec(rest, &mut bytes, flush);
        // Packing in memory fails only if it is misused.
        debug_assert!(status.is_ok(), "{status:?}");
        // Where there was room left, everything has been flushed.
        if status.is_err() || bytes.len() < bytes.capacity() {
            return Packed { bytes, crc };
        }
        bytes.reserve(block.len() / 4 + SLACK);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;
    use proptest::prelude::*;

    use super::*;

    #[expect(
        clippy::disallowed_methods,
        reason = "what is unpacked here was packed here"
    )]
    fn unpacked(file: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        // One member: whoever stops at its end has everything.
        GzDecoder::new(file).read_to_end(&mut bytes).unwrap();
        bytes
    }

    proptest! {
        #[test]
        fn blocks_come_back_as_one_stream(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 1..5),
                                          zeros in prop::collection::vec(0_usize..200_000, 0..4), again in any::<bool>()) {
            let mut blocks = blocks;
            blocks.extend(zeros.iter().map(|&n| vec![0; n]));
            if again {
                blocks.extend(zeros.iter().map(|&n| vec![0; n]));
            }
            let file = pack(blocks.len(), |n| blocks[n].clone());
            prop_assert_eq!(unpacked(&file), blocks.concat());
        }
    }

    #[test]
    fn no_block_is_an_empty_file() {
        assert!(unpacked(&pack(0, |_| Vec::new())).is_empty());
    }
}
