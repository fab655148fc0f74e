//! Sending by C-STORE (PS3.4 annex B): one association for all objects of a delivery.
//!
//! Each object is answered by itself, and one that is refused does not keep the others from being sent. An object
//! counts as stored if the peer says so, with or without a warning, or says that it has it already.
use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use dicom_dictionary_std::uids;
use dicom_ul::association::{Association, Error as UlError};
use dicom_ul::association::{AsyncClientAssociation, ClientAssociationOptions};
use dicom_ul::pdu::{PDataValue, PDataValueType, Pdu, PresentationContextNegotiated};
use tokio::net::TcpStream;

use super::super::destinations::DimsePeer;
use super::super::dimse::{self, Command, Message};
use super::{Object, class_named};

/// A peer that is not reached within this is not there.
const CONNECT: Duration = Duration::from_secs(10);
/// The longest that a peer may take to answer, or to take bytes: some write to tape before they do.
const PATIENCE: Duration = Duration::from_mins(1);
/// The largest PDU that is read; responses have a few hundred bytes.
const OUR_PDU: u32 = 65_536;
/// The most bytes of a fragment, whatever the peer would take.
const MOST_FRAGMENT: u32 = 131_072;
/// What a fragment needs in its PDU besides its bytes (PS3.8 section 9.3.5.1).
const PDV_HEADER: u32 = 6;

/// Statuses that say that an object is stored (PS3.4 B.2.3, PS3.7 annex C).
const STORED: [u16; 6] = [
    dimse::SUCCESS,
    0xB000, // Coercion of data elements.
    0xB006, // Elements discarded.
    0xB007, // Data set does not match SOP class.
    0x0107, // Attribute list error, a warning.
    0x0111, // Duplicate SOP instance: it is there already.
];

/// Why objects were not stored.
#[derive(Debug, thiserror::Error)]
pub(in crate::pacs) enum Failed {
    /// The peer is not reached.
    #[error("C-STORE: cannot connect: {}", what(*kind))]
    Connect { kind: io::ErrorKind },
    /// The peer wants no association.
    #[error("C-STORE: the association was rejected: {why}")]
    Rejected { why: String },
    /// The association ended before everything was said.
    #[error("C-STORE: {why}")]
    Lost { why: &'static str },
    /// The peer takes no objects of a class.
    #[error("C-STORE: no presentation context was accepted for {class}")]
    Context { class: String },
    /// The peer did not store some objects; this is the first of them.
    #[error(
        "C-STORE: {refused} of {objects} objects were refused, {class} with status {status:#06X}"
    )]
    Refused {
        refused: usize,
        objects: usize,
        class: String,
        status: u16,
    },
}

impl From<UlError> for Failed {
    fn from(error: UlError) -> Self {
        match error {
            UlError::Connect { source, .. } | UlError::ToAddress { source, .. } => Self::Connect {
                kind: source.kind(),
            },
            // From closed lists of the standard.
            UlError::Rejected { association_rj, .. } => Self::Rejected {
                why: association_rj.source.to_string(),
            },
            UlError::Timeout { .. } => Self::Lost {
                why: "the peer did not answer in time",
            },
            UlError::ConnectionClosed { .. }
            | UlError::WireRead { .. }
            | UlError::WireSend { .. } => Self::Lost {
                why: "the peer closed the connection",
            },
            UlError::Aborted { .. } => Self::Lost {
                why: "the peer aborted the association",
            },
            UlError::ReceivePdu { .. } => Self::Lost {
                why: "the peer hung up or answered what is no DICOM",
            },
            _ => Self::Lost {
                why: "the peer does not keep to the protocol",
            },
        }
    }
}

fn what(kind: io::ErrorKind) -> String {
    kind.to_string()
}

type Line = AsyncClientAssociation<TcpStream>;

/// Sends objects; returns once the peer has confirmed each of them.
pub(in crate::pacs) async fn send(peer: &DimsePeer, objects: &[Object]) -> Result<(), Failed> {
    let mut line = associate(peer, objects).await?;
    let mut refused = Vec::new();
    for (n, object) in objects.iter().enumerate() {
        let Some(context) = context_for(&line, object) else {
            // Others may have a context; they are sent, and this one is what is told.
            refused.push((object, None));
            continue;
        };
        let number = u16::try_from(n + 1).unwrap_or(u16::MAX);
        let status = store(&mut line, &context, number, object).await?;
        if !STORED.contains(&status) {
            refused.push((object, Some(status)));
        }
    }
    // Everything has been answered: a peer that does not part in good order has stored it all the same.
    let _parted = line.release().await;
    let Some((first, status)) = refused.first() else {
        return Ok(());
    };
    let class = class_named(&first.sop_class_uid);
    Err(match status {
        None => Failed::Context { class },
        Some(status) => Failed::Refused {
            refused: refused.len(),
            objects: objects.len(),
            class,
            status: *status,
        },
    })
}

