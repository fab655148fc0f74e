//! A site's rules: which nodes may send, which studies are run, where results go.
use std::net::IpAddr;
use std::num::NonZeroUsize;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::AeTitle;

/// A site's rules (see [`super::PacsFile`]).
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Who may send; anybody on this machine if empty.
    pub calling: Vec<Calling>,
    /// Which studies are run: the first that fits decides. Without any, every study is run and nothing is sent.
    pub route: Vec<Route>,
}

/// A node that may send.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calling {
    /// Its application entity title.
    pub ae_title: String,
    /// Where it calls from: addresses or networks such as `10.1.0.0/16`; anywhere if empty.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// The API key that sees its studies and jobs, by its id; administrators see them in any case.
    pub owner: Option<String>,
}

/// Which studies, and what is done with them. All conditions that are given must fit.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The application entity that sent the study's first image.
    pub calling_ae_title: Option<String>,
    /// A part of the study's description, in any case.
    pub study_description: Option<String>,
    /// A part of the description of one of its series, in any case.
    pub series_description: Option<String>,
    /// The body part that one of its images shows, in any case.
    pub body_part: Option<String>,
    /// With so many images such a study is taken, by what is known of it then; what comes later makes a revision once it
    /// is quiet.
    pub images: Option<NonZeroUsize>,
    /// Whether such a study is run.
    #[serde(default = "yes")]
    pub run: bool,
    /// Options of the job, as in a request over HTTP.
    #[serde(default)]
    pub options: Map<String, Value>,
    /// The destinations that its results are sent to.
    #[serde(default)]
    pub send_to: Vec<String>,
}

fn yes() -> bool {
    true
}

/// What rules look at in a study.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Words {
    pub(super) study_descriptions: Vec<String>,
    pub(super) series_descriptions: Vec<String>,
    pub(super) body_parts: Vec<String>,
}

impl Words {
    /// Adds what is not there yet.
    pub(super) fn add(&mut self, study: &str, series: &str, body_part: &str) {
        let lists = [
            (&mut self.study_descriptions, study),
            (&mut self.series_descriptions, series),
            (&mut self.body_parts, body_part),
        ];
        for (list, word) in lists {
            let word = word.to_lowercase();
            if !list.contains(&word) {
                list.push(word);
            }
        }
    }
}

impl Rules {
    /// The entry of a node, if it may send.
    #[must_use]
    pub fn caller(&self, ae_title: &str, address: IpAddr) -> Option<&Calling> {
        self.calling.iter().find(|calling| {
            let from = &calling.addresses;
            calling.ae_title.trim_matches(' ') == ae_title.trim_matches(' ')
                && (from.is_empty()
                    || from
                        .iter()
                        .filter_map(|text| network(text))
                        .any(|network| network.contains(&address.to_canonical())))
        })
    }

    /// Whether a connection may be listened to at all, before it says who it is.
    #[must_use]
    pub fn may_connect(&self, address: IpAddr) -> bool {
        self.calling.is_empty()
            || self
                .calling
                .iter()
                .any(|calling| self.caller(&calling.ae_title, address).is_some())
    }

    /// The options of a study's job; none if it is not run.
    pub(super) fn options(&self, calling_ae_title: Option<&str>, words: &Words) -> Option<String> {
        if self.route.is_empty() {
            return Some("{}".to_owned());
        }
        let route = self.route_of(calling_ae_title, words)?;
        let mut options = route.options.clone();
        if !route.send_to.is_empty() {
            options.insert("send_to".to_owned(), route.send_to.clone().into());
        }
        route.run.then(|| Value::Object(options).to_string())
    }

    /// How many images a study has, if its route says so.
    pub(super) fn images(&self, calling_ae_title: Option<&str>, words: &Words) -> Option<usize> {
        let route = self.route_of(calling_ae_title, words)?;
        route.images.map(NonZeroUsize::get)
    }

    fn route_of(&self, calling_ae_title: Option<&str>, words: &Words) -> Option<&Route> {
        self.route
            .iter()
            .find(|route| route.fits(calling_ae_title, words))
    }
}

