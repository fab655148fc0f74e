//! TLS by rustls, from two PEM files that are read again when the operator says so.
//!
//! New files that do not hold leave the old ones in use: a renewal that went wrong must not end a
//! service that works.
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

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
}

/// A certificate and its key, as they were read last.
#[derive(Debug)]
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    current: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads a chain of certificates, the server's first, and its private key.
    ///
    /// # Errors
    /// [`TlsError`]
    pub fn open(certificate: PathBuf, key: PathBuf) -> Result<Self, TlsError> {
        let current = RwLock::new(Arc::new(read(&certificate, &key)?));
        Ok(Self {
            certificate,
            key,
            current,
        })
    }

    /// Reads the files again; connections that are open keep what they have.
    ///
    /// # Errors
    /// [`TlsError`]; then what was read before stays in use.
    pub fn reload(&self) -> Result<(), TlsError> {
        let new = Arc::new(read(&self.certificate, &self.key)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        TlsAcceptor::from(Arc::clone(&current))
    }
}

fn read(certificate: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let pem = |path: &Path, what, reason: String| TlsError::Pem {
        path: path.to_owned(),
        what,
        reason,
    };
    let chain = files::read(certificate).map_err(TlsError::File)?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&chain)
        .collect::<Result<_, _>>()
        .map_err(|e| pem(certificate, "certificate", e.to_string()))?;
    if chain.is_empty() {
        let reason = "there is none in the file".to_owned();
        return Err(pem(certificate, "certificate", reason));
    }
    let private = files::read(key).map_err(TlsError::File)?;
    let private = PrivateKeyDer::from_pem_slice(&private)
        .map_err(|e| pem(key, "private key", e.to_string()))?;
    let pair = |e: tokio_rustls::rustls::Error| TlsError::Pair {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        reason: e.to_string(),
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(pair)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(pair)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
