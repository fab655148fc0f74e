//! The files of a study, to stacks, and a stack to a scan.
use rayon::prelude::*;

use super::classify::{Classified, classify};
use super::deidentify::checked;
use super::header::Image;
use super::protocol::Protocol;
use super::stack::{Laid, Plane, Refusal, Seen, lay, split};
use super::{Error, Limits, Pseudonyms, Source, SourceImage, guard};
use crate::grid::Grid;
use crate::nifti::SpatialFields;
use crate::volume::Volume;

/// The MR images of one examination, in stacks.
pub struct Study {
    images: Vec<Image>,
    /// Each orientation, echo and time of each series, in the order in which they were sent.
    pub stacks: Vec<Stack>,
    /// Files that are no MR images: reports, DICOMDIR, pictures in colour, other formats.
    pub skipped: usize,
    /// Files of MR images that cannot be read; no stack of their series is a volume.
    pub damaged: Vec<Damaged>,
}

/// The place of a stack among those that were asked for, and what is said of it.
pub type OfStack<T> = (usize, T);

/// A damaged file among sound ones of its series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    /// From 1, in the order in which they were sent.
    pub number: usize,
    /// (0020,000E), which it says before its damage.
    pub series_instance_uid: String,
    /// What is wrong.
    pub reason: Error,
}

/// Planes of a series that lie in one stack.
pub struct Stack {
    /// (0020,000E).
    pub series_instance_uid: String,
    /// Which part of the series, from 1.
    pub number: usize,
    /// What it shows, and why.
    pub classified: Classified,
    /// Images that are missing by the gaps of `InstanceNumber` in its series.
    pub instance_gaps: usize,
    pub(super) protocol: Protocol,
    pub(super) planes: Vec<Plane>,
    pub(super) laid: Result<Laid, Refusal>,
}

impl Stack {
    /// Where its voxels lie, unless it is no volume.
    ///
    /// # Errors
    /// Why it is none.
    pub fn grid(&self) -> Result<Grid, Refusal> {
        self.laid
            .as_ref()
            .map(|laid| laid.grid)
            .map_err(Clone::clone)
    }

    /// The images that it is of, each once with the first of its slices, from 1.
    fn images(&self) -> Result<Vec<(usize, usize)>, Refusal> {
        let laid = self.laid.as_ref().map_err(Clone::clone)?;
        let mut seen = std::collections::BTreeSet::new();
        let slices = laid.slices.iter().zip(1..);
        let planes =
            slices.flat_map(|(planes, slice)| planes.iter().map(move |p| (p.image, slice)));
        Ok(planes.filter(|(n, _)| seen.insert(*n)).collect())
    }

    /// How many images or frames it has.
    #[must_use]
    pub fn planes(&self) -> usize {
        self.planes.len()
    }
}

/// A decoded stack.
#[derive(Debug, Clone)]
pub struct Scan {
    /// Stored · slope + intercept of each image or frame, rows along i and columns along j, slices along the
    /// normal.
    pub volume: Volume<f32>,
    /// The NIfTI fields that place the same grid.
    pub spatial: SpatialFields,
    /// What it was made of.
    pub source: Source,
    /// The type of the stored numbers, such as `uint16`.
    pub datatype: &'static str,
    /// Voxels that held no finite number; they are 0 in `volume`.
    pub non_finite: usize,
}

impl Study {
    /// Reads the headers of a study's files, each checked by the guard before it is parsed. Files that are no
    /// MR images are skipped and counted. The series of a damaged image is no volume, because nobody can tell which of
    /// its slices that would have been: a first or last one is not missed by its place.
    ///
    /// # Errors
    /// [`StudyError`]: a damaged image fails the study if it does not say of which series it is, in words that a sound
    /// image confirms.
    pub fn read(
        files: impl IntoIterator<Item = Vec<u8>>,
        limits: &Limits,
    ) -> Result<Self, StudyError> {
        Self::read_by(Image::read, files, limits)
    }

    /// The same, and keeps what [`Study::nameless`] and [`Study::names_nobody`] need.
    ///
    /// # Errors
    /// As [`Study::read`].
    pub fn read_whole(
        files: impl IntoIterator<Item = Vec<u8>>,
        limits: &Limits,
    ) -> Result<Self, StudyError> {
        Self::read_by(Image::read_whole, files, limits)
    }

