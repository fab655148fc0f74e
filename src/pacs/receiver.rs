//! The way over DICOM's own protocol: who calls, C-ECHO, C-STORE, reports of storage commitment (PS3.7, PS3.8).
//!
//! An image is written to the disk while it comes, looked at, and only then answered with success. What a peer
//! may make us hold is bounded: bytes of a PDU, of an object, of an association, seconds of silence,
//! associations at once. A refused image does not end its association.
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dawson_imaging::dicom::{Syntax, is_uid};
use dicom_dictionary_std::uids;
use dicom_object::FileMetaTableBuilder;
use dicom_ul::Pdu;
use dicom_ul::association::server::{
    AccessControl, AsyncServerAssociation, Negotiation, ServerAssociationOptions,
};
use dicom_ul::association::{Association as _, Error as UlError};
use dicom_ul::pdu::{
    AbortRQServiceProviderReason, AbortRQSource, AssociationRJ, AssociationRJResult,
    AssociationRJServiceProviderPresentationReason, AssociationRJServiceUserReason,
    AssociationRJSource, PDataValue, PDataValueType, PresentationContextNegotiated, RequestorRoles,
    UserIdentity, write_pdu,
};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::AeTitle;
use super::classes::{BESIDE, MR};
use super::commitment;
use super::dimse::{self, Command, Message};
use super::inbox::{Inbox, Kept, Refused, Sender, Session};
use super::rules::Rules;
use super::send::Wire;
use crate::jobs::Upload;
use crate::telemetry;
use crate::tls::Tls;

/// The longest PDU: an association with 128 contexts of many encodings fits.
const MAX_PDU: u32 = 262_144;
/// Connections that have said nothing yet, for each association that there may be.
const SILENT_EACH: usize = 32;
/// A connection must say something within this.
const FIRST_WORD: Duration = Duration::from_secs(10);
/// However busy, an association ends after this.
const LONGEST: Duration = Duration::from_hours(6);
/// Names this program in the files that it makes: a version 8 UUID.
const IMPLEMENTATION: &str = "2.25.232519274835273757068032627244153792937";

/// Answers to requests (PS3.4 table B.2-1, PS3.7 annex C).
mod status {
    pub(super) const OUT_OF_RESOURCES: u16 = 0xa700;
    pub(super) const MISMATCH: u16 = 0xa900;
    pub(super) const NOT_UNDERSTOOD: u16 = 0xc000;
    /// Another object of the same UID is kept.
    pub(super) const COERCED: u16 = 0xb000;
    /// Taken, and not kept.
    pub(super) const DISCARDED: u16 = 0xb006;
    pub(super) const NO_SUCH_OPERATION: u16 = 0x0211;
}

/// How nodes are listened to.
#[derive(Debug, Clone)]
pub struct ReceiverConfig {
    /// The application entity title of this service.
    pub ae_title: AeTitle,
    /// The most associations at once.
    pub max_associations: usize,
    /// The most bytes of an association.
    pub max_association_bytes: u64,
    /// The longest silence within a message and between two.
    pub silence: Duration,
    /// How TLS is spoken, if it is.
    pub tls: Option<Arc<Tls>>,
}

/// Listens to nodes.
#[derive(Debug)]
pub struct Receiver {
    inbox: Arc<Inbox>,
    config: ReceiverConfig,
}

impl Receiver {
    /// Nothing is listened to yet.
    #[must_use]
    pub fn new(inbox: Arc<Inbox>, config: ReceiverConfig) -> Self {
        Self { inbox, config }
    }

