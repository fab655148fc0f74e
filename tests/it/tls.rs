//! TLS: spoken, renewed, and not waited for.
use std::path::PathBuf;
use std::sync::Arc;

use dawson::http::{ListenConfig, Tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use super::access::with;
use super::support::{Listening, open_to_all, patient};

/// A certificate for localhost, with the files of it and its key.
struct Certificate {
    folder: PathBuf,
    der: CertificateDer<'static>,
}

impl Certificate {
    fn new(folder: PathBuf) -> Self {
        std::fs::create_dir_all(&folder).unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(folder.join("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        Self {
            folder,
            der: made.cert.der().clone(),
        }
    }

    fn tls(&self) -> Result<Tls, dawson::http::TlsError> {
        Tls::open(self.folder.join("cert.pem"), self.folder.join("key.pem"))
    }

    /// Asks over TLS, trusting this certificate alone; returns the answer and the protocol.
    async fn ask(&self, server: &Listening, alpn: &[u8]) -> std::io::Result<(String, Vec<u8>)> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let provider = Arc::new(crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        let tcp = tokio::net::TcpStream::connect(server.address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = TlsConnector::from(Arc::new(config))
            .connect(name, tcp)
            .await?;
        let protocol = stream
            .get_ref()
            .1
            .alpn_protocol()
            .unwrap_or_default()
            .to_vec();
        if alpn == b"h2" {
            return Ok((String::new(), protocol));
        }
        let ask = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(ask).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok((answer, protocol))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_spoken_and_a_new_certificate_is_taken_without_a_restart() {
    let service = with(open_to_all()).await;
    let folder = service.state.join("tls");
    let old = Certificate::new(folder.clone());
    let tls = Arc::new(old.tls().unwrap());
    let server = Listening::with(&service, patient(), Some(Arc::clone(&tls))).await;
    let (answer, protocol) = old.ask(&server, b"http/1.1").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(protocol, b"http/1.1");
    assert_eq!(old.ask(&server, b"h2").await.unwrap().1, b"h2");
    // A key that does not belong to the certificate, and a file that is none: the old pair stays.
    let other = Certificate::new(service.state.join("other"));
    for broken in [
        std::fs::read(other.folder.join("key.pem")).unwrap(),
        b"nothing".to_vec(),
    ] {
        std::fs::write(folder.join("key.pem"), &broken).unwrap();
        let error = tls.reload().unwrap_err().to_string();
        assert!(
            error.contains("key.pem") && !error.contains("BEGIN"),
            "{error}"
        );
        old.ask(&server, b"http/1.1").await.unwrap();
    }
    let new = Certificate::new(folder);
    tls.reload().unwrap();
    new.ask(&server, b"http/1.1").await.unwrap();
    assert!(old.ask(&server, b"http/1.1").await.is_err());
    // Who speaks plainly gets nowhere, and stops nobody.
    let mut plain = server
        .send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        .await;
    assert!(!plain.rest().await.contains("HTTP/1.1 200"));
    new.ask(&server, b"http/1.1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_does_not_go_on_is_not_waited_for() {
    let service = with(open_to_all()).await;
    let certificate = Certificate::new(service.state.join("tls"));
    let tls = Arc::new(certificate.tls().unwrap());
    let config = ListenConfig {
        header_timeout: std::time::Duration::from_millis(200),
        ..patient()
    };
    let server = Listening::with(&service, config, Some(tls)).await;
    let mut silent = server.send(b"\x16\x03\x01").await;
    assert_eq!(silent.rest().await, "");
}