    fn read_by(
        read: fn(&[u8], &Limits) -> Result<Image, Error>,
        files: impl IntoIterator<Item = Vec<u8>>,
        limits: &Limits,
    ) -> Result<Self, StudyError> {
        let (mut images, mut skipped, mut bytes) = (Vec::<Image>::new(), 0_usize, 0_usize);
        let mut damaged = Vec::new();
        for (n, file) in files.into_iter().enumerate() {
            let number = n.saturating_add(1);
            bytes = bytes.saturating_add(file.len());
            if number > limits.max_files || bytes > limits.max_study_bytes {
                let (max_files, max_bytes) = (limits.max_files, limits.max_study_bytes);
                return Err(StudyError::TooLarge {
                    max_files,
                    max_bytes,
                });
            }
            match read(&file, limits) {
                Ok(image) => {
                    // A deflated file holds more than its bytes.
                    bytes = bytes.saturating_add(image.packed_bytes().saturating_sub(file.len()));
                    images.push(image);
                }
                Err(reason) if reason.is_of_another_kind() => skipped = skipped.saturating_add(1),
                Err(reason) => match guard::series(&file, limits) {
                    Some(series_instance_uid) => damaged.push(Damaged {
                        number,
                        series_instance_uid,
                        reason,
                    }),
                    None => return Err(StudyError::File { number, reason }),
                },
            }
        }
        let is_confirmed = |one: &Damaged| {
            let mut sound = images.iter();
            sound.any(|image| image.series == one.series_instance_uid)
        };
        if let Some(one) = damaged.iter().find(|one| !is_confirmed(one)) {
            let (number, reason) = (one.number, one.reason.clone());
            return Err(StudyError::File { number, reason });
        }
        let Some(first) = images.first() else {
            return Err(StudyError::NoImages { skipped });
        };
        if images.iter().any(|image| image.study != first.study) {
            return Err(StudyError::SeveralStudies);
        }
        let mut stacks = stacks(&images);
        for stack in &mut stacks {
            let mut of_series = damaged.iter();
            let first = of_series.find(|one| one.series_instance_uid == stack.series_instance_uid);
            if let Some(one) = first {
                stack.laid = Err(Refusal::DamagedImage {
                    file: one.number,
                    reason: one.reason.clone(),
                });
            }
        }
        Ok(Self {
            images,
            stacks,
            skipped,
            damaged,
        })
    }

    /// Decodes a stack.
    ///
    /// # Errors
    /// What [`Stack::grid`] says, [`Refusal::DuplicatePosition`], [`Refusal::Pixels`].
    pub fn decode(&self, stack: &Stack) -> Result<Scan, Refusal> {
        let laid = stack.laid.as_ref().map_err(Clone::clone)?;
        let slices: Vec<Vec<f32>> = laid
            .slices
            .par_iter()
            .enumerate()
            .map(|(n, planes)| self.slice(n.saturating_add(1), planes))
            .collect::<Result<_, _>>()?;
        let mut samples = Vec::with_capacity(laid.grid.voxels());
        for slice in &slices {
            samples.extend_from_slice(slice);
        }
        let mut non_finite: usize = 0;
        for sample in &mut samples {
            if !sample.is_finite() {
                *sample = 0.0;
                non_finite = non_finite.saturating_add(1);
            }
        }
        let short = Refusal::TooFewSlices {
            found: slices.len(),
        };
        Ok(Scan {
            volume: Volume::new(laid.grid, samples).map_err(|_| short.clone())?,
            spatial: SpatialFields::of(&laid.grid),
            source: self.source(laid).ok_or(short)?,
            datatype: self.datatype(laid),
            non_finite,
        })
    }

