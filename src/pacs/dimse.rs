//! The command sets of DIMSE messages (PS3.7 sections 9.3, 10.3 and annex E.1): one of the fields of group 0000.
//!
//! A command set is Implicit VR Little Endian whatever was negotiated for data sets, holds no sequences, and
//! comes from outside: it is read element by element, without recursion, within a bound. Data sets are not read
//! here, and no socket is known.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
use dawson_imaging::dicom::is_uid;
use dicom_dictionary_std::uids;

/// The most bytes of a command set; real ones have less than 500.
pub const MOST_BYTES: usize = 16 << 10;
/// The longest Error Comment (PS3.7 annex C).
const MOST_COMMENT: usize = 64;
/// Command Data Set Type of a message without data set (PS3.7 annex E.1).
const NO_DATA_SET: u16 = 0x0101;
/// Command Data Set Type of a message with one: any other value.
const A_DATA_SET: u16 = 0x0001;
/// Priority MEDIUM.
const MEDIUM: u16 = 0;
/// The bit that tells a response from its request.
const RESPONSE: u16 = 0x8000;

/// Status of success (PS3.7 annex C).
pub const SUCCESS: u16 = 0x0000;

/// Element numbers of group 0000 (PS3.7 annex E.1).
mod element {
    pub(super) const GROUP_LENGTH: u16 = 0x0000;
    pub(super) const AFFECTED_SOP_CLASS_UID: u16 = 0x0002;
    pub(super) const REQUESTED_SOP_CLASS_UID: u16 = 0x0003;
    pub(super) const COMMAND_FIELD: u16 = 0x0100;
    pub(super) const MESSAGE_ID: u16 = 0x0110;
    pub(super) const MESSAGE_ID_BEING_RESPONDED_TO: u16 = 0x0120;
    pub(super) const PRIORITY: u16 = 0x0700;
    pub(super) const COMMAND_DATA_SET_TYPE: u16 = 0x0800;
    pub(super) const STATUS: u16 = 0x0900;
    pub(super) const ERROR_COMMENT: u16 = 0x0902;
    pub(super) const AFFECTED_SOP_INSTANCE_UID: u16 = 0x1000;
    pub(super) const REQUESTED_SOP_INSTANCE_UID: u16 = 0x1001;
    pub(super) const EVENT_TYPE_ID: u16 = 0x1002;
    pub(super) const ACTION_TYPE_ID: u16 = 0x1008;
}

/// Which message a command set is (Command Field).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Message {
    /// C-STORE request.
    CStoreRq,
    /// C-STORE response.
    CStoreRsp,
    /// C-ECHO request.
    #[default]
    CEchoRq,
    /// C-ECHO response.
    CEchoRsp,
    /// N-EVENT-REPORT request.
    NEventReportRq,
    /// N-EVENT-REPORT response.
    NEventReportRsp,
    /// N-ACTION request.
    NActionRq,
    /// N-ACTION response.
    NActionRsp,
    /// Any other, by its number.
    Other(u16),
}

impl Message {
    const KNOWN: [(Self, u16); 8] = [
        (Self::CStoreRq, 0x0001),
        (Self::CStoreRsp, 0x8001),
        (Self::CEchoRq, 0x0030),
        (Self::CEchoRsp, 0x8030),
        (Self::NEventReportRq, 0x0100),
        (Self::NEventReportRsp, 0x8100),
        (Self::NActionRq, 0x0130),
        (Self::NActionRsp, 0x8130),
    ];

