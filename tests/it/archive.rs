//! An archive that results are filed at: small, and by the same library from its other side; those of other makers
//! are in `tests/pacs`.
use std::sync::{Arc, Mutex, PoisonError};

use dawson::pacs::dimse::{Command, Message};
use dicom_dictionary_std::uids;
use dicom_ul::Pdu;
use dicom_ul::association::{Association, ServerAssociationOptions};
use dicom_ul::pdu::{PDataValue, PDataValueType};
use tokio::net::{TcpListener, TcpStream};

use super::commitment::{Commits, Report, Transaction};

/// What an archive was sent: class, instance, syntax, data set.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sent {
    pub(crate) class: String,
    pub(crate) instance: String,
    pub(crate) syntax: String,
    pub(crate) data_set: Vec<u8>,
}

#[derive(Default)]
pub(crate) struct Book {
    pub(crate) sent: Vec<Sent>,
    /// Who called whom.
    pub(crate) titles: Vec<(String, String)>,
    /// The status of a class's objects, while it is there.
    pub(crate) refused: Option<(&'static str, u16)>,
    /// What it does when it is asked to commit.
    pub(crate) commits: Commits,
    /// The class that it has lost when it is asked.
    pub(crate) lost: Option<&'static str>,
    /// What it was asked to commit to.
    pub(crate) asked: Vec<Transaction>,
    /// How its reports were answered.
    pub(crate) answers: Vec<u16>,
}

impl Book {
    /// Class and instance of what is stored.
    pub(crate) fn stored(&self) -> Vec<(String, String)> {
        let sent = self.sent.iter();
        sent.map(|one| (one.class.clone(), one.instance.clone()))
            .collect()
    }
}

/// An archive that takes C-STORE, and commits to what it has stored.
#[derive(Clone)]
pub(crate) struct Archive {
    pub(crate) address: String,
    book: Arc<Mutex<Book>>,
}

impl Archive {
    pub(crate) async fn start(
        classes: &'static [&'static str],
        syntaxes: &'static [&'static str],
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let archive = Self {
            address: listener.local_addr().unwrap().to_string(),
            book: Arc::default(),
        };
        let serving = archive.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let archive = serving.clone();
                tokio::spawn(archive.associate(socket, classes, syntaxes));
            }
        });
        archive
    }

    pub(crate) fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn associate(
        self,
        socket: TcpStream,
        classes: &[&'static str],
        syntaxes: &[&'static str],
    ) {
        socket.set_nodelay(true).unwrap();
        let mut options = ServerAssociationOptions::new()
            .ae_title("ARCHIVE")
            .accept_called_ae_title();
        for class in classes {
            options = options.with_abstract_syntax(*class);
        }
        for syntax in syntaxes {
            options = options.with_transfer_syntax(*syntax);
        }
        let Ok(mut line) = options.establish_async(socket).await else {
            return;
        };
        let titles = (
            line.peer_ae_title().to_owned(),
            line.called_ae_title().to_owned(),
        );
        self.book().titles.push(titles);
        let (mut command, mut data_set) = (Vec::new(), Vec::new());
        loop {
            match line.receive().await {
                Ok(Pdu::PData { data }) => {
                    for value in data {
                        let (whole, context) = (value.is_last, value.presentation_context_id);
                        let into = match value.value_type {
                            PDataValueType::Command => &mut command,
                            PDataValueType::Data => &mut data_set,
                        };
                        into.extend_from_slice(&value.data);
                        if !whole {
                            continue;
                        }
                        if value.value_type == PDataValueType::Command {
                            let said = Command::decode(&command).unwrap();
                            if said.message.is_response() {
                                self.book().answers.push(said.status.unwrap());
                                command.clear();
                            }
                            continue;
                        }
                        let contexts = line.presentation_contexts();
                        let chosen = contexts.iter().find(|c| c.id == context).unwrap();
                        let syntax = chosen.transfer_syntax.clone();
                        let request = Command::decode(&std::mem::take(&mut command)).unwrap();
                        let data_set = std::mem::take(&mut data_set);
                        let (status, report) = if request.message == Message::NActionRq {
                            self.asked(&request, &syntax, &data_set)
                        } else {
                            (self.store(&request, syntax.clone(), data_set), None)
                        };
                        let response = request.response(status).encode();
                        // In two pieces, as some do.
                        for (data, is_last) in [(&response[..20], false), (&response[20..], true)] {
                            let value = PDataValue {
                                presentation_context_id: context,
                                value_type: PDataValueType::Command,
                                is_last,
                                data: data.to_vec(),
                            };
                            line.send(&Pdu::PData { data: vec![value] }).await.unwrap();
                        }
                        let Some(report) = report else { continue };
                        for value in report.values(context, &syntax) {
                            line.send(&Pdu::PData { data: vec![value] }).await.unwrap();
                        }
                    }
                }
                Ok(Pdu::ReleaseRQ) => {
                    let _parted = line.send(&Pdu::ReleaseRP).await;
                    return;
                }
                _ => return,
            }
        }
    }

    fn store(&self, request: &Command, syntax: String, data_set: Vec<u8>) -> u16 {
        assert_eq!(request.message, Message::CStoreRq);
        let class = request.affected_sop_class_uid.clone().unwrap();
        let mut book = self.book();
        if let Some((refused, status)) = book.refused
            && refused == class
        {
            return status;
        }
        let sent = Sent {
            class,
            instance: request.affected_sop_instance_uid.clone().unwrap(),
            syntax,
            data_set,
        };
        // What is there already is told so, as some do.
        if book.sent.iter().any(|one| one.instance == sent.instance) {
            assert!(
                book.sent.contains(&sent),
                "the same object is the same bytes"
            );
            return 0x0111;
        }
        book.sent.push(sent);
        0
    }

    /// The status of a request to commit, and the report that follows on the same association.
    fn asked(&self, request: &Command, syntax: &str, data: &[u8]) -> (u16, Option<Report>) {
        let of = (
            request.requested_sop_class_uid.as_deref(),
            request.requested_sop_instance_uid.as_deref(),
        );
        let push = (
            Some(uids::STORAGE_COMMITMENT_PUSH_MODEL),
            Some(uids::STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE),
        );
        assert_eq!((of, request.action_type_id), (push, Some(1)));
        let mut book = self.book();
        let transaction = Transaction::read(syntax, data);
        book.asked.push(transaction.clone());
        let report = transaction.report(book.lost);
        match book.commits {
            Commits::There => (0, Some(report)),
            Commits::By(at) => {
                let archive = self.clone();
                tokio::spawn(async move {
                    let status = report.bring(at).await;
                    archive.book().answers.push(status);
                });
                (0, None)
            }
            Commits::Never => (0, None),
            Commits::Refuses(status) => (status, None),
        }
    }

    pub(crate) fn table(&self) -> String {
        let address = &self.address;
        format!(
            "[[destination]]\nname = \"pacs\"\nae_title = \"ARCHIVE\"\naddress = \"{address}\"\n"
        )
    }
}

pub(crate) const CLASSES: &[&str] = &[
    uids::SEGMENTATION_STORAGE,
    uids::COMPREHENSIVE3_DSR_STORAGE,
    uids::ENCAPSULATED_PDF_STORAGE,
    uids::STORAGE_COMMITMENT_PUSH_MODEL,
];
pub(crate) const EXPLICIT: &[&str] = &[
    uids::EXPLICIT_VR_LITTLE_ENDIAN,
    uids::IMPLICIT_VR_LITTLE_ENDIAN,
];