    /// The files of the images of stacks, each once, in the order of the stacks and their slices, without what says whose they are;
    /// with each the place of its stack among `stacks`. An image is whole, whatever of its frames a stack is of.
    ///
    /// # Errors
    /// As [`Study::names_nobody`], or what decoding says, with the place of the stack.
    pub fn nameless(
        &self,
        stacks: &[&Stack],
        pseudonyms: &Pseudonyms,
    ) -> Result<Vec<OfStack<Vec<u8>>>, OfStack<Refusal>> {
        let mut seen = std::collections::BTreeSet::new();
        let mut wanted = Vec::new();
        for (place, stack) in stacks.iter().enumerate() {
            let images = stack.images().map_err(|refusal| (place, refusal))?;
            wanted.extend(
                images
                    .into_iter()
                    .filter(|(n, _)| seen.insert(*n))
                    .map(|(n, slice)| (place, n, slice)),
            );
        }
        wanted
            .into_par_iter()
            .filter_map(|(place, n, slice)| Some((place, self.images.get(n)?, slice)))
            .map(|(place, image, slice)| {
                let made = pseudonyms.image(image);
                let refused = |reason| (place, Refusal::Pixels { slice, reason });
                made.map(|made| (place, made)).map_err(refused)
            })
            .collect()
    }

    /// Whether no names stand in the pixels of a stack, by what its images say.
    ///
    /// # Errors
    /// What [`Stack::grid`] says; [`Refusal::Pixels`] for an image with names, and for all of a study that was not read
    /// by [`Study::read_whole`].
    pub fn names_nobody(&self, stack: &Stack) -> Result<(), Refusal> {
        let images = stack.images()?;
        let images = images.into_par_iter();
        images.try_for_each(|(n, slice)| {
            let checked = self
                .images
                .get(n)
                .map_or(Ok(()), |image| checked(image).map(drop));
            checked.map_err(|reason| Refusal::Pixels { slice, reason })
        })
    }

    /// The samples of the images behind stacks, of all their frames.
    #[must_use]
    pub fn samples_behind(&self, stacks: &[&Stack]) -> u64 {
        let images = stacks.iter().filter_map(|stack| stack.images().ok());
        let images: std::collections::BTreeSet<usize> = images.flatten().map(|(n, _)| n).collect();
        let images = images.into_iter().filter_map(|n| self.images.get(n));
        let samples = |image: &Image| image.cells.in_frame().saturating_mul(image.cells.frames);
        images.fold(0, |sum: u64, image| {
            sum.saturating_add(samples(image) as u64)
        })
    }

    /// Decodes every image and frame by itself, whether it is part of a volume or not: columns run fastest.
    #[must_use]
    pub fn decode_all(&self) -> Vec<Result<Vec<f32>, Error>> {
        let frame = |image: &Image, n| {
            let mut values = Vec::new();
            image.values(n, &mut values).map(|()| values)
        };
        self.images
            .iter()
            .flat_map(|image| (0..image.frames.len()).map(move |n| frame(image, n)))
            .collect()
    }

    /// The values of a slice; all planes at its position must have the same.
    fn slice(&self, slice: usize, planes: &[Plane]) -> Result<Vec<f32>, Refusal> {
        let mut all = Vec::new();
        for plane in planes {
            let image = self.images.get(plane.image);
            let image = image.ok_or(Refusal::TooFewSlices { found: 0 })?;
            let mut values = Vec::with_capacity(image.cells.in_frame());
            image
                .values(plane.frame, &mut values)
                .map_err(|reason| Refusal::Pixels { slice, reason })?;
            if all.is_empty() {
                all = values;
            } else if all != values {
                return Err(Refusal::DuplicatePosition { slice });
            }
        }
        Ok(all)
    }

    fn datatype(&self, laid: &Laid) -> &'static str {
        let plane = laid.slices.first().and_then(|planes| planes.first());
        let image = plane.and_then(|plane| self.images.get(plane.image));
        match image.map(|image| (image.cells.allocated, image.cells.signed)) {
            Some((8, false)) => "uint8",
            Some((8, true)) => "int8",
            Some((32, false)) => "uint32",
            Some((32, true)) => "int32",
            Some((_, true)) => "int16",
            _ => "uint16",
        }
    }

    fn source(&self, laid: &Laid) -> Option<Source> {
        let first = self.images.get(laid.slices.first()?.first()?.image)?;
        let image = |planes: &Vec<Plane>| {
            let plane = planes.first()?;
            let image = self.images.get(plane.image)?;
            let frame = image.frames.get(plane.frame)?;
            Some(SourceImage {
                sop_class_uid: image.sop_class.clone(),
                sop_instance_uid: image.sop_instance.clone(),
                frame_number: frame.number,
                position_mm: frame.position?,
            })
        };
        Some(Source {
            study_instance_uid: first.study.clone(),
            series_instance_uid: first.series.clone(),
            frame_of_reference_uid: first.frame_of_reference.clone(),
            position_reference_indicator: first.position_reference.clone(),
            orientation: laid.orientation,
            pixel_spacing_mm: laid.spacing,
            slice_spacing_mm: laid.step_mm,
            rows: u16::try_from(first.cells.rows).ok()?,
            columns: u16::try_from(first.cells.columns).ok()?,
            images: laid.slices.iter().map(image).collect::<Option<_>>()?,
            identity: first.identity.clone(),
        })
    }
}

