//! Sending by C-STORE (PS3.4 annex B): one association for all objects of a delivery.
//!
//! Each object is answered by itself, and one that is refused does not keep the others from being sent. An object
//! counts as stored if the peer says so, with or without a warning, or says that it has it already.
use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use dicom_dictionary_std::uids;
use dicom_ul::association::client::AsyncTlsStream;
use dicom_ul::association::{Association, Error as UlError};
use dicom_ul::association::{AsyncClientAssociation, ClientAssociationOptions};
use dicom_ul::pdu::{PDataValue, PDataValueType, Pdu, PresentationContextNegotiated};
use tokio::net::TcpStream;
use tokio_rustls::rustls;

use super::super::commitment;
use super::super::destinations::DimsePeer;
use super::super::dimse::{self, Command, Message};
use super::{Object, Wire, class_named, encoded};
use crate::jobs::Jobs;
use crate::tls::ClientTls;

/// A peer that is not reached within this is not there.
const CONNECT: Duration = Duration::from_secs(10);
/// The longest that a peer may take to answer, or to take bytes: some write to tape before they do.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long a peer that was asked to commit is listened to on the same association. Those that look for what they have
/// while they are asked answer within milliseconds; others make an association when they are ready.
const STAYS: Duration = Duration::from_secs(2);
/// What the class is called in which a peer commits.
const COMMITMENT: &str = "storage commitment";
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
    /// TLS does not come about.
    #[error("C-STORE: TLS: {why}")]
    Tls { why: &'static str },
    /// The peer wants no association.
    #[error("C-STORE: the association was rejected: {why}")]
    Rejected { why: String },
    /// The association ended before everything was said.
    #[error("C-STORE: {why}")]
    Lost { why: &'static str },
    /// The peer takes no objects of a class.
    #[error("C-STORE: no presentation context was accepted for {class}")]
    Context { class: String },
    /// The peer does not want to be asked.
    #[error("storage commitment: the request was answered with status {status:#06X}")]
    NoCommitment { status: u16 },
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
            UlError::Connect { source, .. } | UlError::ToAddress { source, .. } => {
                match why_no_tls(&source) {
                    Some(why) => Self::Tls { why },
                    None => Self::Connect {
                        kind: source.kind(),
                    },
                }
            }
            UlError::TlsHandshake { .. } => Self::Tls {
                why: "the peer hung up: does it speak TLS?",
            },
            UlError::InvalidServerName { .. } => Self::Tls {
                why: "the host of its address is neither a name nor an address",
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
            // Whatever else is read instead of an answer to the request for an association is told as the latter.
            UlError::ReceivePdu { .. } | UlError::TlsNotSupported => Self::Lost {
                why: "the peer hung up or answered what is no DICOM",
            },
            _ => Self::Lost {
                why: "the peer does not keep to the protocol",
            },
        }
    }
}

/// What is wrong with TLS, in our words: the library's hold names that the peer gave itself.
fn why_no_tls(error: &io::Error) -> Option<&'static str> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match error {
        rustls::Error::InvalidCertificate(_) => {
            "the peer's certificate is not of an authority that is believed, or not of this host, or not of this day"
        }
        rustls::Error::AlertReceived(_) => "the peer refused: it may want a certificate",
        _ => "the peer speaks no TLS, or none that is taken",
    })
}

fn what(kind: io::ErrorKind) -> String {
    kind.to_string()
}

type Line<S> = AsyncClientAssociation<S>;

/// An association on which the objects of a delivery go.
pub(in crate::pacs) struct Sending<S: Wire> {
    line: Line<S>,
}

impl Sending<TcpStream> {
    /// Makes the association.
    pub(in crate::pacs) async fn plainly(
        peer: &DimsePeer,
        objects: &[Object],
    ) -> Result<Self, Failed> {
        let options = options(peer, objects);
        let line = in_time(options.establish_async(peer.address.as_str()), objects);
        let mut line = line.await?;
        at_once(line.inner_stream())?;
        Ok(Self { line })
    }
}