    /// Takes associations until `stop`; what is under way then is cut off: its sender sends it again.
    pub async fn serve(self, listener: TcpListener, stop: impl Future<Output = ()>) {
        let receiver = Arc::new(self);
        let free = Arc::new(Semaphore::new(receiver.config.max_associations));
        let connections = receiver.config.max_associations.saturating_mul(SILENT_EACH);
        let connections = Arc::new(Semaphore::new(connections));
        let mut associations = JoinSet::new();
        tokio::pin!(stop);
        loop {
            let taken = tokio::select! {
                taken = listener.accept() => taken,
                _ended = associations.join_next(), if !associations.is_empty() => continue,
                () = &mut stop => break,
            };
            let (socket, peer) = match taken {
                Ok(taken) => taken,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be taken");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let address = peer.ip().to_canonical();
            if !receiver.inbox.rules().may_connect(address) {
                telemetry::association("refused");
                continue;
            }
            // The image comes in one piece or the next waits 40 ms for an acknowledgement.
            if socket.set_nodelay(true).is_err() {
                continue;
            }
            let Ok(connection) = Arc::clone(&connections).try_acquire_owned() else {
                telemetry::association("too_many");
                continue;
            };
            let (receiver, free) = (Arc::clone(&receiver), Arc::clone(&free));
            associations.spawn(async move {
                receiver.connected(socket, peer, &free).await;
                drop(connection);
            });
        }
        associations.shutdown().await;
    }

    /// A connection takes a place among the associations once it has said something, so that silent ones keep
    /// nobody out.
    async fn connected(&self, socket: TcpStream, peer: SocketAddr, free: &Semaphore) {
        let mut word = [0];
        let spoke = tokio::time::timeout(FIRST_WORD, socket.peek(&mut word));
        if !matches!(spoke.await, Ok(Ok(1..))) {
            telemetry::association("rejected");
            return;
        }
        let Ok(_place) = free.try_acquire() else {
            telemetry::association("too_many");
            // Those who speak TLS would not understand.
            if self.config.tls.is_none() {
                turn_away(socket).await;
            }
            return;
        };
        let all = tokio::time::timeout(LONGEST, self.associate(socket, peer));
        if all.await.is_err() {
            telemetry::association("too_long");
        }
    }

    /// Every class and encoding that is taken, from whom it is taken.
    fn options(&self, address: IpAddr) -> ServerAssociationOptions<'static, Allowed, Roles> {
        let mut options = ServerAssociationOptions::new()
            .ae_access_control(Allowed {
                rules: self.inbox.rules().clone(),
                address,
            })
            .ae_title(self.config.ae_title.as_str().to_owned())
            .strict(true)
            .max_pdu_length(MAX_PDU)
            .read_timeout(self.config.silence)
            .write_timeout(self.config.silence)
            .with_negotiation(Roles)
            .with_abstract_syntax(uids::VERIFICATION)
            .with_abstract_syntax(uids::STORAGE_COMMITMENT_PUSH_MODEL);
        for class in MR.into_iter().chain(BESIDE) {
            options = options.with_abstract_syntax(class);
        }
        for syntax in Syntax::ALL {
            options = options.with_transfer_syntax(syntax.uid());
        }
        options
    }

    async fn associate(&self, socket: TcpStream, peer: SocketAddr) {
        let address = peer.ip().to_canonical();
        let options = self.options(address);
        let Some(tls) = &self.config.tls else {
            let made = options.establish_async(socket).await;
            return self.attend(made, address).await;
        };
        let options = options.tls_config(tls.current());
        let made = options.establish_tls_async(socket);
        match tokio::time::timeout(self.config.silence, made).await {
            Ok(made) => self.attend(made, address).await,
            Err(late) => {
                telemetry::association("rejected");
                telemetry::handshake_failed(&late);
            }
        }
    }