impl Error {
    /// Whether a file is sound but no image that could be part of a stack.
    #[must_use]
    pub fn is_of_another_kind(&self) -> bool {
        match self {
            Self::NotDicom { .. } | Self::SopClass { .. } => true,
            Self::Attribute { name, .. } => *name == "SamplesPerPixel",
            Self::Missing { name } => name.starts_with("Photometric"),
            _ => false,
        }
    }
}

/// Why files are not a study.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StudyError {
    /// A file that is damaged, or not read.
    #[error("file {number}: {reason}")]
    File {
        /// From 1, in the order in which they were sent.
        number: usize,
        /// What is wrong.
        reason: Error,
    },
    /// No MR image among the files.
    #[error("no MR image among the files; {skipped} are something else")]
    NoImages {
        /// Files that are no MR images.
        skipped: usize,
    },
    /// Images of several examinations.
    #[error("the images are of several studies: their StudyInstanceUIDs differ")]
    SeveralStudies,
    /// More files or bytes than the limits.
    #[error("more than {max_files} files or {max_bytes} bytes")]
    TooLarge {
        /// The most files.
        max_files: usize,
        /// The most bytes.
        max_bytes: usize,
    },
}

fn stacks(images: &[Image]) -> Vec<Stack> {
    let mut series: Vec<(&str, Vec<Seen<'_>>)> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for (n, image) in images.iter().enumerate() {
        let place = *places.entry(image.series.as_str()).or_insert_with(|| {
            series.push((&image.series, Vec::new()));
            series.len().saturating_sub(1)
        });
        if let Some((_, seen)) = series.get_mut(place) {
            let planes = image.frames.iter().enumerate().map(|(m, frame)| Seen {
                plane: Plane { image: n, frame: m },
                image,
                frame,
            });
            seen.extend(planes);
        }
    }
    series
        .into_iter()
        .flat_map(|(uid, seen)| parts(uid, &seen))
        .collect()
}

