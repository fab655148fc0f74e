//! Objects on their way to an archive, by one protocol or another.
//!
//! The texts of errors go into rows, logs and answers: they name protocol, status and SOP class, and nothing that
//! a peer has written or an object holds.
pub(super) mod dimse;
pub(super) mod stow;

use bytes::Bytes;
use dawson_imaging::dicom::write::Kind;
use dicom_dictionary_std::uids;
use dicom_object::{FileMetaTable, InMemDicomObject};
use dicom_transfer_syntax_registry::entries::{
    EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN,
};
use tokio::io::{AsyncRead, AsyncWrite};

/// What an association runs over: TCP, or TLS over it.
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Wire for S {}

/// Bytes before the magic word of a Part 10 file (PS3.10 section 7.1).
const PREAMBLE: usize = 128;
/// Magic word, and the element with the length of the file meta information.
const BEFORE_META: usize = 4 + 12;

/// Why results have not arrived.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    /// The file no longer names the destination.
    #[error("no such destination is configured")]
    Unknown,
    /// Nothing was made that goes there.
    #[error("the job made none of the objects that go there")]
    Nothing,
    /// Why is in the log.
    #[error("the results could not be read, or what becomes of them not be written down")]
    Store,
    /// An artifact is not what this program writes.
    #[error("a result is no DICOM object in Explicit VR Little Endian")]
    NoObject,
    /// It took too long.
    #[error("it took longer than {limit_s} s")]
    TooSlow {
        /// What it may take.
        limit_s: u64,
    },
    /// The destination was asked to commit to what it has stored, and has said nothing.
    #[error("storage commitment: no report came in time")]
    NoReport,
    /// The destination does not commit to some objects; this is the first of them.
    #[error("storage commitment: {missing} of {objects} objects are not committed to, {class}{}",
            reason.map_or_else(String::new, |r| format!(" with failure reason {r:#06X}")))]
    NotCommitted {
        /// Objects that are not on the list.
        missing: usize,
        /// All that were stored.
        objects: usize,
        /// The first one's class.
        class: String,
        /// Why, if that was said (PS3.3 section C.14.1.1).
        reason: Option<u16>,
    },
    /// By C-STORE.
    #[error(transparent)]
    Dimse(#[from] dimse::Failed),
    /// By STOW-RS.
    #[error(transparent)]
    Stow(#[from] stow::Failed),
}

/// A Part 10 file that this program wrote.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) sop_class_uid: String,
    pub(super) sop_instance_uid: String,
    /// The whole file.
    pub(super) file: Bytes,
    data_set_at: usize,
}

impl Object {
    /// Reads the file meta information.
    pub(super) fn read(file: Bytes) -> Result<Self, Failed> {
        let meta = file.get(PREAMBLE..).ok_or(Failed::NoObject)?;
        let meta = FileMetaTable::from_reader(meta).map_err(|_| Failed::NoObject)?;
        let length = usize::try_from(meta.information_group_length).unwrap_or(usize::MAX);
        let data_set_at = (PREAMBLE + BEFORE_META).saturating_add(length);
        if meta.transfer_syntax() != uids::EXPLICIT_VR_LITTLE_ENDIAN || data_set_at >= file.len() {
            return Err(Failed::NoObject);
        }
        Ok(Self {
            sop_class_uid: meta.media_storage_sop_class_uid().to_owned(),
            sop_instance_uid: meta.media_storage_sop_instance_uid().to_owned(),
            file,
            data_set_at,
        })
    }

    /// The data set, Explicit VR Little Endian.
    pub(super) fn data_set(&self) -> Bytes {
        self.file.slice(self.data_set_at..)
    }

    /// The data set in Implicit VR Little Endian; `None` if that cannot be.
    pub(super) fn implicit_data_set(&self) -> Option<Bytes> {
        let explicit = EXPLICIT_VR_LITTLE_ENDIAN.erased();
        let read = InMemDicomObject::read_dataset_with_ts(&self.data_set()[..], &explicit).ok()?;
        encoded(&read, uids::IMPLICIT_VR_LITTLE_ENDIAN)
    }
}

/// A data set in one of the two syntaxes that are sent; `None` if that cannot be.
fn encoded(data_set: &InMemDicomObject, transfer_syntax: &str) -> Option<Bytes> {
    let syntax = match transfer_syntax {
        uids::EXPLICIT_VR_LITTLE_ENDIAN => EXPLICIT_VR_LITTLE_ENDIAN.erased(),
        uids::IMPLICIT_VR_LITTLE_ENDIAN => IMPLICIT_VR_LITTLE_ENDIAN.erased(),
        _ => return None,
    };
    let mut bytes = Vec::new();
    data_set.write_dataset_with_ts(&mut bytes, &syntax).ok()?;
    Some(bytes.into())
}

/// A SOP class as an operator reads it: which result it is, and its UID.
pub(super) fn class_named(sop_class_uid: &str) -> String {
    let kind = Kind::ALL
        .into_iter()
        .find(|kind| kind.sop_class_uid() == sop_class_uid);
    kind.map_or_else(
        || sop_class_uid.to_owned(),
        |kind| format!("{} ({sop_class_uid})", kind.name()),
    )
}