    /// The message of that number.
    #[must_use]
    pub fn of(number: u16) -> Self {
        let known = Self::KNOWN.iter().find(|(_, n)| *n == number);
        known.map_or(Self::Other(number), |(message, _)| *message)
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u16 {
        if let Self::Other(number) = self {
            return number;
        }
        let known = Self::KNOWN.iter().find(|(message, _)| *message == self);
        known.map_or(0, |(_, number)| *number)
    }

    /// Whether it answers another.
    #[must_use]
    pub fn is_response(self) -> bool {
        self.number() & RESPONSE != 0
    }
}

/// A command set. A field that is `None` is not in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Command {
    /// Which message.
    pub message: Message,
    /// Whether a data set follows.
    pub has_data_set: bool,
    /// (0000,0002)
    pub affected_sop_class_uid: Option<String>,
    /// (0000,0003)
    pub requested_sop_class_uid: Option<String>,
    /// (0000,0110)
    pub message_id: Option<u16>,
    /// (0000,0120)
    pub message_id_being_responded_to: Option<u16>,
    /// (0000,0700): 0 medium, 1 high, 2 low.
    pub priority: Option<u16>,
    /// (0000,0900)
    pub status: Option<u16>,
    /// (0000,0902)
    pub error_comment: Option<String>,
    /// (0000,1000)
    pub affected_sop_instance_uid: Option<String>,
    /// (0000,1001)
    pub requested_sop_instance_uid: Option<String>,
    /// (0000,1002)
    pub event_type_id: Option<u16>,
    /// (0000,1008)
    pub action_type_id: Option<u16>,
}

/// Bytes that are no command set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// More than a command set ever has.
    #[error("a command set of {bytes} bytes, at most {MOST_BYTES} are read")]
    TooLong {
        /// What came.
        bytes: usize,
    },
    /// An element reaches beyond the end.
    #[error("the command set ends within the element at byte {at}")]
    Cut {
        /// Where the element begins.
        at: usize,
    },
    /// An element of another group.
    #[error("element ({group:04X},{element:04X}) is not of a command set")]
    Group {
        /// Its group.
        group: u16,
        /// Its number.
        element: u16,
    },
    /// Elements do not ascend, or one is there twice.
    #[error("element (0000,{element:04X}) is out of order")]
    Order {
        /// The one that comes too late.
        element: u16,
    },
    /// A value that its element cannot have.
    #[error("element (0000,{element:04X}) has a wrong value of {bytes} bytes")]
    Value {
        /// Its number.
        element: u16,
        /// Length of the value.
        bytes: usize,
    },
    /// Without it nobody knows what is said.
    #[error("the command set has no element (0000,{element:04X})")]
    Missing {
        /// Its number.
        element: u16,
    },
}

impl Command {
    /// Asks for a C-ECHO.
    #[must_use]
    pub fn c_echo_rq(message_id: u16) -> Self {
        Self {
            message: Message::CEchoRq,
            affected_sop_class_uid: Some(uids::VERIFICATION.to_owned()),
            message_id: Some(message_id),
            ..Self::default()
        }
    }

    /// Announces the data set of an object that is to be stored.
    #[must_use]
    pub fn c_store_rq(message_id: u16, sop_class_uid: &str, sop_instance_uid: &str) -> Self {
        Self {
            message: Message::CStoreRq,
            has_data_set: true,
            affected_sop_class_uid: Some(sop_class_uid.to_owned()),
            affected_sop_instance_uid: Some(sop_instance_uid.to_owned()),
            message_id: Some(message_id),
            priority: Some(MEDIUM),
            ..Self::default()
        }
    }

    /// Announces the data set that says which stored objects a peer is asked to commit to (PS3.4 section J.3.2).
    #[must_use]
    pub fn commitment_rq(message_id: u16) -> Self {
        Self {
            message: Message::NActionRq,
            has_data_set: true,
            requested_sop_class_uid: Some(uids::STORAGE_COMMITMENT_PUSH_MODEL.to_owned()),
            requested_sop_instance_uid: Some(
                uids::STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE.to_owned(),
            ),
            message_id: Some(message_id),
            action_type_id: Some(1),
            ..Self::default()
        }
    }

    /// The response to this request, without data set: names what the request named.
    #[must_use]
    pub fn response(&self, status: u16) -> Self {
        let class = self.affected_sop_class_uid.as_ref();
        let instance = self.affected_sop_instance_uid.as_ref();
        Self {
            message: Message::of(self.message.number() | RESPONSE),
            affected_sop_class_uid: class.or(self.requested_sop_class_uid.as_ref()).cloned(),
            affected_sop_instance_uid: instance
                .or(self.requested_sop_instance_uid.as_ref())
                .cloned(),
            message_id_being_responded_to: self.message_id,
            status: Some(status),
            event_type_id: self.event_type_id,
            action_type_id: self.action_type_id,
            ..Self::default()
        }
    }