impl Calling {
    /// Whether it can be.
    pub(super) fn check(&self) -> Result<(), String> {
        AeTitle::parse(&self.ae_title).map_err(|e| format!("ae_title {e}"))?;
        let wrong = self.addresses.iter().find(|text| network(text).is_none());
        wrong.map_or(Ok(()), |text| {
            Err(format!(
                "'{text}' is neither an address nor a network such as 10.1.0.0/16"
            ))
        })
    }
}

impl Route {
    fn fits(&self, calling_ae_title: Option<&str>, words: &Words) -> bool {
        let part = |wanted: &Option<String>, found: &[String]| {
            wanted.as_ref().is_none_or(|wanted| {
                let wanted = wanted.to_lowercase();
                found.iter().any(|text| text.contains(&wanted))
            })
        };
        let body_part = self.body_part.as_ref().map(|part| part.to_lowercase());
        let called = self.calling_ae_title.as_deref();
        called.is_none_or(|title| calling_ae_title == Some(title.trim_matches(' ')))
            && part(&self.study_description, &words.study_descriptions)
            && part(&self.series_description, &words.series_descriptions)
            && body_part.is_none_or(|part| words.body_parts.contains(&part))
    }
}

fn network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

#[cfg(test)]
mod tests {
    use super::super::{Error, PacsFile};
    use super::*;

    fn read(text: &str) -> Result<Rules, Error> {
        PacsFile::parse(text)?.rules()
    }

    const SITE: &str = r#"
        [[calling]]
        ae_title = "PACS"
        addresses = ["10.1.0.0/16", "127.0.0.1"]
        [[calling]]
        ae_title = "MR1"

        [[route]]
        series_description = "localizer only"
        run = false
        [[route]]
        calling_ae_title = "PACS"
        study_description = "MS"
        body_part = "brain"
        images = 150
        options = { threshold = 0.4 }
        send_to = ["pacs"]
        [[destination]]
        name = "pacs"
        stow = "http://127.0.0.1/"
    "#;

    fn words(study: &str, series: &str, body_part: &str) -> Words {
        let mut words = Words::default();
        words.add(study, series, body_part);
        words
    }

    #[test]
    fn only_listed_nodes_from_listed_addresses_may_send() {
        let rules = read(SITE).unwrap();
        let may = |title: &str, from: &str| rules.caller(title, from.parse().unwrap()).is_some();
        assert!(
            may("PACS", "10.1.200.3") && may("PACS ", "::ffff:10.1.2.3") && may("MR1", "8.8.8.8")
        );
        assert!(!may("PACS", "10.2.0.1") && !may("pacs", "10.1.0.1") && !may("", "10.1.0.1"));
        assert!(rules.may_connect("8.8.8.8".parse().unwrap()));
        let one = read("[[calling]]\nae_title='A'\naddresses=['::1']").unwrap();
        assert!(!one.may_connect("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn the_first_route_that_fits_decides() {
        let rules = read(SITE).unwrap();
        let ms = words("Brain ms follow-up", "t2_flair", "BRAIN");
        assert_eq!(
            rules.options(Some("PACS"), &ms).as_deref(),
            Some(r#"{"send_to":["pacs"],"threshold":0.4}"#)
        );
        assert_eq!(rules.images(Some("PACS"), &ms), Some(150));
        assert_eq!(rules.options(Some("MR1"), &ms), None);
        assert_eq!(rules.images(Some("MR1"), &ms), None);
        assert_eq!(rules.options(None, &ms), None);
        assert_eq!(rules.options(Some("PACS"), &words("ms", "", "KNEE")), None);
        let first = words("ms", "Localizer only", "brain");
        assert_eq!(rules.options(Some("PACS"), &first), None);
        assert_eq!(Rules::default().options(None, &ms).as_deref(), Some("{}"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, wanted) in [
            ("[[calling]]\nae_title='SEVENTEEN LETTERS'", "ae_title"),
            (
                "[[calling]]\nae_title='A'\naddresses=['10.0.0.0/99']",
                "10.0.0.0/99",
            ),
            ("[[route]]\noptions={send_to=['x']}", "route 1"),
            ("[[route]]\nsend_to=['y']", "'y'"),
            ("[[rout]]", "rout"),
            ("[[route]]\nmodality='MR'", "modality"),
            ("[[route]]\nimages=0", "nonzero"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