    async fn attend<S: Wire>(
        &self,
        made: Result<AsyncServerAssociation<S>, UlError>,
        address: IpAddr,
    ) {
        let association = match made {
            Ok(association) => association,
            Err(error) => {
                telemetry::association("rejected");
                if matches!(error, UlError::TlsHandshake { .. }) {
                    telemetry::handshake_failed(&short(&error));
                }
                tracing::info!(%address, reason = %short(&error), "an association was not made");
                return;
            }
        };
        telemetry::association("accepted");
        let title = association.peer_ae_title().trim_matches(' ').to_owned();
        let caller = self.inbox.rules().caller(&title, address);
        let sender = Sender {
            owner: caller.and_then(|caller| caller.owner.clone()),
            calling_ae_title: Some(title),
        };
        let mut served = Served {
            inbox: &self.inbox,
            config: &self.config,
            contexts: association.presentation_contexts().to_vec(),
            association,
            session: self.inbox.session(sender),
            bytes: 0,
            command: Vec::new(),
            pending: None,
        };
        let ended = served.run().await;
        match ended {
            Ok(()) => telemetry::association("released"),
            Err(End::Gone(reason)) => {
                telemetry::association("lost");
                tracing::info!(%address, reason, "an association was lost");
            }
            Err(End::Abort(reason)) => {
                telemetry::association("aborted");
                tracing::warn!(%address, reason, "an association was aborted");
                let Served {
                    mut association, ..
                } = served;
                let source = AbortRQSource::ServiceProvider(
                    AbortRQServiceProviderReason::ReasonNotSpecified,
                );
                // Whether it hears that changes nothing.
                let _told = association.send(&Pdu::AbortRQ { source }).await;
            }
        }
    }
}

/// Says that there is no room now, to whom asks for an association.
async fn turn_away(mut socket: TcpStream) {
    let full = Pdu::AssociationRJ(AssociationRJ {
        result: AssociationRJResult::Transient,
        source: AssociationRJSource::ServiceProviderPresentation(
            AssociationRJServiceProviderPresentationReason::LocalLimitExceeded,
        ),
    });
    let mut answer = Vec::new();
    if write_pdu(&mut answer, &full).is_err() {
        return;
    }
    let said = async {
        // What is unread when the socket closes would take the answer with it.
        let mut request = vec![0; 16 << 10];
        let _read = socket.read(&mut request).await;
        let _written = socket.write_all(&answer).await;
        let _closed = socket.shutdown().await;
        while matches!(socket.read(&mut request).await, Ok(1..)) {}
    };
    let _in_time = tokio::time::timeout(Duration::from_secs(2), said).await;
}

/// Who may make an association from an address.
struct Allowed {
    rules: Rules,
    address: IpAddr,
}

impl AccessControl for Allowed {
    fn check_access(
        &self,
        this_ae_title: &str,
        calling_ae_title: &str,
        called_ae_title: &str,
        _user_identity: Option<&UserIdentity>,
    ) -> Result<(), AssociationRJServiceUserReason> {
        if this_ae_title.trim_matches(' ') != called_ae_title.trim_matches(' ') {
            return Err(AssociationRJServiceUserReason::CalledAETitleNotRecognized);
        }
        let known = self.rules.caller(calling_ae_title, self.address).is_some();
        if self.rules.calling.is_empty() || known {
            return Ok(());
        }
        Err(AssociationRJServiceUserReason::CallingAETitleNotRecognized)
    }
}

/// Which roles those who call may take. An archive that reports what it commits to calls as the one that provides
/// that service (PS3.7 D.3.3.4); Dawson provides it to nobody.
struct Roles;

impl Negotiation for Roles {
    fn negotiate_roles(&self, class: &str, _scu: bool, scp: bool) -> Option<RequestorRoles> {
        let reports = class.trim_matches(['\0', ' ']) == uids::STORAGE_COMMITMENT_PUSH_MODEL;
        reports.then_some(RequestorRoles { scu: false, scp })
    }
}

