//! Telling callers that their jobs have ended, by the Standard Webhooks convention.
//!
//! The body is signed with HMAC-SHA256 over `id.timestamp.body`. An end is told at least once: the row
//! says whether it was told, so it is tried again after a restart. The id is the same every time.
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use reqwest::Url;
use serde_json::json;
use sha2::Sha256;

use super::{Jobs, now_ms, time};
use crate::store::{self, Callback, Job};
use crate::telemetry;

/// Seconds until the next try after each that failed; after the last it is given up.
const AGAIN_S: [i64; 10] = [5, 15, 60, 300, 900, 1800, 3600, 7200, 14400, 28800];
/// A receiver must answer within this.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often ends are looked for that nobody spoke of.
const LOOK: Duration = Duration::from_secs(5);

/// Who may be told of a job's end.
#[derive(Debug, Clone, Default)]
pub struct CallbackConfig {
    /// `host` or `host:port`, as they stand in addresses; nobody else is ever called.
    pub hosts: Vec<String>,
    /// The key of the signatures.
    pub secret: Secret,
}

/// A key that is never printed.
#[derive(Clone, Default)]
pub struct Secret(Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// Reads `whsec_` and base64, as the convention writes keys.
    ///
    /// # Errors
    /// What the text must be.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wanted = "must be whsec_ and 24 to 64 bytes in base64";
        let encoded = text.strip_prefix("whsec_").ok_or(wanted)?;
        let key = BASE64.decode(encoded).map_err(|_| wanted)?;
        if (24..=64).contains(&key.len()) {
            Ok(Self(key))
        } else {
            Err(wanted.to_owned())
        }
    }

    fn sign(&self, id: &str, timestamp: i64, body: &str) -> Option<String> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).ok()?;
        mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
        Some(format!("v1,{}", BASE64.encode(mac.finalize().into_bytes())))
    }
}

impl CallbackConfig {
    /// Whether an address may be called.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn check(&self, address: &str) -> Result<Url, String> {
        if self.hosts.is_empty() {
            return Err("callback_url: this server calls nobody back".to_owned());
        }
        let url: Url = address
            .parse()
            .map_err(|e| format!("callback_url is no address: {e}"))?;
        if !matches!(url.scheme(), "https" | "http") || !url.username().is_empty() {
            return Err("callback_url must be https://… or http://… without a user".to_owned());
        }
        let host = url.host_str().unwrap_or_default();
        let named = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        if self.hosts.contains(&named) {
            Ok(url)
        } else {
            Err(format!(
                "callback_url: '{named}' is not a host that this server may call"
            ))
        }
    }
}

impl Jobs {
    /// Tells ends until it is aborted.
    pub(super) async fn tell_ends(self: Arc<Self>) {
        if self.config.callbacks.hosts.is_empty() {
            return;
        }
        let client = reqwest::Client::builder()
            .timeout(PATIENCE)
            .redirect(reqwest::redirect::Policy::none())
            .build();
        let client = match client {
            Ok(client) => client,
            Err(error) => {
                tracing::error!(%error, "nobody can be called back");
                return;
            }
        };
        loop {
            match self.tell_next(&client).await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => telemetry::store_failed("callback", &error),
            }
            tokio::select! {
                () = self.told.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Tells one end, if there is one to tell.
    async fn tell_next(&self, client: &reqwest::Client) -> Result<bool, store::Error> {
        let now = now_ms();
        // Longer than a try takes: nobody else tries meanwhile.
        let again_at = now + 4 * i64::try_from(PATIENCE.as_millis()).unwrap_or(60_000);
        let Some(Callback { job, tries }) = self.store.next_callback(now, again_at).await? else {
            return Ok(false);
        };
        match self.tell(client, &job).await {
            Ok(()) => {
                telemetry::callback_told(job.id, tries);
                self.store.callback_done(job.id, now_ms()).await?;
            }
            Err(reason) => {
                let tried = usize::try_from(tries).unwrap_or(usize::MAX);
                let wait_s = AGAIN_S.get(tried.saturating_sub(1));
                telemetry::callback_failed(job.id, tries, wait_s.is_none(), &reason);
                if let Some(s) = wait_s {
                    let at = now_ms() + s * 1000;
                    self.store.callback_again(job.id, at).await?;
                } else {
                    self.store.callback_done(job.id, now_ms()).await?;
                }
            }
        }
        Ok(true)
    }

    async fn tell(&self, client: &reqwest::Client, job: &Job) -> Result<(), String> {
        let address = job.callback_url.as_deref().unwrap_or_default();
        // The list may have become shorter since the job was taken.
        let url = self.config.callbacks.check(address)?;
        let id = format!("{}-ended", job.id);
        let timestamp = now_ms() / 1000;
        let path = format!("/v1/segmentations/{}", job.id);
        let body = json!({
            "type": format!("segmentation.{}", job.state.name()),
            "timestamp": job.ended_at.map(time),
            "data": {
                "id": job.id.to_string(),
                "state": job.state.name(),
                "label": job.label,
                "error": job.error,
                "links": { "self": path, "artifacts": format!("{path}/artifacts") },
            },
        })
        .to_string();
        let signature = self
            .config
            .callbacks
            .secret
            .sign(&id, timestamp, &body)
            .ok_or("the key of the signatures is not valid")?;
        let answer = client
            .post(url)
            .header("content-type", "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp.to_string())
            .header("webhook-signature", signature)
            .body(body)
            .send()
            .await
            // The address may hold a secret of the caller's.
            .map_err(|e| e.without_url().to_string())?;
        if answer.status().is_success() {
            Ok(())
        } else {
            Err(format!("answered {}", answer.status()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_the_convention_s() {
        // The example of the convention's own libraries.
        let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signed = secret
            .sign(
                "msg_p5jXN8AQM9LWM0D4loKWxJek",
                1_614_265_330,
                r#"{"test": 2432232314}"#,
            )
            .unwrap();
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert!(Secret::parse("whsec_c2hvcnQ=").is_err() && Secret::parse("abc").is_err());
        assert_eq!(format!("{secret:?}"), "Secret");
    }

    #[test]
    fn only_hosts_on_the_list_are_called() {
        let config = CallbackConfig {
            hosts: vec!["pacs.example".to_owned(), "127.0.0.1:9000".to_owned()],
            secret: Secret::default(),
        };
        assert!(config.check("https://pacs.example/hooks").is_ok());
        assert!(config.check("http://127.0.0.1:9000/x?y=1").is_ok());
        for refused in [
            "https://pacs.example:8443/",
            "https://pacs.example.evil/",
            "https://evil@pacs.example/",
            "http://127.0.0.1/",
            "http://169.254.169.254/latest",
            "file:///etc/passwd",
            "hooks",
        ] {
            assert!(config.check(refused).is_err(), "{refused}");
        }
        assert!(
            CallbackConfig::default()
                .check("https://pacs.example/")
                .is_err()
        );
    }
}