    /// The bytes of the command set. An Error Comment is cut to the 64 characters that the standard gives it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut elements = Vec::with_capacity(256);
        let uid = |out: &mut Vec<u8>, number, uid: Option<&String>| {
            if let Some(uid) = uid {
                put(out, number, uid.as_bytes(), 0);
            }
        };
        let short = |out: &mut Vec<u8>, number, value: Option<u16>| {
            if let Some(value) = value {
                put(out, number, &value.to_le_bytes(), 0);
            }
        };
        let out = &mut elements;
        uid(
            out,
            element::AFFECTED_SOP_CLASS_UID,
            self.affected_sop_class_uid.as_ref(),
        );
        uid(
            out,
            element::REQUESTED_SOP_CLASS_UID,
            self.requested_sop_class_uid.as_ref(),
        );
        short(out, element::COMMAND_FIELD, Some(self.message.number()));
        short(out, element::MESSAGE_ID, self.message_id);
        short(
            out,
            element::MESSAGE_ID_BEING_RESPONDED_TO,
            self.message_id_being_responded_to,
        );
        short(out, element::PRIORITY, self.priority);
        let data_set = if self.has_data_set {
            A_DATA_SET
        } else {
            NO_DATA_SET
        };
        short(out, element::COMMAND_DATA_SET_TYPE, Some(data_set));
        short(out, element::STATUS, self.status);
        if let Some(comment) = &self.error_comment {
            let comment: String = comment.chars().take(MOST_COMMENT).collect();
            put(out, element::ERROR_COMMENT, comment.as_bytes(), b' ');
        }
        uid(
            out,
            element::AFFECTED_SOP_INSTANCE_UID,
            self.affected_sop_instance_uid.as_ref(),
        );
        uid(
            out,
            element::REQUESTED_SOP_INSTANCE_UID,
            self.requested_sop_instance_uid.as_ref(),
        );
        short(out, element::EVENT_TYPE_ID, self.event_type_id);
        short(out, element::ACTION_TYPE_ID, self.action_type_id);

        let mut whole = Vec::with_capacity(elements.len().saturating_add(12));
        let length = u32::try_from(elements.len()).unwrap_or(u32::MAX);
        put(&mut whole, element::GROUP_LENGTH, &length.to_le_bytes(), 0);
        whole.append(&mut elements);
        whole
    }

    /// Reads a command set. Elements that are not fields here are passed over; the group's own length is not
    /// believed.
    ///
    /// # Errors
    /// [`Error`]
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MOST_BYTES {
            return Err(Error::TooLong { bytes: bytes.len() });
        }
        let mut command = Self::default();
        let (mut message, mut data_set, mut last) = (None, None, None);
        let mut rest = bytes;
        while !rest.is_empty() {
            let at = bytes.len().saturating_sub(rest.len());
            let (number, value, after) = next(rest, at)?;
            rest = after;
            if last.is_some_and(|last| number <= last) {
                return Err(Error::Order { element: number });
            }
            last = Some(number);
            match number {
                element::AFFECTED_SOP_CLASS_UID => {
                    command.affected_sop_class_uid = uid(number, value)?;
                }
                element::REQUESTED_SOP_CLASS_UID => {
                    command.requested_sop_class_uid = uid(number, value)?;
                }
                element::COMMAND_FIELD => message = Some(short(number, value)?),
                element::MESSAGE_ID => command.message_id = Some(short(number, value)?),
                element::MESSAGE_ID_BEING_RESPONDED_TO => {
                    command.message_id_being_responded_to = Some(short(number, value)?);
                }
                element::PRIORITY => command.priority = Some(short(number, value)?),
                element::COMMAND_DATA_SET_TYPE => data_set = Some(short(number, value)?),
                element::STATUS => command.status = Some(short(number, value)?),
                element::ERROR_COMMENT => command.error_comment = Some(text(value)),
                element::AFFECTED_SOP_INSTANCE_UID => {
                    command.affected_sop_instance_uid = uid(number, value)?;
                }
                element::REQUESTED_SOP_INSTANCE_UID => {
                    command.requested_sop_instance_uid = uid(number, value)?;
                }
                element::EVENT_TYPE_ID => command.event_type_id = Some(short(number, value)?),
                element::ACTION_TYPE_ID => command.action_type_id = Some(short(number, value)?),
                _ => {}
            }
        }
        command.message = Message::of(message.ok_or(Error::Missing {
            element: element::COMMAND_FIELD,
        })?);
        command.has_data_set = data_set.ok_or(Error::Missing {
            element: element::COMMAND_DATA_SET_TYPE,
        })? != NO_DATA_SET;
        Ok(command)
    }
}