/// Why an association does not go on.
enum End {
    /// The peer is gone, or silent.
    Gone(String),
    /// What it says breaks the protocol or a limit.
    Abort(&'static str),
}

/// A request whose data set comes.
struct Pending {
    context: u8,
    command: Command,
    bytes: u64,
    taken: Taken,
}

/// What is done with a data set.
enum Taken {
    /// It is written to a file, which is to be kept.
    File(Box<Upload>, PathBuf, File),
    /// It is a report of storage commitment.
    Report(Vec<u8>),
    /// It is passed over; this is answered, whatever it holds.
    Nothing(u16),
}

/// An association that was made.
struct Served<'a, S: Wire> {
    inbox: &'a Arc<Inbox>,
    config: &'a ReceiverConfig,
    association: AsyncServerAssociation<S>,
    contexts: Vec<PresentationContextNegotiated>,
    session: Session,
    bytes: u64,
    command: Vec<u8>,
    pending: Option<Pending>,
}

impl<S: Wire> Served<'_, S> {
    async fn run(&mut self) -> Result<(), End> {
        loop {
            let pdu = self.association.receive().await;
            match pdu.map_err(|e| End::Gone(short(&e)))? {
                Pdu::PData { data } if data.is_empty() => {
                    return Err(End::Abort("a message part without any value"));
                }
                Pdu::PData { data } => {
                    for value in data {
                        self.take(value).await?;
                    }
                }
                Pdu::ReleaseRQ => {
                    // The peer has all it wanted, whether it hears this or not.
                    let _told = self.association.send(&Pdu::ReleaseRP).await;
                    return Ok(());
                }
                Pdu::AbortRQ { .. } => return Err(End::Gone("it aborted".to_owned())),
                _ => return Err(End::Abort("a message that has no place in an association")),
            }
        }
    }

    async fn take(&mut self, value: PDataValue) -> Result<(), End> {
        self.bytes = self.bytes.saturating_add(value.data.len() as u64);
        if self.bytes > self.config.max_association_bytes {
            self.answer_pending(status::OUT_OF_RESOURCES).await?;
            return Err(End::Abort("more bytes than an association may bring"));
        }
        match value.value_type {
            PDataValueType::Command => self.take_command(value).await,
            PDataValueType::Data => self.take_data(value).await,
        }
    }

    async fn take_command(&mut self, value: PDataValue) -> Result<(), End> {
        if self.pending.is_some() {
            return Err(End::Abort("a command before the data set of the last one"));
        }
        if self.command.len().saturating_add(value.data.len()) > dimse::MOST_BYTES {
            return Err(End::Abort("a command set that is too long"));
        }
        self.command.extend_from_slice(&value.data);
        if !value.is_last {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.command);
        let command = Command::decode(&bytes)
            .map_err(|_| End::Abort("a command set that is not understood"))?;
        let context = value.presentation_context_id;
        match command.message {
            Message::CEchoRq if !command.has_data_set => {
                self.answer(context, &command, dimse::SUCCESS, None).await
            }
            Message::CStoreRq if command.has_data_set => self.begin_store(context, command).await,
            message if message.is_response() => Err(End::Abort("a response to no request")),
            Message::NEventReportRq if command.has_data_set => {
                self.begin_report(context, command);
                Ok(())
            }
            _ if command.has_data_set => {
                self.pending = Some(Pending {
                    context,
                    command,
                    bytes: 0,
                    taken: Taken::Nothing(status::NO_SUCH_OPERATION),
                });
                Ok(())
            }
            _ => {
                self.answer(context, &command, status::NO_SUCH_OPERATION, None)
                    .await
            }
        }
    }

    /// Decides where the data set of a C-STORE goes.
    async fn begin_store(&mut self, context: u8, command: Command) -> Result<(), End> {
        let negotiated = self.negotiated(context).cloned();
        let negotiated =
            negotiated.ok_or(End::Abort("a presentation context that was not agreed on"))?;
        let class = command.affected_sop_class_uid.clone().unwrap_or_default();
        let instance = command
            .affected_sop_instance_uid
            .clone()
            .unwrap_or_default();
        let verdict = if class != negotiated.abstract_syntax {
            Some(status::MISMATCH)
        } else if !MR.contains(&class.as_str()) {
            Some(status::DISCARDED)
        } else if !is_uid(&instance) {
            Some(status::NOT_UNDERSTOOD)
        } else {
            None
        };
        let taken = if let Some(status) = verdict {
            Taken::Nothing(status)
        } else {
            let begun = self.begin_file(&class, &instance, &negotiated.transfer_syntax);
            begun.await.unwrap_or_else(|reason| {
                tracing::warn!(reason, "an image cannot be taken");
                Taken::Nothing(status::OUT_OF_RESOURCES)
            })
        };
        self.pending = Some(Pending {
            context,
            command,
            bytes: 0,
            taken,
        });
        Ok(())
    }

    /// Decides what is done with the data set of an N-EVENT-REPORT.
    fn begin_report(&mut self, context: u8, command: Command) {
        let class = command.affected_sop_class_uid.as_deref();
        let spoken = self.negotiated(context).map(|c| c.abstract_syntax.as_str());
        let is_ours = class == Some(uids::STORAGE_COMMITMENT_PUSH_MODEL) && class == spoken;
        let taken = if is_ours {
            Taken::Report(Vec::new())
        } else {
            Taken::Nothing(status::NO_SUCH_OPERATION)
        };
        self.pending = Some(Pending {
            context,
            command,
            bytes: 0,
            taken,
        });
    }

    fn negotiated(&self, context: u8) -> Option<&PresentationContextNegotiated> {
        self.contexts.iter().find(|c| c.id == context)
    }

    /// A file that begins with what PS3.10 wants before the data set.
    async fn begin_file(&self, class: &str, instance: &str, syntax: &str) -> Result<Taken, String> {
        self.inbox.check_disk(0).map_err(|e| e.to_string())?;
        let meta = FileMetaTableBuilder::new()
            .media_storage_sop_class_uid(class)
            .media_storage_sop_instance_uid(instance)
            .transfer_syntax(syntax)
            .implementation_class_uid(IMPLEMENTATION)
            .implementation_version_name("DAWSON")
            .build()
            .map_err(|e| e.to_string())?;
        let mut head = vec![0; 128];
        head.extend_from_slice(b"DICM");
        meta.write(&mut head).map_err(|e| e.to_string())?;
        let upload = self.inbox.new_upload().await.map_err(|e| e.to_string())?;
        let path = upload.folder().join("image");
        let mut file = File::create(&path).await.map_err(|e| e.to_string())?;
        file.write_all(&head).await.map_err(|e| e.to_string())?;
        Ok(Taken::File(Box::new(upload), path, file))
    }

    async fn take_data(&mut self, value: PDataValue) -> Result<(), End> {
        let most = self.inbox.limits().max_file_bytes as u64;
        let Some(pending) = &mut self.pending else {
            return Err(End::Abort("a data set that no command announced"));
        };
        if value.presentation_context_id != pending.context {
            return Err(End::Abort("a data set in another presentation context"));
        }
        pending.bytes = pending.bytes.saturating_add(value.data.len() as u64);
        if pending.bytes > most {
            self.answer_pending(status::OUT_OF_RESOURCES).await?;
            return Err(End::Abort("more bytes than an object may have"));
        }
        match &mut pending.taken {
            Taken::File(_, _, file) => {
                if let Err(error) = file.write_all(&value.data).await {
                    tracing::warn!(%error, "an image cannot be written");
                    pending.taken = Taken::Nothing(status::OUT_OF_RESOURCES);
                }
            }
            Taken::Report(report) if pending.bytes <= commitment::MOST_REPORT as u64 => {
                report.extend_from_slice(&value.data);
            }
            Taken::Report(_) => {
                pending.taken = Taken::Nothing(commitment::status::RESOURCE_LIMITATION);
            }
            Taken::Nothing(_) => {}
        }
        if value.is_last {
            self.end_data().await?;
        }
        Ok(())
    }

    /// The data set is there: keeps or reads it, and answers.
    async fn end_data(&mut self) -> Result<(), End> {
        let Some(pending) = self.pending.take() else {
            return Ok(());
        };
        let (context, command) = (pending.context, pending.command);
        let (status, comment) = match pending.taken {
            Taken::File(upload, path, file) => {
                let outcome = self.keep(&command, path, file).await;
                upload.discard().await;
                outcome
            }
            Taken::Report(report) => {
                let spoken = self.negotiated(context);
                let syntax = spoken.map_or("", |c| c.transfer_syntax.as_str());
                let event = command.event_type_id;
                let jobs = self.inbox.jobs();
                (commitment::settle(jobs, event, &report, syntax).await, None)
            }
            Taken::Nothing(status) => (status, None),
        };
        self.answer(context, &command, status, comment).await
    }

    /// Keeps an image whose last byte has come; what is answered.
    async fn keep(
        &mut self,
        command: &Command,
        path: PathBuf,
        mut file: File,
    ) -> (u16, Option<String>) {
        let synced = async {
            file.flush().await?;
            file.sync_data().await
        };
        if let Err(error) = synced.await {
            return (status::OUT_OF_RESOURCES, Some(error.kind().to_string()));
        }
        drop(file);
        let class = command.affected_sop_class_uid.as_deref();
        let instance = command.affected_sop_instance_uid.as_deref();
        let kept = self.session.keep(path, class.zip(instance)).await;
        answer_of(kept.map(|(kept, _)| kept))
    }

    /// Answers a request whose data set is not read to its end.
    async fn answer_pending(&mut self, status: u16) -> Result<(), End> {
        if let Some(Pending {
            context,
            command,
            taken,
            ..
        }) = self.pending.take()
        {
            if let Taken::File(upload, _, file) = taken {
                drop(file);
                upload.discard().await;
            }
            self.answer(context, &command, status, None).await?;
        }
        Ok(())
    }

    async fn answer(
        &mut self,
        context: u8,
        request: &Command,
        status: u16,
        comment: Option<String>,
    ) -> Result<(), End> {
        if request.message == Message::CStoreRq {
            telemetry::image_answered(status);
        }
        let mut response = request.response(status);
        response.error_comment = comment;
        let pdu = Pdu::PData {
            data: vec![PDataValue {
                presentation_context_id: context,
                value_type: PDataValueType::Command,
                is_last: true,
                data: response.encode(),
            }],
        };
        let sent = self.association.send(&pdu).await;
        sent.map_err(|e| End::Gone(short(&e)))
    }
}

/// What an image is answered with. The comment holds what was wrong and nothing of the patient.
fn answer_of(kept: Result<Kept, Refused>) -> (u16, Option<String>) {
    let refused = match kept {
        Ok(Kept::New | Kept::Same) => return (dimse::SUCCESS, None),
        Ok(Kept::Conflict) => {
            let comment = "another object of this UID is kept";
            return (status::COERCED, Some(comment.to_owned()));
        }
        Err(refused) => refused,
    };
    let status = match &refused {
        Refused::File(error) if error.is_of_another_kind() => status::DISCARDED,
        Refused::File(_) => status::NOT_UNDERSTOOD,
        Refused::Mismatch | Refused::OtherStudy => status::MISMATCH,
        Refused::StudyFull | Refused::Busy | Refused::Jobs(_) => status::OUT_OF_RESOURCES,
    };
    let comment = match &refused {
        // Names files of the server.
        Refused::Jobs(_) => "there is no room for it now".to_owned(),
        other => other.to_string(),
    };
    (status, Some(comment))
}

/// The first line of an error, and not much of it: it may quote what a stranger said.
fn short(error: &dyn std::error::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    let plain = line.chars().filter(|c| !c.is_control());
    plain.take(120).collect()
}
