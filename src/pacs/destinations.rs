//! Where results may be filed: the tables `[[destination]]` of the operator's file, checked.
use std::path::PathBuf;
use std::time::Duration;

use dawson_imaging::dicom::write::Kind;
use reqwest::Url;
use reqwest::header::HeaderValue;
use serde::Deserialize;

use crate::jobs::Wants;
use crate::tls::{ClientTls, Pair};

/// What is sent unless objects are named: label maps and captures are not taken everywhere.
const USUAL: [Kind; 4] = [
    Kind::Burden,
    Kind::EachLesion,
    Kind::Measurements,
    Kind::Document,
];
/// The longest name of a destination.
const MOST_NAME: usize = 64;
/// How long an archive may take to commit to what it has stored, unless the table says.
const COMMITMENT_WAIT: Duration = Duration::from_mins(10);

/// A table of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DestinationTable {
    pub(super) name: String,
    ae_title: Option<String>,
    address: Option<String>,
    calling_ae_title: Option<String>,
    stow: Option<String>,
    authorization_env: Option<String>,
    objects: Option<Vec<String>>,
    #[serde(default)]
    commitment: bool,
    commitment_wait_s: Option<f64>,
    #[serde(default)]
    tls: bool,
    tls_ca: Option<PathBuf>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
}

/// An archive that results are sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// What requests, logs and metrics call it.
    pub name: String,
    /// What is sent there, each once.
    pub objects: Vec<Kind>,
    /// How it is spoken to.
    pub peer: Peer,
}

/// How an archive is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// By C-STORE (PS3.4 annex B).
    Dimse(DimsePeer),
    /// By STOW-RS (PS3.18 section 10.5).
    Stow(StowPeer),
}

/// An application entity on the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DimsePeer {
    /// What it is called.
    pub ae_title: AeTitle,
    /// `host:port`
    pub address: String,
    /// What Dawson calls itself there.
    pub calling_ae_title: AeTitle,
    /// How long it may take to commit to what it has stored, if it is asked to (PS3.4 annex J).
    pub commitment: Option<Duration>,
    /// How TLS is spoken with it, if it is.
    pub tls: Option<ClientTls>,
}

/// A service of the web protocols of DICOM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StowPeer {
    /// Its root, without a slash at the end.
    pub root: Url,
    /// The value of `Authorization`; never printed.
    pub authorization: Option<HeaderValue>,
}

/// An application entity's title: 1 to 16 printable characters (PS3.5 section 6.2, VR AE).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AeTitle(String);

impl AeTitle {
    /// Reads a title; spaces at its ends mean nothing.
    ///
    /// # Errors
    /// What it must be.
    pub fn parse(text: &str) -> Result<Self, String> {
        let title = text.trim_matches(' ');
        let plain = |b: u8| b == b' ' || (b.is_ascii_graphic() && b != b'\\');
        if (1..=16).contains(&title.len()) && title.bytes().all(plain) {
            Ok(Self(title.to_owned()))
        } else {
            Err("must be 1 to 16 printable ASCII characters without a backslash".to_owned())
        }
    }

    /// The title.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Destination {
    /// What jobs know of it.
    #[must_use]
    pub fn wants(&self) -> Wants {
        Wants {
            destination: self.name.clone(),
            objects: self.objects.clone(),
        }
    }
}

impl DestinationTable {
    /// The destination of this table; `ours` is what Dawson calls itself unless the table says another.
    pub(super) fn check(
        &self,
        ours: &AeTitle,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Destination, String> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if !(1..=MOST_NAME).contains(&self.name.len()) || !self.name.bytes().all(plain) {
            return Err(format!(
                "its name must be 1 to {MOST_NAME} letters, digits, dots, dashes and underscores"
            ));
        }
        let peer = match (&self.ae_title, &self.address, &self.stow) {
            (Some(ae_title), Some(address), None) => {
                self.dimse(ours, ae_title, address).map(Peer::Dimse)
            }
            (None, None, Some(root)) => self.stow(root, variable).map(Peer::Stow),
            _ => Err("must have either ae_title and address or stow".to_owned()),
        }?;
        Ok(Destination {
            name: self.name.clone(),
            objects: self.objects()?,
            peer,
        })
    }