/// Appends an element; the value is made even with `pad`.
fn put(out: &mut Vec<u8>, number: u16, value: &[u8], pad: u8) {
    let odd = !value.len().is_multiple_of(2);
    let length = value.len().saturating_add(usize::from(odd));
    out.extend_from_slice(&0_u16.to_le_bytes());
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(value);
    if odd {
        out.push(pad);
    }
}

/// The element that `bytes` begin with, which lie `at` in the whole: number, value, and what follows.
fn next(bytes: &[u8], at: usize) -> Result<(u16, &[u8], &[u8]), Error> {
    let cut = Error::Cut { at };
    let (group, rest) = bytes.split_first_chunk().ok_or(cut.clone())?;
    let (number, rest) = rest.split_first_chunk().ok_or(cut.clone())?;
    let (length, rest) = rest.split_first_chunk().ok_or(cut.clone())?;
    let (group, element) = (u16::from_le_bytes(*group), u16::from_le_bytes(*number));
    if group != 0 {
        return Err(Error::Group { group, element });
    }
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let (value, after) = rest.split_at_checked(length).ok_or(cut)?;
    Ok((element, value, after))
}

fn short(element: u16, value: &[u8]) -> Result<u16, Error> {
    let value = <[u8; 2]>::try_from(value).map_err(|_| Error::Value {
        element,
        bytes: value.len(),
    })?;
    Ok(u16::from_le_bytes(value))
}

/// A UID without its padding; none if nothing is left.
fn uid(element: u16, value: &[u8]) -> Result<Option<String>, Error> {
    let wrong = Error::Value {
        element,
        bytes: value.len(),
    };
    let text = std::str::from_utf8(value).map_err(|_| wrong.clone())?;
    let text = text.trim_matches(['\0', ' ']);
    match text {
        "" => Ok(None),
        uid if is_uid(uid) => Ok(Some(uid.to_owned())),
        _ => Err(wrong),
    }
}

