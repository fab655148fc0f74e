//! TLS by rustls, from PEM files: what this service shows of itself, and whom it believes.
//!
//! [`Tls`] is the side that is called, [`ClientTls`] the side that calls. New files that do not hold leave the old
//! ones of a [`Tls`] in use: a renewal that went wrong must not end a service that works. A [`ClientTls`] keeps
//! nothing: its files are read for each connection.
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls_platform_verifier::BuilderVerifierExt;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, ServerConfig};

use crate::files;

/// Why the files are not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read; the system's words name it.
    #[error("{0}")]
    File(std::io::Error),
    /// A file holds something else.
    #[error("{}: no PEM {what}: {reason}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        what: &'static str,
        /// The parser's words.
        reason: String,
    },
    /// Certificate and key do not go together, or are of a kind that is not taken.
    #[error("{} and {}: {reason}", certificate.display(), key.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// The library's words.
        reason: String,
    },
    /// No certificate of the file, or of this machine, can be believed in.
    #[error("{}: {reason}", authorities.as_ref().map_or_else(
        || "the authorities that this machine knows".to_owned(), |path| path.display().to_string()))]
    Authorities {
        /// The file; none for the machine's own.
        authorities: Option<PathBuf>,
        /// The library's words.
        reason: String,
    },
}

/// A certificate with its chain, and its private key: two PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate's, the chain behind it.
    pub certificate: PathBuf,
    /// The key's.
    pub key: PathBuf,
}

/// What is spoken within TLS (RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Within {
    /// HTTP/2 or HTTP/1.1, as the client wants.
    Http,
    /// DICOM, which has no name there.
    Dicom,
}

/// How the side that is called speaks TLS, by files as they were read last.
#[derive(Debug)]
pub struct Tls {
    pair: Pair,
    callers: Option<PathBuf>,
    within: Within,
    current: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the certificate and its key. If `callers` names a file of authorities, who calls must show a
    /// certificate of one of them.
    ///
    /// # Errors
    /// [`TlsError`]
    pub fn open(pair: Pair, callers: Option<PathBuf>, within: Within) -> Result<Self, TlsError> {
        let current = server(&pair, callers.as_deref(), within)?;
        Ok(Self {
            pair,
            callers,
            within,
            current: RwLock::new(Arc::new(current)),
        })
    }

    /// Reads the files again; connections that are open keep what they have.
    ///
    /// # Errors
    /// [`TlsError`]; then what was read before stays in use.
    pub fn reload(&self) -> Result<(), TlsError> {
        let new = Arc::new(server(&self.pair, self.callers.as_deref(), self.within)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// What the next connection is spoken to with.
    #[must_use]
    pub fn current(&self) -> Arc<ServerConfig> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current)
    }
}

/// How the side that calls speaks TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientTls {
    /// A file of authorities, one of which must vouch for who is called; this machine's own if none.
    pub authorities: Option<PathBuf>,
    /// What is shown to who is called, if it asks.
    pub pair: Option<Pair>,
}

impl ClientTls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`]
    pub fn read(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let distrust = |e: rustls::Error| TlsError::Authorities {
            authorities: self.authorities.clone(),
            reason: e.to_string(),
        };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(distrust)?;
        let builder = match &self.authorities {
            Some(path) => builder.with_root_certificates(authorities(path)?),
            None => builder.with_platform_verifier().map_err(distrust)?,
        };
        let config = match &self.pair {
            Some(pair) => {
                let (chain, key) = pair.read()?;
                let shown = builder.with_client_auth_cert(chain, key);
                shown.map_err(|e| pair.wrong(&e))?
            }
            None => builder.with_no_client_auth(),
        };
        Ok(Arc::new(config))
    }
}

impl Pair {
    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let chain = certificates(&self.certificate)?;
        let key = files::read(&self.key).map_err(TlsError::File)?;
        let key = PrivateKeyDer::from_pem_slice(&key)
            .map_err(|e| no_pem(&self.key, "private key", e.to_string()))?;
        Ok((chain, key))
    }

    fn wrong(&self, error: &rustls::Error) -> TlsError {
        TlsError::Pair {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            reason: error.to_string(),
        }
    }
}

fn server(pair: &Pair, callers: Option<&Path>, within: Within) -> Result<ServerConfig, TlsError> {
    let (chain, key) = pair.read()?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| pair.wrong(&e))?;
    let builder = match callers {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let known = Arc::new(authorities(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(known, provider()).build();
            let verifier = verifier.map_err(|e| TlsError::Authorities {
                authorities: Some(path.to_owned()),
                reason: e.to_string(),
            })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let config = builder.with_single_cert(chain, key);
    let mut config = config.map_err(|e| pair.wrong(&e))?;
    if within == Within::Http {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    }
    Ok(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store.add(certificate).map_err(|e| TlsError::Authorities {
            authorities: Some(path.to_owned()),
            reason: e.to_string(),
        })?;
    }
    Ok(store)
}

/// The certificates of a file, of which there is at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = files::read(path).map_err(TlsError::File)?;
    let found: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|e| no_pem(path, "certificate", e.to_string()))?;
    if found.is_empty() {
        return Err(no_pem(
            path,
            "certificate",
            "there is none in the file".to_owned(),
        ));
    }
    Ok(found)
}

fn no_pem(path: &Path, what: &'static str, reason: String) -> TlsError {
    TlsError::Pem {
        path: path.to_owned(),
        what,
        reason,
    }
}
