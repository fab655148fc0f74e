//! `dawson serve` and `dawson keys` as an operator runs them: processes, files and signals.
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use dawson::config::KEYS;
use dawson_imaging::study::Contrast;
use serde_json::{Value, json};

use super::support::{Form, PATIENCE, file, models};

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let folder =
            std::env::temp_dir().join(format!("dawson-serving-{}", ulid::Ulid::generate()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn state(&self) -> String {
        self.0.join("state").to_string_lossy().into_owned()
    }

    fn dawson(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dawson"));
        command
            .args(words)
            .current_dir(&self.0)
            .env("DAWSON_MODELS", models())
            .env("DAWSON_MODEL", "tiny-lesion")
            .env("DAWSON_STATE", self.state());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.dawson(words).output().unwrap()
    }

    /// A new key.
    fn key(&self, words: &[&str]) -> String {
        let made = self.run(&[&["keys", "new"], words].concat());
        assert!(made.status.success(), "{}", text(&made.stderr));
        text(&made.stdout).trim().to_owned()
    }

    /// What a start that must fail says.
    fn refused(&self, words: &[&str]) -> (i32, String) {
        let listen = ["serve", "--listen", "0.0.0.0:0"];
        let ended = self.run(&[&listen, words].concat());
        (ended.status.code().unwrap(), text(&ended.stderr))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A server process.
struct Server {
    child: Child,
    address: String,
    log: mpsc::Receiver<String>,
    seen: Vec<String>,
}

impl Server {
    fn start(folder: &Folder, words: &[&str]) -> Self {
        let start = ["serve", "--listen", "127.0.0.1:0", "--log-format", "json"];
        let mut child = folder
            .dawson(&[&start, words].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (told, log) = mpsc::channel();
        let errors = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in errors.lines().map_while(Result::ok) {
                if told.send(line).is_err() {
                    return;
                }
            }
        });
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let address = line.trim().rsplit('/').next().unwrap().to_owned();
        Self {
            child,
            address,
            log,
            seen: Vec::new(),
        }
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status();
        assert!(sent.unwrap().success());
    }

    /// Reads the log until a line satisfies `is`.
    fn logs(&mut self, is: impl Fn(&Value) -> bool) -> Value {
        loop {
            let line = self.log.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("no such line: {:#?}", self.seen));
            self.seen.push(line.clone());
            if let Ok(line) = serde_json::from_str::<Value>(&line)
                && is(&line)
            {
                return line;
            }
        }
    }

    fn audits(&mut self, what: &str) -> Value {
        self.logs(|line| line["target"] == "audit" && line["fields"]["what"] == what)["fields"]
            .clone()
    }

    fn ask(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = text(&answer);
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    /// Waits for the process, which must end by itself.
    fn ended(&mut self) -> i32 {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.seen.extend(self.log.iter());
                return status.code().unwrap();
            }
            assert!(started.elapsed() < PATIENCE, "the server does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[test]
fn a_server_asks_for_keys_keeps_an_audit_and_tells_no_secret() {
    let folder = Folder::new();
    let mut spellings = Vec::new();
    for name in ["canary-name-3a", "reader"] {
        spellings.push(folder.key(&["--name", name]));
    }
    let key = spellings[0].clone();
    let mut server = Server::start(&folder, &["--log", "debug,hyper=info,h2=info,sqlx=info"]);
    let bearer = format!("Authorization: Bearer {key}\r\nX-Request-Id: audit-1\r\n");
    assert_eq!(server.ask("GET", "/v1/models", "", b"").0, 401);
    assert_eq!(server.ask("GET", "/v1/models", &bearer, b"").0, 200);
    let boundary = "b7";
    let mut body = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"options\"\r\n\r\n{}\r\n\
         --{boundary}\r\nContent-Disposition: form-data; name=\"flair\"; filename=\"CANARY^JANE.nii\"\r\n\r\n",
        json!({ "label": "canary-label-5c" })
    )
    .into_bytes();
    body.extend(file(Contrast::Flair));
    body.extend(format!("\r\n--{boundary}--\r\n").as_bytes());
    let form = format!(
        "{bearer}Content-Type: multipart/form-data; boundary={boundary}\r\nPrefer: wait=60\r\n\
         traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n"
    );
    let (status, job) = server.ask("POST", "/v1/segmentations", &form, &body);
    assert_eq!(status, 200, "{job}");
    let job: Value = serde_json::from_str(&job).unwrap();
    let id = job["id"].as_str().unwrap();
    let submitted = server.audits("submit");
    assert_eq!(
        (&submitted["job"], &submitted["status"]),
        (&json!(id), &json!(200))
    );
    assert_eq!(submitted["request_id"], "audit-1");
    let who = submitted["who"].as_str().unwrap().to_owned();
    let list = text(&folder.run(&["keys", "list"]).stdout);
    assert!(list.contains(&format!("{who}  valid")), "{list}");
    let answered =
        server.logs(|line| line["span"]["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(answered["span"]["parent_id"], "00f067aa0ba902b7");
    let path = format!("/v1/segmentations/{id}");
    let report = format!("{path}/artifacts/report.json");
    assert_eq!(server.ask("GET", &report, &bearer, b"").0, 200);
    assert_eq!(server.audits("read")["who"], who.as_str());
    let cancel = format!("{path}/cancel");
    assert_eq!(server.ask("POST", &cancel, &bearer, b"").0, 409);
    assert_eq!(server.audits("cancel")["code"], "job_ended");
    assert_eq!(server.ask("DELETE", &path, "", b"").0, 401);
    assert_eq!(server.audits("erase")["who"], "unknown");
    assert_eq!(server.ask("DELETE", &path, &bearer, b"").0, 204);
    assert_eq!(server.audits("erase")["status"], 204);

    // The operator's changes are seen, by themselves and at SIGHUP.
    assert!(
        folder
            .run(&["keys", "revoke", "canary-name-3a"])
            .status
            .success()
    );
    assert_eq!(server.audits("key_withdrawn")["key"], who.as_str());
    assert_eq!(server.ask("GET", "/v1/models", &bearer, b"").0, 401);
    spellings.push(folder.key(&["--name", "new", "--scope", "read"]));
    server.signal("HUP");
    server.audits("key_added");
    let new = format!("Authorization: Bearer {}\r\n", spellings[2]);
    assert_eq!(server.ask("GET", "/v1/models", &new, b"").0, 200);
    // The key is on the list before the networks are: SIGHUP is for both.
    server.audits("models");

    server.signal("TERM");
    assert_eq!(server.ended(), 0);
    let log = server.seen.join("\n");
    for secret in spellings
        .iter()
        .map(String::as_str)
        .chain(["CANARY", "canary"])
    {
        let secret = secret.trim_start_matches("dawson_");
        assert!(!log.contains(secret), "{secret} is in the log: {log}");
    }
}

#[test]
fn a_stop_ends_in_time_whatever_clients_do() {
    let folder = Folder::new();
    let mut server = Server::start(&folder, &["--upload-grace-s", "0.2", "--grace-s", "0.2"]);
    let (kind, body) = Form::of(&[Contrast::Flair]).close();
    let mut stuck = TcpStream::connect(&server.address).unwrap();
    let head = format!(
        "POST /v1/segmentations HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stuck.write_all(head.as_bytes()).unwrap();
    stuck.write_all(&body[..500]).unwrap();
    let _silent = TcpStream::connect(&server.address).unwrap();
    let incoming = folder.0.join("state/incoming");
    while std::fs::read_dir(&incoming).unwrap().count() == 0 {
        std::thread::yield_now();
    }
    server.signal("TERM");
    assert_eq!(server.ended(), 0);
    assert!(
        server
            .seen
            .iter()
            .any(|line| line.contains("connections were closed"))
    );
}

#[test]
fn nobody_is_let_in_from_elsewhere_by_mistake() {
    let folder = Folder::new();
    let (code, said) = folder.refused(&[]);
    assert_eq!(code, 3);
    for word in [
        "dawson keys new",
        "tls_cert",
        "behind_proxy",
        "--insecure-no-auth",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let (code, said) = folder.refused(&["--behind-proxy"]);
    assert!(code == 3 && said.contains("dawson keys new"), "{said}");
    folder.key(&["--name", "pacs"]);
    let (code, said) = folder.refused(&[]);
    assert!(code == 3 && said.contains("in the clear"), "{said}");
    // These are let through, up to a device that is not there.
    for words in [["--behind-proxy"], ["--insecure-no-auth"]] {
        let (code, said) = folder.refused(&[&words[..], &["--device", "cuda"]].concat());
        assert_eq!(code, 4, "{said}");
    }
    let (code, said) = folder.refused(&["--tls-cert", "cert.pem"]);
    assert!(code == 3 && said.contains("tls_key"), "{said}");
    let (code, said) = folder.refused(&["--tls-cert", "cert.pem", "--tls-key", "key.pem"]);
    assert!(code == 3 && said.contains("cert.pem"), "{said}");
    let (code, said) = folder.refused(&["--insecure-no-auth", "--dicom-tls"]);
    assert!(
        code == 3 && said.contains("needs tls_cert and tls_key"),
        "{said}"
    );
    let (code, said) = folder.refused(&["--insecure-no-auth", "--dicom-tls-ca", "ca.pem"]);
    assert!(code == 3 && said.contains("belongs to dicom_tls"), "{said}");
    let (code, said) = folder.refused(&["--insecure-no-auth", "--cors-origins", "*"]);
    assert!(code == 3 && said.contains("cors_origins"), "{said}");
    let (code, said) = folder.refused(&["--insecure-no-auth", "--keys-file", "nowhere.toml"]);
    assert!(code == 3 && said.contains("nowhere.toml"), "{said}");
    // A file that others may write lets anybody in.
    let keys = folder.0.join("state/keys.toml");
    std::fs::set_permissions(keys, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let (code, said) = folder.refused(&["--behind-proxy"]);
    assert!(code == 3 && said.contains("chmod 600"), "{said}");
}

#[test]
fn keys_are_made_listed_and_revoked() {
    let folder = Folder::new();
    assert_eq!(text(&folder.run(&["keys", "list"]).stdout), "");
    let key = folder.key(&[
        "--name",
        "viewer",
        "--scope",
        "read,urgent",
        "--expires-days",
        "30",
    ]);
    assert!(key.starts_with("dawson_") && !key.contains(char::is_whitespace));
    let listed = folder.run(&["keys", "list", "--json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed[0]["name"], "viewer");
    assert_eq!(listed[0]["scopes"], json!(["urgent", "read"]));
    assert_eq!(listed[0]["state"], "valid");
    assert!(listed[0]["expires"].is_string() && !listed.to_string().contains(&key[7..]));
    let twice = folder.run(&["keys", "new", "--name", "viewer"]);
    assert_eq!(twice.status.code(), Some(3));
    let wrong = folder.run(&["keys", "new", "--name", "x", "--scope", "everything"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("submit, urgent, read and admin"));
    let id = listed[0]["id"].as_str().unwrap();
    let revoked = folder.run(&["keys", "revoke", id]);
    assert!(revoked.status.success() && text(&revoked.stderr).contains("key_revoked"));
    assert_eq!(folder.run(&["keys", "revoke", id]).status.code(), Some(3));
    assert!(text(&folder.run(&["keys", "list"]).stdout).contains("revoked"));
}

#[test]
fn printed_settings_hide_what_is_secret() {
    let folder = Folder::new();
    std::fs::write(
        folder.0.join("dawson.toml"),
        "database = \"postgres://dawson:canary-pw@db/dawson\"\ncallback_secret = \"whsec_canary\"\n",
    )
    .unwrap();
    let shown = folder.run(&["serve", "--print-config"]);
    let shown = text(&shown.stdout) + &text(&shown.stderr);
    assert!(
        shown.contains("database = \"(not shown)\"  # dawson.toml"),
        "{shown}"
    );
    assert!(!shown.contains("canary"), "{shown}");
}

#[test]
fn the_limits_in_the_documents_are_the_programs() {
    let text = include_str!("../../docs/security.md");
    let rows: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .filter_map(|(name, rest)| Some((name, rest.split_once(" |")?.0)))
        .filter(|(_, default)| default.bytes().all(|b| b.is_ascii_digit()))
        .collect();
    assert!(rows.len() > 20, "{rows:?}");
    for (name, default) in &rows {
        let key = KEYS.iter().find(|key| key.name == *name);
        assert_eq!(key.map(|key| key.default), Some(*default), "{name}");
    }
    // And every limit of the wire is in the table.
    let is_limit = |name: &str| {
        let other = ["max_sessions"];
        (name.starts_with("max_") || name.starts_with("key_") || name.ends_with("_timeout_s"))
            && !other.contains(&name)
    };
    for key in KEYS.iter().filter(|key| is_limit(key.name)) {
        assert!(
            rows.iter().any(|(name, _)| *name == key.name),
            "{}",
            key.name
        );
    }
    // Every setting that the page names is one.
    for word in text.split('`').skip(1).step_by(2) {
        let looks = word.contains('_') && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        assert!(!looks || KEYS.iter().any(|key| key.name == word), "{word}");
    }
}