/// What can be read of a comment; it is nothing to rely on.
fn text(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    let plain = text.chars().filter(|c| !c.is_control());
    plain
        .take(MOST_COMMENT)
        .collect::<String>()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn uids()(uid in proptest::option::of("[0-9][0-9.]{0,63}")) -> Option<String> { uid }
    }

    prop_compose! {
        fn commands()(
            (number, has_data_set) in any::<(u16, bool)>(),
            shorts in any::<[Option<u16>; 6]>(),
            uids in [uids(), uids(), uids(), uids()],
            error_comment in proptest::option::of("[a-z]([a-z ]{0,30}[a-z])?"),
        ) -> Command {
            let [affected_class, requested_class, affected_instance, requested_instance] = uids;
            Command {
                message: Message::of(number),
                has_data_set,
                affected_sop_class_uid: affected_class,
                requested_sop_class_uid: requested_class,
                message_id: shorts[0],
                message_id_being_responded_to: shorts[1],
                priority: shorts[2],
                status: shorts[3],
                error_comment,
                affected_sop_instance_uid: affected_instance,
                requested_sop_instance_uid: requested_instance,
                event_type_id: shorts[4],
                action_type_id: shorts[5],
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(command in commands()) {
            prop_assert_eq!(Command::decode(&command.encode()), Ok(command));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _read = Command::decode(&bytes);
        }

        #[test]
        fn what_is_cut_is_never_taken_for_the_whole(command in commands(), keep in 0.0..1.0_f64) {
            let bytes = command.encode();
            let kept = bytes.iter().take((bytes.len() as f64 * keep) as usize);
            let kept: Vec<u8> = kept.copied().collect();
            prop_assert_ne!(Command::decode(&kept), Ok(command));
        }
    }

    #[test]
    fn a_c_store_request_is_the_standard_s() {
        let bytes = Command::c_store_rq(7, "1.2.3", "1.2.34").encode();
        let expected: Vec<u8> = [
            &[0, 0, 0, 0, 4, 0, 0, 0, 68, 0, 0, 0][..],
            &[0, 0, 2, 0, 6, 0, 0, 0, b'1', b'.', b'2', b'.', b'3', 0],
            &[0, 0, 0, 1, 2, 0, 0, 0, 1, 0],
            &[0, 0, 0x10, 1, 2, 0, 0, 0, 7, 0],
            &[0, 0, 0, 7, 2, 0, 0, 0, 0, 0],
            &[0, 0, 0, 8, 2, 0, 0, 0, 1, 0],
            &[
                0, 0, 0, 0x10, 6, 0, 0, 0, b'1', b'.', b'2', b'.', b'3', b'4',
            ],
        ]
        .concat();
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_response_names_what_its_request_named() {
        // Not served, and refused in its own words: storage commitment.
        let request = Command {
            message: Message::NActionRq,
            has_data_set: true,
            requested_sop_class_uid: Some("1.2.840.10008.1.20.1".to_owned()),
            requested_sop_instance_uid: Some("1.2.840.10008.1.20.1.1".to_owned()),
            message_id: Some(9),
            action_type_id: Some(1),
            ..Command::default()
        };
        let response = request.response(0x0110);
        assert_eq!(response.message, Message::NActionRsp);
        assert!(response.message.is_response() && !request.message.is_response());
        assert_eq!(response.message_id_being_responded_to, Some(9));
        assert_eq!(
            response.affected_sop_class_uid,
            request.requested_sop_class_uid
        );
        assert_eq!(
            response.affected_sop_instance_uid,
            request.requested_sop_instance_uid
        );
        assert_eq!(
            (response.status, response.action_type_id),
            (Some(0x0110), Some(1))
        );
        assert!(!response.has_data_set && response.message_id.is_none());
    }

    #[test]
    fn what_is_no_command_set_is_refused_by_name() {
        let good = Command::c_echo_rq(1).encode();
        let with = |more: &[u8]| [&good[..], more].concat();
        let element = |number: u16, value: &[u8]| {
            let mut out = Vec::new();
            put(&mut out, number, value, 0);
            out
        };
        let cases = [
            (
                vec![0; MOST_BYTES + 1],
                Error::TooLong {
                    bytes: MOST_BYTES + 1,
                },
            ),
            (with(&[0, 0, 0, 9]), Error::Cut { at: good.len() }),
            (
                with(&[0, 0, 0, 9, 0xff, 0xff, 0xff, 0xff]),
                Error::Cut { at: good.len() },
            ),
            (
                with(&[8, 0, 0x18, 0, 0, 0, 0, 0]),
                Error::Group {
                    group: 8,
                    element: 0x18,
                },
            ),
            (
                with(&element(0x0110, &[1, 0])),
                Error::Order { element: 0x0110 },
            ),
            (
                with(&element(0x0900, &[1, 0, 0, 0])),
                Error::Value {
                    element: 0x0900,
                    bytes: 4,
                },
            ),
            (
                with(&element(0x1000, b"../../etc/")),
                Error::Value {
                    element: 0x1000,
                    bytes: 10,
                },
            ),
            (
                with(&element(0x1000, &[b'1'; 66])),
                Error::Value {
                    element: 0x1000,
                    bytes: 66,
                },
            ),
            (Vec::new(), Error::Missing { element: 0x0100 }),
            (element(0x0100, &[1, 0]), Error::Missing { element: 0x0800 }),
        ];
        for (bytes, expected) in cases {
            assert_eq!(Command::decode(&bytes), Err(expected));
        }
    }
}