fn parts(uid: &str, seen: &[Seen<'_>]) -> Vec<Stack> {
    let instance_gaps = instance_gaps(seen);
    let part = |number, planes: &[Seen<'_>], laid| {
        let protocol = planes.first().map(|seen| seen.frame.protocol.clone());
        let protocol = protocol.unwrap_or_default();
        Stack {
            series_instance_uid: uid.to_owned(),
            number,
            classified: classify(&protocol),
            instance_gaps,
            planes: planes.iter().map(|seen| seen.plane).collect(),
            protocol,
            laid,
        }
    };
    match split(seen) {
        Ok(stacks) => stacks
            .iter()
            .zip(1..)
            .map(|(planes, number)| part(number, planes, lay(planes)))
            .collect(),
        Err(refusal) => vec![part(1, seen, Err(refusal))],
    }
}

/// How many numbers are left out between the least and the greatest `InstanceNumber` of a series.
fn instance_gaps(seen: &[Seen<'_>]) -> usize {
    let mut numbers: Vec<i64> = seen
        .iter()
        .filter_map(|seen| seen.frame.protocol.instance)
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    let (Some(first), Some(last)) = (numbers.first(), numbers.last()) else {
        return 0;
    };
    let span = last.saturating_sub(*first).saturating_add(1);
    usize::try_from(span).map_or(0, |span| span.saturating_sub(numbers.len()))
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "whole numbers stay whole")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dicom::synthetic::{COLUMNS, EXPLICIT, ROWS, Slice, file, fragments, head, rle};
    use crate::dicom::{NoChoice, choose};

    fn read(slices: &[Slice]) -> Study {
        Study::read(slices.iter().map(Slice::file), &Limits::CLINICAL).unwrap()
    }

    fn only(study: &Study) -> Result<Scan, Refusal> {
        assert_eq!(study.stacks.len(), 1);
        study.decode(&study.stacks[0])
    }

    proptest! {
        #[test]
        fn the_order_of_the_files_and_their_numbers_do_not_matter(order in Just((0..20).collect::<Vec<usize>>()).prop_shuffle()) {
            let sorted = only(&read(&head())).unwrap();
            let mut shuffled: Vec<Slice> = order.iter().map(|&k| head()[k].clone()).collect();
            for (n, slice) in shuffled.iter_mut().enumerate() {
                slice.instance = n + 1;
            }
            let found = only(&read(&shuffled)).unwrap();
            prop_assert_eq!(&found.volume, &sorted.volume);
            prop_assert_eq!(found.source.images.len(), 20);
            prop_assert!(found.source.images.windows(2).all(|p| p[0].position_mm[2] < p[1].position_mm[2]));
        }

        #[test]
        fn a_slice_that_is_left_out_is_missed(gone in 1_usize..19) {
            let mut slices = head();
            slices.remove(gone);
            let refusal = only(&read(&slices)).unwrap_err();
            let Refusal::MissingSlice { after, missing, .. } = refusal else {
                return Err(TestCaseError::fail(refusal.to_string()));
            };
            prop_assert_eq!((after, missing), (gone, 1));
        }

        #[test]
        fn a_slice_out_of_its_place_is_refused(k in 1_usize..19, axis in 0_usize..3, by in 0.3_f64..2.0) {
            let mut slices = head();
            slices[k].position[axis] += by;
            let found = only(&read(&slices)).unwrap_err().name();
            prop_assert_eq!(found, if axis == 2 { "uneven_spacing" } else { "sheared" });
        }
    }

    #[test]
    fn voxels_lie_where_their_position_and_orientation_say() {
        let scan = only(&read(&head())).unwrap();
        let grid = scan.volume.grid();
        assert_eq!(grid.shape(), [COLUMNS, ROWS, 20]);
        // Between rows 2 mm, between columns 1.5; LPS to RAS turns x and y round.
        let at = grid.centre_of([1, 1, 1]).0;
        assert_eq!(at.to_array(), [10.0 - 1.5, 20.0 - 2.0, -35.0]);
        assert_eq!(
            scan.volume.samples()[grid.offset([3, 2, 7])],
            (700 + 2 * COLUMNS + 3) as f32
        );
        let placed = scan.spatial.placement(grid.shape()).unwrap();
        assert!(placed.grid.disagreement_mm(grid.affine()) < 1e-6);
    }

    #[test]
    fn every_slice_has_its_own_slope() {
        let mut slices = head();
        slices[3].slope = 0.5;
        let scan = only(&read(&slices)).unwrap();
        let at = |k| scan.volume.samples()[scan.volume.grid().offset([1, 0, k])];
        assert_eq!((at(2), at(3), at(4)), (201.0, 150.5, 401.0));
    }

    #[test]
    fn a_copy_at_the_same_place_is_dropped_and_another_image_refused() {
        let mut slices = head();
        let mut copy = slices[5].clone();
        copy.instance = 99;
        slices.push(copy);
        assert_eq!(only(&read(&slices)).unwrap().source.images.len(), 20);
        slices[20].pixels[7] += 1;
        let refusal = only(&read(&slices)).unwrap_err();
        assert_eq!(refusal, Refusal::DuplicatePosition { slice: 6 });
        slices[20] = slices[5].clone();
        slices[20].position[2] = 60.0;
        assert_eq!(
            only(&read(&slices)).unwrap_err(),
            Refusal::DuplicateInstance
        );
    }

    #[test]
    fn echoes_and_times_of_a_series_are_told_apart() {
        let mut slices = head();
        slices.extend(head().into_iter().map(|slice| Slice {
            instance: slice.instance + 20,
            echo_ms: 12.0,
            ..slice
        }));
        assert_eq!(read(&slices).stacks.len(), 2);
        let mut slices = head();
        slices.extend(head().into_iter().map(|slice| Slice {
            instance: slice.instance + 20,
            acquisition: 2,
            ..slice
        }));
        let study = read(&slices);
        assert_eq!(study.stacks.len(), 2);
        assert!(study.stacks.iter().all(|stack| study.decode(stack).is_ok()));
    }

    #[test]
    fn the_report_of_a_choice_holds_no_text_that_somebody_typed() {
        let study = read(&head());
        let choice = choose(&study, &[], &[]).unwrap();
        let shown = format!("{choice:?} {:?}", only(&study).unwrap().source);
        assert!(
            shown.contains("1.2.3") && !shown.contains("Jane"),
            "{shown}"
        );
        assert_eq!(choice.series[0].because.first().unwrap(), "EchoTime 120 ms");
    }

    #[test]
    fn a_series_that_is_no_volume_is_refused_as_the_flair() {
        let study = read(&head()[..9]);
        let found = choose(&study, &[], &[]).unwrap_err();
        let NoChoice::Refused { reason, .. } = found else {
            panic!("{found}");
        };
        assert_eq!(reason, Refusal::TooFewSlices { found: 9 });
    }

    #[test]
    fn run_length_encoded_slices_are_the_same_volume() {
        let packed = head().into_iter().map(|slice| {
            let mut data = slice.header();
            data.extend(fragments(&[rle(&slice.pixels)]));
            file("1.2.840.10008.1.2.5", &data)
        });
        let study = Study::read(packed, &Limits::CLINICAL).unwrap();
        assert_eq!(
            only(&study).unwrap().volume,
            only(&read(&head())).unwrap().volume
        );
    }

    #[test]
    fn two_studies_at_once_and_none_at_all_are_refused() {
        let mut other = head()[0].data();
        let at = other.windows(4).position(|w| w == b"1.2\0").unwrap();
        other[at..at + 3].copy_from_slice(b"1.3");
        let both = [head()[0].file(), file(EXPLICIT, &other)];
        let found = Study::read(both, &Limits::CLINICAL).err();
        assert_eq!(found, Some(StudyError::SeveralStudies));
        let found = Study::read([b"%PDF".to_vec()], &Limits::CLINICAL).err();
        assert_eq!(found, Some(StudyError::NoImages { skipped: 1 }));
    }

    /// A head, and a second series of it behind the first.
    fn two_series() -> Vec<Slice> {
        let second = head().into_iter().map(|slice| Slice {
            series: "1.2.3.4",
            instance: slice.instance + 100,
            ..slice
        });
        head().into_iter().chain(second).collect()
    }

    #[test]
    fn a_damaged_image_bars_its_series_and_no_other() {
        let sound: Vec<Vec<u8>> = two_series().iter().map(Slice::file).collect();
        // In its pixels, at every slice: the first and the last would not be missed by their places.
        for n in 20..40 {
            let mut files = sound.clone();
            let cut = files[n].len() - 2;
            files[n].truncate(cut);
            let study = Study::read(files, &Limits::CLINICAL).unwrap();
            assert_eq!(study.damaged.len(), 1);
            let one = &study.damaged[0];
            assert_eq!(
                (one.number, one.series_instance_uid.as_str()),
                (n + 1, "1.2.3.4")
            );
            assert_eq!(study.stacks.len(), 2);
            assert!(study.stacks[0].grid().is_ok());
            let refusal = study.decode(&study.stacks[1]).unwrap_err();
            assert_eq!(refusal.name(), "damaged_image");
            assert!(
                refusal.to_string().contains(&format!("file {}", n + 1)),
                "{refusal}"
            );
            let choice = choose(&study, &[], &[]).unwrap();
            assert_eq!(choice.chosen.len(), 1);
            assert_eq!(choice.chosen[0].stack, 0);
        }
    }

    #[test]
    fn a_damaged_image_that_does_not_say_its_series_fails_the_study_by_its_number() {
        let sound: Vec<Vec<u8>> = two_series().iter().map(Slice::file).collect();
        let fails = |damage: &dyn Fn(&mut Vec<u8>)| {
            let mut files = sound.clone();
            damage(&mut files[24]);
            let found = Study::read(files, &Limits::CLINICAL).err();
            assert!(
                matches!(found, Some(StudyError::File { number: 25, .. })),
                "{found:?}"
            );
        };
        // Cut off before it says so.
        let at = |file: &[u8]| {
            file.windows(4)
                .position(|w| w == [0x20, 0, 0x0e, 0])
                .unwrap()
        };
        fails(&|file| file.truncate(at(file) + 4));
        // It names a series that nobody else is of: the damage may be there.
        fails(&|file| {
            let at = at(file) + 8;
            file[at] = b'7';
            let cut = file.len() - 2;
            file.truncate(cut);
        });
    }
}
