//! What a receiver must know of an image before it keeps it.
use dicom_object::InMemDicomObject;

use super::header::{self, Image};
use super::{Error, Identity, Limits, Syntax, guard};

/// An MR image's names, and the words by which sites route it.
///
/// The texts are the site's own and may hold anything that somebody typed, a name among it: they are compared
/// and never shown, so `Debug` leaves them out.
#[derive(Clone)]
pub struct Head {
    /// (0008,0016): one of the MR classes.
    pub sop_class_uid: String,
    /// (0008,0018).
    pub sop_instance_uid: String,
    /// (0020,000D).
    pub study_instance_uid: String,
    /// (0020,000E).
    pub series_instance_uid: String,
    /// How the file is written down.
    pub syntax: Syntax,
    /// (0028,0010).
    pub rows: usize,
    /// (0028,0011).
    pub columns: usize,
    /// (0028,0008); 1 in a classic image.
    pub frames: usize,
    /// (0008,1030).
    pub study_description: String,
    /// (0008,103E), in lower case.
    pub series_description: String,
    /// (0018,0015).
    pub body_part: String,
    /// (0020,0011).
    pub series_number: Option<i64>,
    /// (0020,0013).
    pub instance_number: Option<i64>,
    /// Whose it is.
    pub identity: Identity,
}

impl Head {
    /// Reads a file as a study's files are read, guard first; nothing is decoded.
    ///
    /// # Errors
    /// As of a study's file; [`Error::is_of_another_kind`] tells what is no MR image from what is damaged.
    pub fn read(file: &[u8], limits: &Limits) -> Result<Self, Error> {
        let image = Image::read(file, limits)?;
        let attributes: &InMemDicomObject = image.identity.attributes();
        let study_description =
            super::protocol::text(attributes, dicom_dictionary_std::tags::STUDY_DESCRIPTION);
        let protocol = image.frames.first().map(|frame| frame.protocol.clone());
        let protocol = protocol.unwrap_or_default();
        Ok(Self {
            study_description: study_description.unwrap_or_default(),
            series_description: protocol.description,
            instance_number: protocol.instance,
            sop_class_uid: image.sop_class,
            sop_instance_uid: image.sop_instance,
            study_instance_uid: image.study,
            series_instance_uid: image.series,
            syntax: image.syntax,
            rows: image.cells.rows,
            columns: image.cells.columns,
            frames: image.cells.frames,
            body_part: image.body_part,
            series_number: image.series_number,
            identity: image.identity,
        })
    }
}

/// The class and the instance that a file's meta information names, if it names both by UIDs. The beginning of
/// the file is enough; whether the data set is that object is not known.
#[must_use]
pub fn announced(file: &[u8]) -> Option<(String, String)> {
    guard::announced(file)
}

/// What an MR image says besides its pixels: its data set without private groups, pixels and anything longer than
/// 64 KiB. It holds whatever the file's maker wrote, the patient's name among it.
///
/// # Errors
/// As [`Head::read`], but for attributes that an image must have.
pub fn attributes(file: &[u8], limits: &Limits) -> Result<(Syntax, InMemDicomObject), Error> {
    let checked = guard::check(file, limits)?;
    let object = header::parse(&checked.header, checked.syntax)?;
    Ok((checked.syntax, object))
}

/// A data set that came by itself, in a message, guard first: without private groups, pixels and anything longer
/// than 64 KiB.
///
/// # Errors
/// [`Error::TooMuch`], [`Error::Structure`], [`Error::Deflate`], [`Error::Parse`], [`Error::Fault`]
pub fn data_set(bytes: &[u8], syntax: Syntax, limits: &Limits) -> Result<InMemDicomObject, Error> {
    let checked = guard::clean(bytes, syntax, limits)?;
    header::parse(&checked.header, checked.syntax)
}

impl std::fmt::Debug for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Head")
            .field("sop_class_uid", &self.sop_class_uid)
            .field("sop_instance_uid", &self.sop_instance_uid)
            .field("syntax", &self.syntax)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dicom::synthetic::{self, Slice};

    #[test]
    fn an_image_says_its_names_and_prints_nothing_that_was_typed() {
        let mut slice = Slice::at(3);
        slice.more = synthetic::text((0x18, 0x15), b"CS", "HEAD");
        let head = Head::read(&slice.file(), &Limits::CLINICAL).unwrap();
        assert_eq!(head.series_instance_uid, slice.series);
        assert_eq!(head.body_part, "HEAD");
        assert_eq!(
            [head.rows, head.columns],
            [synthetic::ROWS, synthetic::COLUMNS]
        );
        assert!(!format!("{head:?}").contains("HEAD"));
    }

    #[test]
    fn a_file_names_its_object_before_it_is_read() {
        let class = "1.2.840.10008.5.1.4.1.1.2";
        let meta = [
            synthetic::text((2, 2), b"UI", class),
            synthetic::text((2, 3), b"UI", "1.2.3"),
        ];
        let of = |data: &[u8]| [&[0; 128][..], b"DICM", data].concat();
        let names = Some((class.to_owned(), "1.2.3".to_owned()));
        let whole = of(&meta.concat());
        assert_eq!(announced(&whole), names);
        // Behind the names it may be cut off.
        assert_eq!(
            announced(&of(&[&meta.concat()[..], b"\x02\0"].concat())),
            names
        );
        assert_eq!(announced(&whole[..whole.len() - 1]), None);
        assert_eq!(announced(&of(&meta[0])), None);
        let wild = synthetic::text((2, 3), b"UI", "../../etc");
        assert_eq!(announced(&of(&[&meta[0][..], &wild].concat())), None);
        assert_eq!(announced(b"no dicom"), None);
    }

    #[test]
    fn attributes_are_all_but_pixels_and_private_groups() {
        use dicom_dictionary_std::tags;
        let mut slice = Slice::at(3);
        slice.more = [
            synthetic::text((0x18, 0x15), b"CS", "HEAD"),
            synthetic::text((0x29, 0x10), b"LO", "A MAKER"),
        ]
        .concat();
        let (syntax, object) = attributes(&slice.file(), &Limits::CLINICAL).unwrap();
        assert_eq!(syntax, Syntax::ExplicitLittle);
        assert!(object.get(tags::BODY_PART_EXAMINED).is_some());
        assert!(object.get(tags::PIXEL_DATA).is_none());
        assert!(object.get(dicom_core::Tag(0x29, 0x10)).is_none());
    }

    #[test]
    fn what_is_no_mr_image_is_told_from_what_is_damaged() {
        let other = Head::read(b"no dicom at all", &Limits::CLINICAL).unwrap_err();
        assert!(other.is_of_another_kind());
        let mut cut = Slice::at(1).file();
        cut.truncate(cut.len() - 2);
        let damaged = Head::read(&cut, &Limits::CLINICAL).unwrap_err();
        assert!(!damaged.is_of_another_kind());
    }
}