impl Sending<AsyncTlsStream> {
    /// Makes the association over TLS, with the host of the peer's address.
    pub(in crate::pacs) async fn privately(
        peer: &DimsePeer,
        tls: &ClientTls,
        objects: &[Object],
    ) -> Result<Self, Failed> {
        // Few bytes, and they may have been renewed.
        let config = tls.read().map_err(|error| {
            tracing::warn!(%error, "files of TLS cannot be used");
            Failed::Tls {
                why: "the files of its destination cannot be used",
            }
        })?;
        let host = peer.address.rsplit_once(':').map_or("", |(host, _)| host);
        let options = options(peer, objects)
            .tls_config(config)
            .server_name(host.trim_matches(['[', ']']));
        let line = in_time(options.establish_tls_async(peer.address.as_str()), objects);
        let mut line = line.await?;
        at_once(line.inner_stream().get_ref().0)?;
        Ok(Self { line })
    }
}

impl<S: Wire> Sending<S> {
    /// Sends objects; returns once the peer has confirmed each of them.
    pub(in crate::pacs) async fn store(mut self, objects: &[Object]) -> Result<Self, Failed> {
        let mut refused = Vec::new();
        for (n, object) in objects.iter().enumerate() {
            let Some(context) = context_for(&self.line, &object.sop_class_uid) else {
                // Others may have a context; they are sent, and this one is what is told.
                refused.push((object, None));
                continue;
            };
            let number = u16::try_from(n + 1).unwrap_or(u16::MAX);
            let status = store(&mut self.line, &context, number, object).await?;
            if !STORED.contains(&status) {
                refused.push((object, Some(status)));
            }
        }
        let Some((first, status)) = refused.first() else {
            return Ok(self);
        };
        self.part().await;
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

    /// Asks the peer to commit to the objects, which it has stored, and listens for a moment whether it says so at
    /// once; if it does, that is settled.
    pub(in crate::pacs) async fn ask(
        mut self,
        transaction_uid: &str,
        objects: &[Object],
        jobs: &Jobs,
    ) -> Result<(), Failed> {
        let answered = self.asked(transaction_uid, objects, jobs).await;
        if matches!(answered, Ok(Answered::Request)) {
            let report = tokio::time::timeout(STAYS, self.answered(jobs));
            // It may as well come on an association that the peer makes, now or after hours.
            let _heard = report.await;
        }
        if !matches!(answered, Err(Failed::Lost { .. })) {
            self.part().await;
        }
        answered.map(drop)
    }

    async fn asked(
        &mut self,
        transaction_uid: &str,
        objects: &[Object],
        jobs: &Jobs,
    ) -> Result<Answered, Failed> {
        let context = context_for(&self.line, uids::STORAGE_COMMITMENT_PUSH_MODEL);
        let context = context.ok_or_else(|| Failed::Context {
            class: COMMITMENT.to_owned(),
        })?;
        let request = commitment::request(transaction_uid, objects);
        let request = encoded(&request, &context.transfer_syntax).ok_or(Failed::Lost {
            why: "the peer wants requests in a transfer syntax that was not proposed",
        })?;
        let command = Command::commitment_rq(1).encode().into();
        say(&mut self.line, context.id, PDataValueType::Command, command).await?;
        say(&mut self.line, context.id, PDataValueType::Data, request).await?;
        self.answered(jobs).await
    }

    /// The next that a peer says which was asked to commit; reports are answered.
    async fn answered(&mut self, jobs: &Jobs) -> Result<Answered, Failed> {
        let Heard {
            context,
            command,
            data_set,
        } = hear(&mut self.line).await?;
        match (command.message, command.status) {
            (Message::NActionRsp, Some(dimse::SUCCESS)) => Ok(Answered::Request),
            (Message::NActionRsp, Some(status)) => Err(Failed::NoCommitment { status }),
            (Message::NEventReportRq, _) => {
                let contexts = self.line.presentation_contexts().iter();
                let spoken = contexts.into_iter().find(|c| c.id == context);
                let syntax = spoken.map_or("", |c| c.transfer_syntax.as_str());
                let event = command.event_type_id;
                let status = commitment::settle(jobs, event, &data_set, syntax).await;
                let response = command.response(status).encode().into();
                say(&mut self.line, context, PDataValueType::Command, response).await?;
                Ok(Answered::Report)
            }
            _ => Err(Failed::Lost {
                why: "the peer answered another message than was sent",
            }),
        }
    }

    /// Ends the association. Everything has been answered: a peer that does not part in good order has stored it all
    /// the same.
    pub(in crate::pacs) async fn part(self) {
        let _parted = self.line.release().await;
    }
}

/// What a peer said that was asked to commit.
enum Answered {
    /// That it was asked.
    Request,
    /// What it commits to.
    Report,
}

/// Two contexts for each class: Explicit VR Little Endian, which objects are written in, and the Implicit VR Little
/// Endian that every peer must know.
fn options<'a>(peer: &'a DimsePeer, objects: &'a [Object]) -> ClientAssociationOptions<'a> {
    let mut options = ClientAssociationOptions::new()
        .calling_ae_title(peer.calling_ae_title.as_str())
        .called_ae_title(peer.ae_title.as_str())
        .max_pdu_length(OUR_PDU)
        .strict(true)
        .connection_timeout(CONNECT)
        .read_timeout(PATIENCE)
        .write_timeout(PATIENCE);
    let commitment = peer.commitment.map(|_| uids::STORAGE_COMMITMENT_PUSH_MODEL);
    for class in classes(objects).into_iter().chain(commitment) {
        for syntax in [
            uids::EXPLICIT_VR_LITTLE_ENDIAN,
            uids::IMPLICIT_VR_LITTLE_ENDIAN,
        ] {
            options = options.with_presentation_context(class, vec![syntax]);
        }
    }
    options
}

fn classes(objects: &[Object]) -> BTreeSet<&str> {
    objects.iter().map(|o| o.sop_class_uid.as_str()).collect()
}

/// An association that is made within the time that a peer has to answer, a handshake of TLS included.
async fn in_time<S: Wire>(
    made: impl Future<Output = Result<Line<S>, UlError>>,
    objects: &[Object],
) -> Result<Line<S>, Failed> {
    let made = tokio::time::timeout(PATIENCE, made).await;
    let made = made.map_err(|_| Failed::Lost {
        why: "the peer did not answer in time",
    })?;
    made.map_err(|error| {
        if matches!(error, UlError::NoAcceptedPresentationContexts { .. }) {
            let class = classes(objects).first().copied().unwrap_or_default();
            return Failed::Context {
                class: class_named(class),
            };
        }
        Failed::from(error)
    })
}

/// The request went out in one piece; what follows goes in several, each of which would wait 40 ms.
fn at_once(stream: &TcpStream) -> Result<(), Failed> {
    let set = stream.set_nodelay(true);
    set.map_err(|e| Failed::Connect { kind: e.kind() })
}

/// The context for a class: the syntax that objects are written in before the other.
fn context_for<S>(line: &Line<S>, class: &str) -> Option<PresentationContextNegotiated> {
    let contexts = line.presentation_contexts().iter();
    let mut fitting: Vec<_> = contexts.filter(|c| c.abstract_syntax == class).collect();
    fitting.sort_by_key(|c| c.transfer_syntax != uids::EXPLICIT_VR_LITTLE_ENDIAN);
    fitting.first().map(|&context| context.clone())
}

/// Sends one object; the status of its response.
async fn store<S: Wire>(
    line: &mut Line<S>,
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
    let response = hear(line).await?.command;
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
async fn say<S: Wire>(
    line: &mut Line<S>,
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

/// A message of the peer.
struct Heard {
    context: u8,
    command: Command,
    /// Empty if the command announces none.
    data_set: Vec<u8>,
}

/// Receives a message.
async fn hear<S: Wire>(line: &mut Line<S>) -> Result<Heard, Failed> {
    let no_command = Failed::Lost {
        why: "the peer's response is no command",
    };
    let (mut bytes, mut data_set) = (Vec::new(), Vec::new());
    let mut said: Option<Command> = None;
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
            let (into, expected, most) = if said.is_none() {
                (&mut bytes, PDataValueType::Command, dimse::MOST_BYTES)
            } else {
                (&mut data_set, PDataValueType::Data, commitment::MOST_REPORT)
            };
            if value.value_type != expected || into.len() + value.data.len() > most {
                return Err(no_command);
            }
            into.extend_from_slice(&value.data);
            if !value.is_last {
                continue;
            }
            let context = value.presentation_context_id;
            let command = match said.take() {
                Some(command) => command,
                None => match Command::decode(&bytes) {
                    Ok(command) if command.has_data_set => {
                        said = Some(command);
                        continue;
                    }
                    Ok(command) => command,
                    Err(_) => return Err(no_command),
                },
            };
            return Ok(Heard {
                context,
                command,
                data_set,
            });
        }
    }
}