    fn dimse(&self, ours: &AeTitle, ae_title: &str, address: &str) -> Result<DimsePeer, String> {
        if self.authorization_env.is_some() {
            return Err("authorization_env belongs to stow".to_owned());
        }
        let port = address
            .rsplit_once(':')
            .filter(|(host, _)| !host.is_empty());
        let port = port.and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_none_or(|port| port == 0) {
            return Err(format!("address '{address}' must be host:port"));
        }
        let calling = match &self.calling_ae_title {
            Some(title) => AeTitle::parse(title).map_err(|e| format!("calling_ae_title {e}"))?,
            None => ours.clone(),
        };
        if self.commitment && calling != *ours {
            return Err(
                "calling_ae_title with commitment: the archive would tell that title, which is not listened for"
                    .to_owned(),
            );
        }
        Ok(DimsePeer {
            commitment: self.commitment()?,
            tls: self.tls()?,
            ae_title: AeTitle::parse(ae_title).map_err(|e| format!("ae_title {e}"))?,
            address: address.to_owned(),
            calling_ae_title: calling,
        })
    }

    fn commitment(&self) -> Result<Option<Duration>, String> {
        let wait = match self.commitment_wait_s {
            None => COMMITMENT_WAIT,
            Some(_) if !self.commitment => {
                return Err("commitment_wait_s belongs to commitment = true".to_owned());
            }
            Some(seconds) => Duration::try_from_secs_f64(seconds)
                .ok()
                .filter(|wait| !wait.is_zero())
                .ok_or("commitment_wait_s must be more than 0 seconds")?,
        };
        Ok(self.commitment.then_some(wait))
    }

    fn tls(&self) -> Result<Option<ClientTls>, String> {
        let pair = match (&self.tls_cert, &self.tls_key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some(Pair {
                certificate: certificate.clone(),
                key: key.clone(),
            }),
            _ => return Err("tls_cert and tls_key go together".to_owned()),
        };
        if !self.tls {
            return if pair.is_none() && self.tls_ca.is_none() {
                Ok(None)
            } else {
                Err("tls_ca, tls_cert and tls_key belong to tls = true".to_owned())
            };
        }
        let tls = ClientTls {
            authorities: self.tls_ca.clone(),
            pair,
        };
        // What does not hold is said now, and not when the first result is to be filed.
        tls.read().map_err(|e| e.to_string())?;
        Ok(Some(tls))
    }

    fn stow(
        &self,
        root: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<StowPeer, String> {
        if self.calling_ae_title.is_some() {
            return Err("calling_ae_title belongs to ae_title and address".to_owned());
        }
        if self.commitment || self.commitment_wait_s.is_some() {
            return Err("commitment belongs to ae_title and address".to_owned());
        }
        if self.tls()?.is_some() {
            return Err("tls belongs to ae_title and address; stow says https".to_owned());
        }
        let url: Option<Url> = root.trim_end_matches('/').parse().ok();
        let bare = |url: &Url| {
            matches!(url.scheme(), "http" | "https")
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
                && url.fragment().is_none()
        };
        let root = url
            .filter(bare)
            .ok_or("stow must be http://… or https://… without user, query and fragment")?;
        let secret = |name: &String| {
            let value = variable(name).filter(|value| !value.is_empty());
            let value = value
                .ok_or_else(|| format!("the variable {name} of authorization_env is not set"))?;
            let mut header = HeaderValue::from_str(&value)
                .map_err(|_| format!("the variable {name} is no value of a header"))?;
            header.set_sensitive(true);
            Ok::<_, String>(header)
        };
        Ok(StowPeer {
            root,
            authorization: self.authorization_env.as_ref().map(secret).transpose()?,
        })
    }

    fn objects(&self) -> Result<Vec<Kind>, String> {
        let Some(names) = &self.objects else {
            return Ok(USUAL.to_vec());
        };
        let mut objects = Vec::with_capacity(names.len());
        for name in names {
            let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name);
            let kind = kind.ok_or_else(|| {
                let known = Kind::ALL.map(Kind::name).join(", ");
                format!("'{name}' is no kind of object; there are: {known}")
            })?;
            if !objects.contains(&kind) {
                objects.push(kind);
            }
        }
        if objects.is_empty() {
            return Err("objects names none".to_owned());
        }
        Ok(objects)
    }
}
