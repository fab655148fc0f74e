//! The operator's file on nodes and archives, TOML: the setting `pacs`.
use serde::Deserialize;

use super::destinations::{AeTitle, Destination, DestinationTable};
use super::rules::{Calling, Route, Rules};

/// The tables of the file; what is not known is refused by name.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PacsFile {
    #[serde(default)]
    destination: Vec<DestinationTable>,
    #[serde(default)]
    calling: Vec<Calling>,
    #[serde(default)]
    route: Vec<Route>,
}

/// Why the file does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No TOML, or a key that is not known.
    #[error("line {line}: {reason}")]
    Toml {
        /// Where, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A node that does not hold.
    #[error("calling '{ae_title}': {reason}")]
    Calling {
        /// Its title.
        ae_title: String,
        /// What is wrong.
        reason: String,
    },
    /// A route that does not hold.
    #[error("route {number}: {reason}")]
    Route {
        /// From 1.
        number: usize,
        /// What is wrong.
        reason: String,
    },
    /// A destination that does not hold.
    #[error("destination '{name}': {reason}")]
    Destination {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

impl PacsFile {
    /// Reads the text of the file.
    ///
    /// # Errors
    /// [`Error::Toml`]
    pub fn parse(text: &str) -> Result<Self, Error> {
        toml::from_str(text).map_err(|e| {
            let at = e.span().map_or(0, |span| span.start);
            let before = text.as_bytes().iter().take(at);
            Error::Toml {
                line: before.filter(|&&b| b == b'\n').count() + 1,
                reason: e.message().to_owned(),
            }
        })
    }

    /// Who may send, which studies are run, and where their results go.
    ///
    /// # Errors
    /// [`Error::Calling`], [`Error::Route`]
    pub fn rules(&self) -> Result<Rules, Error> {
        for calling in &self.calling {
            calling.check().map_err(|reason| Error::Calling {
                ae_title: calling.ae_title.clone(),
                reason,
            })?;
        }
        for (route, number) in self.route.iter().zip(1..) {
            let wrong = |reason| Error::Route { number, reason };
            if route.options.contains_key("send_to") {
                return Err(wrong(
                    "send_to stands beside options, not in them".to_owned(),
                ));
            }
            let nameless = route.options.get("de_identify") == Some(&true.into());
            if nameless && !route.send_to.is_empty() {
                return Err(wrong(
                    "send_to and de_identify exclude each other: what is filed names its patient"
                        .to_owned(),
                ));
            }
            let is_known = |name: &&String| self.destination.iter().any(|d| &d.name == *name);
            if let Some(unknown) = route.send_to.iter().find(|name| !is_known(name)) {
                return Err(wrong(format!("there is no destination '{unknown}'")));
            }
        }
        Ok(Rules {
            calling: self.calling.clone(),
            route: self.route.clone(),
        })
    }

    /// The destinations, in the file's order. `ours` is what Dawson calls itself, and `variable` gives what the
    /// environment says.
    ///
    /// # Errors
    /// [`Error::Destination`]
    pub fn destinations(
        &self,
        ours: &AeTitle,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Vec<Destination>, Error> {
        let mut all: Vec<Destination> = Vec::with_capacity(self.destination.len());
        for table in &self.destination {
            let wrong = |reason: String| Error::Destination {
                name: table.name.clone(),
                reason,
            };
            let destination = table.check(ours, &variable).map_err(wrong)?;
            if all.iter().any(|other| other.name == destination.name) {
                return Err(wrong("is there twice".to_owned()));
            }
            all.push(destination);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use dawson_imaging::dicom::write::Kind;

    use super::super::{Peer, StowPeer};
    use super::*;

    fn read(text: &str) -> Result<Vec<Destination>, Error> {
        let variable = |name: &str| (name == "PACS_TOKEN").then(|| "Bearer canary-51c0".to_owned());
        let ours = AeTitle::parse("DAWSON").unwrap();
        PacsFile::parse(text)?.destinations(&ours, variable)
    }

    #[test]
    fn a_destination_is_an_application_entity_or_a_dicomweb_root() {
        let found = read(
            r#"
            [[destination]]
            name = "pacs"
            ae_title = "ORTHANC"
            address = "pacs.example:104"

            [[destination]]
            name = "web"
            stow = "http://pacs.example/dicom-web/"
            authorization_env = "PACS_TOKEN"
            objects = ["dicom_sr", "dicom_sc", "dicom_sr"]
            "#,
        )
        .unwrap();
        let usual = [
            Kind::Burden,
            Kind::EachLesion,
            Kind::Measurements,
            Kind::Document,
        ];
        assert_eq!(found[0].objects, usual);
        let Peer::Dimse(peer) = &found[0].peer else {
            panic!()
        };
        assert_eq!(
            (
                peer.ae_title.as_str(),
                peer.address.as_str(),
                peer.calling_ae_title.as_str()
            ),
            ("ORTHANC", "pacs.example:104", "DAWSON")
        );
        assert_eq!(found[1].objects, [Kind::Measurements, Kind::Capture]);
        let Peer::Stow(StowPeer {
            root,
            authorization,
        }) = &found[1].peer
        else {
            panic!()
        };
        assert_eq!(root.as_str(), "http://pacs.example/dicom-web");
        assert_eq!(
            authorization.as_ref().unwrap().as_bytes(),
            b"Bearer canary-51c0"
        );
        assert!(!format!("{found:?}").contains("canary"), "{found:?}");
        assert_eq!(read("").unwrap(), []);
    }

    #[test]
    fn a_route_whose_results_name_nobody_files_none() {
        let rules = |send_to: &str| {
            let archive = "[[destination]]\nname = \"p\"\nae_title = \"P\"\naddress = \"h:104\"\n";
            let route = "[[route]]\noptions = { de_identify = true }\n";
            PacsFile::parse(&format!("{archive}{route}{send_to}"))
                .unwrap()
                .rules()
        };
        assert!(rules("").is_ok());
        let refused = rules("send_to = [\"p\"]").unwrap_err().to_string();
        assert!(refused.contains("exclude each other"), "{refused}");
    }

    #[test]
    fn commitment_is_asked_for_only_where_the_table_says_so() {
        let waits = |more: &str| {
            let table = "[[destination]]\nname = \"p\"\nae_title = \"P\"\naddress = \"h:104\"\n";
            let found = read(&format!("{table}{more}")).unwrap();
            let Peer::Dimse(peer) = &found[0].peer else {
                panic!()
            };
            peer.commitment.map(|wait| wait.as_millis())
        };
        assert_eq!(waits(""), None);
        assert_eq!(waits("commitment = true"), Some(600_000));
        assert_eq!(
            waits("commitment = true\ncommitment_wait_s = 0.5"),
            Some(500)
        );
    }

    #[test]
    fn what_does_not_hold_is_refused_by_name() {
        let typo = read("[[destination]]\nname = \"p\"\nadress = \"x:1\"\n")
            .unwrap_err()
            .to_string();
        assert!(
            typo.starts_with("line 3: ") && typo.contains("adress"),
            "{typo}"
        );
        assert!(
            read("[[destinations]]\nname = \"p\"")
                .unwrap_err()
                .to_string()
                .contains("destinations")
        );
        let with = |more: &str| {
            let text = format!("[[destination]]\nname = \"p\"\n{more}");
            read(&text).map_or_else(|e| e.to_string(), |_| String::new())
        };
        let pacs = "ae_title = \"P\"\naddress = \"h:104\"\n";
        let cases = [
            ("", "either ae_title and address or stow"),
            ("ae_title = \"P\"", "either ae_title and address or stow"),
            (
                &format!("{pacs}stow = \"http://h/\""),
                "either ae_title and address or stow",
            ),
            (
                &format!("{pacs}authorization_env = \"PACS_TOKEN\""),
                "authorization_env",
            ),
            (&format!("{pacs}objects = [\"seg\"]"), "'seg'"),
            (&format!("{pacs}objects = []"), "objects"),
            (
                &format!("{pacs}calling_ae_title = \"A TITLE OF SEVENTEEN\""),
                "calling_ae_title",
            ),
            ("ae_title = \"P\"\naddress = \"h\"", "host:port"),
            ("ae_title = \"P\"\naddress = \"h:0\"", "host:port"),
            ("ae_title = \"a\\\\b\"\naddress = \"h:104\"", "ae_title"),
            ("stow = \"ftp://h/\"", "http"),
            ("stow = \"http://u:p@h/\"", "http"),
            ("stow = \"http://h/?q=1\"", "http"),
            (
                "stow = \"http://h/\"\ncalling_ae_title = \"D\"",
                "calling_ae_title",
            ),
            (
                "stow = \"http://h/\"\nauthorization_env = \"NOT_SET\"",
                "NOT_SET",
            ),
            ("stow = \"http://h/\"\ncommitment = true", "commitment"),
            ("stow = \"http://h/\"\ntls = true", "https"),
            (&format!("{pacs}tls_ca = \"ca.pem\""), "tls = true"),
            (
                &format!("{pacs}tls = true\ntls_cert = \"c.pem\""),
                "tls_key",
            ),
            (
                &format!("{pacs}tls = true\ntls_ca = \"no-such.pem\""),
                "no-such.pem",
            ),
            (
                &format!("{pacs}commitment = true\ncalling_ae_title = \"D\""),
                "calling_ae_title",
            ),
            (
                &format!("{pacs}commitment_wait_s = 60"),
                "commitment = true",
            ),
            (
                &format!("{pacs}commitment = true\ncommitment_wait_s = -1"),
                "commitment_wait_s",
            ),
        ];
        for (more, word) in cases {
            let said = with(more);
            assert!(
                said.starts_with("destination 'p': ") && said.contains(word),
                "{more}: {said}"
            );
        }
        let twice = format!("[[destination]]\nname = \"p\"\n{pacs}").repeat(2);
        assert!(read(&twice).unwrap_err().to_string().contains("twice"));
        let slash = read("[[destination]]\nname = \"a/b\"\nstow = \"http://h\"")
            .unwrap_err()
            .to_string();
        assert!(slash.contains("name"), "{slash}");
    }
}
