//! TLS: spoken over HTTP and DICOM, renewed, and not waited for.
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dawson::http::ListenConfig;
use dawson::pacs::dimse::Command;
use dawson::tls::{Pair, Tls, TlsError, Within};
use dicom_dictionary_std::uids;
use dicom_ul::Pdu;
use dicom_ul::association::client::ClientAssociationOptions;
use dicom_ul::pdu::{PDataValue, PDataValueType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use super::access::with;
use super::filing::{self, delivery, run};
use super::nodes::listen_by;
use super::support::{Listening, Service, ServiceOptions, open_to_all, patient};

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

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn pair(&self) -> Pair {
        Pair {
            certificate: self.file("cert.pem"),
            key: self.file("key.pem"),
        }
    }

    fn tls(&self) -> Result<Tls, TlsError> {
        Tls::open(self.pair(), None, Within::Http)
    }

    /// A client that trusts this certificate alone, and shows another if it has one.
    fn client(&self, shown: Option<&Self>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let provider = Arc::new(crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let Some(shown) = shown else {
            return builder.with_no_client_auth();
        };
        let key = std::fs::read(shown.file("key.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&key).unwrap();
        let chain = vec![shown.der.clone()];
        builder.with_client_auth_cert(chain, key).unwrap()
    }

    /// C-ECHO over TLS, as a client of [`Certificate::client`]; whether it is answered with success.
    async fn echo(&self, at: SocketAddr, shown: Option<&Self>) -> Result<(), String> {
        let mut line = ClientAssociationOptions::new()
            .calling_ae_title("MR1")
            .called_ae_title("DAWSON")
            .with_presentation_context(uids::VERIFICATION, vec![uids::EXPLICIT_VR_LITTLE_ENDIAN])
            .read_timeout(Duration::from_secs(20))
            .tls_config(self.client(shown))
            .server_name("localhost")
            .establish_tls_async(at)
            .await
            .map_err(|e| e.to_string())?;
        let value = PDataValue {
            presentation_context_id: 1,
            value_type: PDataValueType::Command,
            is_last: true,
            data: Command::c_echo_rq(1).encode(),
        };
        let pdu = Pdu::PData { data: vec![value] };
        line.send(&pdu).await.map_err(|e| e.to_string())?;
        let answer = line.receive().await.map_err(|e| e.to_string())?;
        let Pdu::PData { data } = answer else {
            return Err(format!("{answer:?}"));
        };
        assert_eq!(Command::decode(&data[0].data).unwrap().status, Some(0));
        Ok(())
    }

    /// Asks over TLS, trusting this certificate alone; returns the answer and the protocol.
    async fn ask(&self, server: &Listening, alpn: &[u8]) -> std::io::Result<(String, Vec<u8>)> {
        let mut config = self.client(None);
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
        header_timeout: Duration::from_millis(200),
        ..patient()
    };
    let server = Listening::with(&service, config, Some(tls)).await;
    let mut silent = server.send(b"\x16\x03\x01").await;
    assert_eq!(silent.rest().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_speak_tls_and_a_new_certificate_is_taken_without_a_restart() {
    let service = Service::idle(ServiceOptions::default()).await;
    let folder = service.state.join("tls");
    let old = Certificate::new(folder.clone());
    let tls = Arc::new(Tls::open(old.pair(), None, Within::Dicom).unwrap());
    let at = listen_by(&service, 2, 64 << 20, Some(Arc::clone(&tls))).await;
    old.echo(at, None).await.unwrap();
    // Who speaks plainly, or nothing more than a greeting, gets nowhere and stops nobody.
    let plain = ClientAssociationOptions::new()
        .called_ae_title("DAWSON")
        .with_presentation_context(uids::VERIFICATION, vec![uids::EXPLICIT_VR_LITTLE_ENDIAN])
        .establish_async(at);
    assert!(plain.await.is_err());
    let mut silent = tokio::net::TcpStream::connect(at).await.unwrap();
    silent.write_all(b"\x16\x03\x01").await.unwrap();
    let new = Certificate::new(folder);
    tls.reload().unwrap();
    new.echo(at, None).await.unwrap();
    assert!(old.echo(at, None).await.is_err());
    // It is cut off after the silence that nodes may keep.
    let mut rest = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(20), silent.read_to_end(&mut rest));
    assert!(end.await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_may_have_to_show_a_certificate() {
    let service = Service::idle(ServiceOptions::default()).await;
    let ours = Certificate::new(service.state.join("ours"));
    let theirs = Certificate::new(service.state.join("theirs"));
    let others = Certificate::new(service.state.join("others"));
    let known = Some(theirs.file("cert.pem"));
    let tls = Tls::open(ours.pair(), known, Within::Dicom).unwrap();
    let at = listen_by(&service, 4, 64 << 20, Some(Arc::new(tls))).await;
    ours.echo(at, Some(&theirs)).await.unwrap();
    assert!(ours.echo(at, None).await.is_err());
    assert!(ours.echo(at, Some(&others)).await.is_err());
    let none = Tls::open(ours.pair(), Some(ours.file("key.pem")), Within::Dicom);
    assert!(none.unwrap_err().to_string().contains("key.pem"));
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_filed_over_tls_with_a_host_that_is_believed() {
    // Another service stands for the archive: it takes such objects, and says so.
    let archive = Service::idle(ServiceOptions::default()).await;
    let theirs = Certificate::new(archive.state.join("theirs"));
    let ours = Certificate::new(archive.state.join("ours"));
    let open = |callers| {
        Some(Arc::new(
            Tls::open(theirs.pair(), callers, Within::Dicom).unwrap(),
        ))
    };
    let at = listen_by(&archive, 4, 1 << 30, open(None)).await.port();
    let strict = listen_by(&archive, 4, 1 << 30, open(Some(ours.file("cert.pem"))))
        .await
        .port();
    let plain = listen_by(&archive, 4, 1 << 30, None).await.port();
    let table = |host: &str, port: u16, authority: &Certificate, more: &str| {
        format!(
            "[[destination]]\nname = \"pacs\"\nae_title = \"DAWSON\"\naddress = \"{host}:{port}\"\ntls = true\n\
             tls_ca = \"{}\"\n{more}",
            authority.file("cert.pem").display()
        )
    };
    let shown = format!(
        "tls_cert = \"{}\"\ntls_key = \"{}\"\n",
        ours.file("cert.pem").display(),
        ours.file("key.pem").display()
    );
    let cases = [
        (table("localhost", at, &theirs, ""), "delivered", ""),
        (table("localhost", strict, &theirs, &shown), "delivered", ""),
        (table("localhost", strict, &theirs, ""), "dead", "hung up"),
        (table("localhost", at, &ours, ""), "dead", "certificate"),
        // The certificate is for a name.
        (table("127.0.0.1", at, &theirs, ""), "dead", "certificate"),
        (table("localhost", plain, &theirs, ""), "dead", "TLS"),
    ];
    for (table, state, word) in cases {
        let options = ServiceOptions {
            filing_waits: Vec::new(),
            ..filing::with(table.clone())
        };
        let service = Service::start(options).await;
        let job = run(&service).await;
        let found = delivery(&service, &job, state).await;
        let error = found["error"].as_str().unwrap_or_default();
        assert!(error.contains(word), "{table}: {found}");
    }
}
