//! DICOM studies on the command line and in settings: their files, a site's rules, and a key for pseudonyms.
use std::path::{Path, PathBuf};

use dawson_imaging::dicom::{Limits, Pseudonyms, SiteRule};
use dawson_inference::pipeline::{Input, series_rules};
use dawson_inference::problem::Code;

use super::Failure;
use crate::files;

/// The file that an option names, else the environment. A variable may be there for a server's sake and say nothing of this
/// study, so it does not count as the option: that one is refused where it means nothing.
pub(super) fn named(option: Option<&Path>, variable: &str) -> Option<PathBuf> {
    let variable = || std::env::var_os(variable).filter(|name| !name.is_empty());
    option
        .map(Path::to_owned)
        .or_else(|| variable().map(PathBuf::from))
}

/// A site's rules, as `--series-rules` and the setting `series_rules` name them; none if no file is named.
pub(super) fn series_rules_of(path: Option<&Path>) -> Result<Vec<SiteRule>, Failure> {
    let Some(path) = path else {
        return Ok(Vec::new());
    };
    let bytes = files::read(path).map_err(|e| Failure::file(&e))?;
    let wrong = |reason: String| {
        let detail = format!("{}: {reason}", path.display());
        Failure::new(Code::InvalidOptions, detail)
    };
    let text = String::from_utf8(bytes).map_err(|e| wrong(e.to_string()))?;
    series_rules(&text).map_err(|e| wrong(e.to_string()))
}

/// The pseudonyms of de-identified studies, by the key in a file, as `--de-identify-key` and the setting
/// `de_identify_key` name it: 64 hexadecimal digits. Without a file the key is drawn, and nobody ever has it again.
pub(super) fn pseudonyms_of(path: Option<&Path>) -> Result<Pseudonyms, Failure> {
    let mut key = [0; 32];
    let Some(path) = path else {
        getrandom::fill(&mut key).map_err(|e| Failure::new(Code::Internal, e.to_string()))?;
        return Ok(Pseudonyms::new(key));
    };
    let bytes = files::read(path).map_err(|e| Failure::file(&e))?;
    hex::decode_to_slice(bytes.trim_ascii(), &mut key).map_err(|_| {
        let detail = format!(
            "{}: a key for pseudonyms is 64 hexadecimal digits, as `openssl rand -hex 32` prints them",
            path.display()
        );
        Failure::new(Code::InvalidOptions, detail)
    })?;
    Ok(Pseudonyms::new(key))
}

/// The files of a DICOM study: a zip, or all files of a folder and of those within it.
pub(super) fn files_of(path: &Path) -> Result<Input, Failure> {
    if !path.is_dir() {
        let zip = files::read(path).map_err(|e| Failure::file(&e))?;
        return Ok(Input::DicomZip(zip));
    }
    let limits = Limits::CLINICAL;
    let (mut folders, mut paths) = (vec![path.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        let unread = |e| Failure::file(&files::named(&folder, &e));
        for entry in std::fs::read_dir(&folder).map_err(unread)? {
            let entry = entry.map_err(unread)?;
            // Links are not followed, so no folder is seen twice.
            let kind = entry.file_type().map_err(unread)?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                paths.push(entry.path());
            }
        }
        if paths.len() + folders.len() > limits.max_files {
            let detail = format!(
                "{} holds more than {} files",
                path.display(),
                limits.max_files
            );
            return Err(Failure::new(Code::ImageTooLarge, detail));
        }
    }
    paths.sort();
    let mut all = Vec::with_capacity(paths.len());
    let mut left = limits.max_study_bytes as u64;
    for path in &paths {
        let unread = |e| Failure::file(&files::named(path, &e));
        let bytes = std::fs::metadata(path).map_err(unread)?.len();
        left = left.checked_sub(bytes).ok_or_else(|| {
            let detail = format!("the study has more than {} bytes", limits.max_study_bytes);
            Failure::new(Code::ImageTooLarge, detail)
        })?;
        all.push(files::read(path).map_err(|e| Failure::file(&e))?);
    }
    Ok(Input::Dicom(all))
}
