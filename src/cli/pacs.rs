//! What `dawson serve` needs of its settings for the hospital's side.
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use dawson_imaging::dicom::Limits;
use dawson_inference::problem::Code;
use tokio::net::TcpListener;

use super::Failure;
use super::edge::listener;
use crate::config::Settings;
use crate::files;
use crate::jobs::Jobs;
use crate::pacs::{AeTitle, Destination, Inbox, InboxConfig, PacsFile, Receiver, ReceiverConfig};
use crate::tls::Tls;

/// What the operator's file says of nodes and archives; nothing if the settings name none.
pub(super) fn file(settings: &Settings) -> Result<PacsFile, Failure> {
    let Some(path) = settings.optional::<PathBuf>("pacs")? else {
        return Ok(PacsFile::default());
    };
    let bytes = files::read(&path).map_err(|e| Failure::file(&e))?;
    let wrong = |reason: String| settings.wrong("pacs", reason);
    let text = String::from_utf8(bytes).map_err(|e| wrong(e.to_string()))?;
    Ok(PacsFile::parse(&text).map_err(|e| wrong(e.to_string()))?)
}

/// Where results may be filed.
pub(super) fn destinations(
    settings: &Settings,
    file: &PacsFile,
) -> Result<Vec<Destination>, Failure> {
    let found = file.destinations(&ae_title(settings)?, |name| std::env::var(name).ok());
    Ok(found.map_err(|e| settings.wrong("pacs", e.to_string()))?)
}

fn ae_title(settings: &Settings) -> Result<AeTitle, Failure> {
    let title: String = settings.get("ae_title")?;
    Ok(AeTitle::parse(&title).map_err(|e| settings.wrong("ae_title", e))?)
}

/// Where studies arrive image by image.
pub(super) async fn open_inbox(
    settings: &Settings,
    jobs: &Arc<Jobs>,
    file: &PacsFile,
) -> Result<Arc<Inbox>, Failure> {
    let rules = file.rules();
    let rules = rules.map_err(|e| settings.wrong("pacs", e.to_string()))?;
    let limits = Limits {
        max_file_bytes: settings.get("max_image_bytes")?,
        ..Limits::CLINICAL
    };
    let config = InboxConfig {
        quiet: settings.seconds("study_quiet_s")?,
        longest: settings.seconds("study_longest_s")?,
        late: settings.seconds("study_late_s")?,
        limits,
    };
    let inbox = Inbox::open(Arc::clone(jobs), rules, config).await;
    let inbox = inbox.map_err(|e| Failure::new(Code::StorageFailed, e.to_string()))?;
    Ok(Arc::new(inbox))
}

/// Where nodes are listened to, if they are: beyond this machine only if the rules say who may send.
pub(super) fn listen(
    settings: &Settings,
    inbox: &Arc<Inbox>,
    tls: Option<Arc<Tls>>,
) -> Result<Option<(Receiver, TcpListener)>, Failure> {
    let Some(address) = settings.optional::<SocketAddr>("dicom_listen")? else {
        return Ok(None);
    };
    let may_be_open = settings.get("insecure_no_auth")? || !inbox.rules().calling.is_empty();
    if !address.ip().is_loopback() && !may_be_open {
        let reason = "is reached from other machines, but the rules of the setting pacs say of no node that it may \
                      send: list them as [[calling]] (or say --insecure-no-auth and let everybody send)";
        return Err(settings.wrong("dicom_listen", reason).into());
    }
    let config = ReceiverConfig {
        ae_title: ae_title(settings)?,
        max_associations: settings.get("max_associations")?,
        max_association_bytes: settings.get("max_association_bytes")?,
        silence: settings.seconds("dicom_silence_s")?,
        tls,
    };
    let receiver = Receiver::new(Arc::clone(inbox), config);
    Ok(Some((receiver, listener(address)?)))
}
