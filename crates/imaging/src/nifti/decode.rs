//! Bytes to a scan.
use nifti::DataElement;
use nifti::volume::inmem::InMemNiftiVolume;
use rayon::prelude::*;

use super::affine::Placement;
use super::header::{Datatype, Header};
use super::{Error, Limits, unpack, wide};
use crate::volume::{TOGETHER, Volume};

/// One decoded image.
#[derive(Debug, Clone, PartialEq)]
pub struct Scan {
    /// Its values (slope and intercept applied) on its own grid, in file order.
    pub volume: Volume<f32>,
    /// What its header said.
    pub header: Header,
    /// Where it lies, and how that is known.
    pub placement: Placement,
    /// Voxels that held NaN or an infinity; they are 0 in `volume`.
    pub non_finite: usize,
}

/// Decodes a `.nii` or `.nii.gz` file (told apart by content).
///
/// Values are `slope · stored + intercept`, computed in f64 and kept as f32.
///
/// # Errors
/// Every [`Error`]: what the header promises is checked before it is unpacked, and what is
/// unpacked is held against the header.
pub fn decode(file: &[u8], limits: Limits) -> Result<Scan, Error> {
    let (header, data) = unpack::header_and_data(file, limits)?;
    let placement = header.spatial.placement(header.shape)?;
    let (samples, non_finite) = match header.datatype {
        Datatype::Uint8 => values::<u8>(&header, data, f64::from),
        Datatype::Int8 => values::<i8>(&header, data, f64::from),
        Datatype::Uint16 => values::<u16>(&header, data, f64::from),
        Datatype::Int16 => values::<i16>(&header, data, f64::from),
        Datatype::Uint32 => values::<u32>(&header, data, f64::from),
        Datatype::Int32 => values::<i32>(&header, data, f64::from),
        Datatype::Uint64 => values::<u64>(&header, data, |v| v as f64),
        Datatype::Int64 => values::<i64>(&header, data, |v| v as f64),
        Datatype::Float32 => values::<f32>(&header, data, f64::from),
        Datatype::Float64 => values::<f64>(&header, data, |v| v),
        Datatype::Float128 => Ok(scaled(
            &header,
            &wide::numbers(&data, header.endianness),
            |v| v,
        )),
    }?;
    let needed = header.data_bytes();
    let volume = Volume::new(placement.grid, samples)
        .map_err(|_| Error::DataTruncated { found: 0, needed })?;
    Ok(Scan {
        volume,
        header,
        placement,
        non_finite,
    })
}

/// Bytes to values, through the `nifti` crate's typed view of them; and how many were not finite.
fn values<T: DataElement + Copy + Sync>(
    header: &Header,
    data: Vec<u8>,
    widen: impl Fn(T) -> f64 + Sync,
) -> Result<(Vec<f32>, usize), Error> {
    let found = data.len();
    let truncated = |_| Error::DataTruncated {
        found,
        needed: header.data_bytes(),
    };
    let [i, j, k] = header.shape.map(|n| u16::try_from(n).unwrap_or(u16::MAX));
    let stored = InMemNiftiVolume::from_raw_fields(
        [3, i, j, k, 1, 1, 1, 1],
        header.datatype.nifti(),
        1.0,
        0.0,
        data,
        header.endianness,
    )
    .and_then(InMemNiftiVolume::into_nifti_typed_data::<T>)
    .map_err(truncated)?;
    Ok(scaled(header, &stored, widen))
}

/// Stored numbers to values, and how many were not finite.
#[expect(clippy::float_cmp, reason = "a slope of exactly 1 changes nothing")]
fn scaled<T: Copy + Sync>(
    header: &Header,
    stored: &[T],
    widen: impl Fn(T) -> f64 + Sync,
) -> (Vec<f32>, usize) {
    let (slope, intercept) = (header.slope, header.intercept);
    if slope == 1.0 && intercept == 0.0 {
        // Of integers no more is left of this than their conversion; a negative zero becomes a positive one as below.
        return finite(stored, |v| (widen(v) + 0.0) as f32);
    }
    finite(stored, |v| (widen(v) * slope + intercept) as f32)
}

/// The values of stored numbers, 0 for those that are not finite, and how many these are.
fn finite<T: Copy + Sync>(stored: &[T], value: impl Fn(T) -> f32 + Sync) -> (Vec<f32>, usize) {
    let mut samples = vec![0.0; stored.len()];
    let non_finite = samples
        .par_chunks_mut(TOGETHER)
        .zip(stored.par_chunks(TOGETHER))
        .map(|(samples, stored)| {
            // Without a branch, many samples are computed at a time.
            let mut non_finite = 0_u32;
            for (sample, stored) in samples.iter_mut().zip(stored) {
                let value = value(*stored);
                let is_finite = value.is_finite();
                *sample = if is_finite { value } else { 0.0 };
                non_finite = non_finite.wrapping_add(u32::from(!is_finite));
            }
            non_finite as usize
        })
        .sum();
    (samples, non_finite)
}
