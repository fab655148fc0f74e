//! What `dawson serve` needs of its settings for the hospital's side.
use std::path::PathBuf;
use std::sync::Arc;

use dawson_imaging::dicom::Limits;
use dawson_inference::problem::Code;

use super::Failure;
use crate::config::Settings;
use crate::files;
use crate::jobs::Jobs;
use crate::pacs::{Inbox, InboxConfig, Rules};

/// The site's rules; none if the settings name none.
pub(super) fn rules(settings: &Settings) -> Result<Rules, Failure> {
    let Some(path) = settings.optional::<PathBuf>("pacs")? else {
        return Ok(Rules::default());
    };
    let bytes = files::read(&path).map_err(|e| Failure::file(&e))?;
    let wrong = |reason: String| settings.wrong("pacs", reason);
    let text = String::from_utf8(bytes).map_err(|e| wrong(e.to_string()))?;
    Ok(Rules::parse(&text).map_err(|e| wrong(e.to_string()))?)
}

/// Where studies arrive image by image.
pub(super) async fn open_inbox(
    settings: &Settings,
    jobs: &Arc<Jobs>,
    rules: Rules,
) -> Result<Arc<Inbox>, Failure> {
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