/// Two contexts for each class: Explicit VR Little Endian, which objects are written in, and the Implicit VR Little
/// Endian that every peer must know.
async fn associate(peer: &DimsePeer, objects: &[Object]) -> Result<Line, Failed> {
    let classes: BTreeSet<&str> = objects.iter().map(|o| o.sop_class_uid.as_str()).collect();
    let mut options = ClientAssociationOptions::new()
        .calling_ae_title(peer.calling_ae_title.as_str())
        .called_ae_title(peer.ae_title.as_str())
        .max_pdu_length(OUR_PDU)
        .strict(true)
        .connection_timeout(CONNECT)
        .read_timeout(PATIENCE)
        .write_timeout(PATIENCE);
    for class in &classes {
        for syntax in [
            uids::EXPLICIT_VR_LITTLE_ENDIAN,
            uids::IMPLICIT_VR_LITTLE_ENDIAN,
        ] {
            options = options.with_presentation_context(*class, vec![syntax]);
        }
    }
    let mut line = options
        .establish_async(peer.address.as_str())
        .await
        .map_err(|error| {
            if matches!(error, UlError::NoAcceptedPresentationContexts { .. }) {
                let class = classes.first().copied().unwrap_or_default();
                return Failed::Context {
                    class: class_named(class),
                };
            }
            Failed::from(error)
        })?;
    // The request went out in one piece; what follows goes in several, each of which would wait 40 ms.
    line.inner_stream()
        .set_nodelay(true)
        .map_err(|e| Failed::Connect { kind: e.kind() })?;
    Ok(line)
}

/// The context in which an object is sent: the syntax that it is written in before the other.
fn context_for(line: &Line, object: &Object) -> Option<PresentationContextNegotiated> {
    let contexts = line.presentation_contexts().iter();
    let mut fitting: Vec<_> = contexts
        .filter(|c| c.abstract_syntax == object.sop_class_uid)
        .collect();
    fitting.sort_by_key(|c| c.transfer_syntax != uids::EXPLICIT_VR_LITTLE_ENDIAN);
    fitting.first().map(|&context| context.clone())
}

/// Sends one object; the status of its response.
async fn store(
    line: &mut Line,
    context: &PresentationContextNegotiated,
    number: u16,
    object: &Object,
) -> Result<u16, Failed> {
    let data_set = if context.transfer_syntax == uids::EXPLICIT_VR_LITTLE_ENDIAN {
        object.data_set()
    } else {
        let object = object.clone();
        let encoded = tokio::task::spawn_blocking(move || object.implicit_data_set()).await;
        encoded.ok().flatten().ok_or(Failed::Lost {
            why: "an object could not be written in Implicit VR Little Endian",
        })?
    };
    let command = Command::c_store_rq(number, &object.sop_class_uid, &object.sop_instance_uid);
    say(
        line,
        context.id,
        PDataValueType::Command,
        command.encode().into(),
    )
    .await?;
    say(line, context.id, PDataValueType::Data, data_set).await?;
    let response = hear(line).await?;
    let answers = response.message == Message::CStoreRsp
        && response.message_id_being_responded_to == Some(number);
    match response.status {
        Some(status) if answers => Ok(status),
        _ => Err(Failed::Lost {
            why: "the peer answered another message than was sent",
        }),
    }
}

/// Sends a command or a data set in as many fragments as the peer wants.
async fn say(
    line: &mut Line,
    context: u8,
    value_type: PDataValueType,
    bytes: Bytes,
) -> Result<(), Failed> {
    let room = line.peer_max_pdu_length().saturating_sub(PDV_HEADER);
    // Fragments have an even length (PS3.8 annex E.1).
    let room = usize::try_from(room.min(MOST_FRAGMENT) & !1).unwrap_or(0);
    if room == 0 {
        return Err(Failed::Lost {
            why: "the peer takes only PDUs that nothing fits into",
        });
    }
    let mut rest = bytes;
    loop {
        let fragment = rest.split_to(room.min(rest.len()));
        let pdu = Pdu::PData {
            data: vec![PDataValue {
                presentation_context_id: context,
                value_type: value_type.clone(),
                is_last: rest.is_empty(),
                data: fragment.to_vec(),
            }],
        };
        line.send(&pdu).await?;
        if rest.is_empty() {
            return Ok(());
        }
    }
}

/// Receives a command; none that is sent here has a data set.
async fn hear(line: &mut Line) -> Result<Command, Failed> {
    let mut bytes = Vec::new();
    loop {
        let values = match line.receive().await? {
            Pdu::PData { data } => data,
            Pdu::AbortRQ { .. } => {
                return Err(Failed::Lost {
                    why: "the peer aborted the association",
                });
            }
            _ => {
                return Err(Failed::Lost {
                    why: "the peer does not keep to the protocol",
                });
            }
        };
        for value in values {
            if value.value_type != PDataValueType::Command
                || bytes.len() + value.data.len() > dimse::MOST_BYTES
            {
                return Err(Failed::Lost {
                    why: "the peer's response is no command",
                });
            }
            bytes.extend_from_slice(&value.data);
            if value.is_last {
                return Command::decode(&bytes).map_err(|_| Failed::Lost {
                    why: "the peer's response is no command",
                });
            }
        }
    }
}
