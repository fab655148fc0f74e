//! Who may do what: decided from a request's head, before its body is read.
//!
//! What a route asks for stands once, in its OpenAPI attributes (`security(("api_key" = ["read"]))`),
//! and is read from there: what is described is what is enforced. A route below a guarded prefix that
//! says nothing is the admin's. Without keys nobody is asked who they are; whether that may be is the start's
//! decision, not this layer's.
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{AUTHORIZATION, HOST, LOCATION, WWW_AUTHENTICATE};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use dawson_inference::problem::Code;
use governor::clock::{Clock, DefaultClock};
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower_http::request_id::RequestId;

use super::extract::Caller;
use super::limits::Held;
use super::problem::Failure;
use crate::jobs::Sees;
use crate::keys::{Key, KeyFile, KeyState, Scope};
use crate::store::JobId;
use crate::telemetry;

/// The name of the security scheme in the OpenAPI description.
pub(super) const SCHEME: &str = "api_key";

/// Below these nothing is open to those without a key.
const GUARDED: [&str; 2] = ["/v1/", "/dicom-web/"];

/// Whether an address asks for a key.
pub(super) fn is_guarded(path: &str) -> bool {
    GUARDED.iter().any(|prefix| path.starts_with(prefix))
}

/// Who is let in, and how much one may ask for.
#[derive(Debug, Clone)]
pub struct AccessConfig {
    /// The keys, if there may be some.
    pub keys: Option<Arc<KeyFile>>,
    /// Names under which the service is reached, in lower case; any if empty.
    pub hosts: Vec<String>,
    /// Whether `/metrics` asks for a key with the scope `read`.
    pub metrics: MetricsAccess,
    /// The most requests of a key that are under way at once.
    pub key_requests: usize,
    /// Requests of a key a second, in the long run …
    pub key_rate_per_s: NonZeroU32,
    /// … and at once, after a pause.
    pub key_burst: NonZeroU32,
}

/// Who sees the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsAccess {
    /// Everybody.
    Open,
    /// Those with a key that may read.
    NeedKey,
}

/// What a route asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Need {
    Nothing,
    /// One of these scopes.
    OneOf(Vec<Scope>),
}

type Limiter = RateLimiter<String, HashMapStateStore<String>, DefaultClock>;

/// Decides about each request.
pub(super) struct Gate {
    config: AccessConfig,
    needs: HashMap<(Method, String), Need>,
    rate: Limiter,
    /// Of each key that was ever seen: requests that may still begin.
    slots: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl Gate {
    /// `description` says what each route asks for.
    pub(super) fn new(config: AccessConfig, description: &utoipa::openapi::OpenApi) -> Self {
        let mut needs = needs(description);
        if config.metrics == MetricsAccess::NeedKey {
            let path = (Method::GET, "/metrics".to_owned());
            needs.insert(path, Need::OneOf(vec![Scope::Read]));
        }
        let quota = Quota::per_second(config.key_rate_per_s).allow_burst(config.key_burst);
        Self {
            config,
            needs,
            rate: RateLimiter::hashmap(quota),
            slots: Mutex::default(),
        }
    }

    /// What the address asks for.
    fn need(&self, method: &Method, path: &str) -> Need {
        // Whatever answers GET answers HEAD.
        let method = if method == Method::HEAD {
            Method::GET
        } else {
            method.clone()
        };
        if let Some(need) = self.needs.get(&(method, path.to_owned())) {
            return need.clone();
        }
        if is_guarded(path) {
            Need::OneOf(vec![Scope::Admin])
        } else {
            Need::Nothing
        }
    }

    /// Who asks, if that is known and enough.
    fn admit(&self, need: &Need, headers: &HeaderMap) -> Result<Admitted, Failure> {
        let Need::OneOf(scopes) = need else {
            return Ok(Admitted::stranger());
        };
        let Some(keys) = self.config.keys.as_ref().and_then(|file| file.keys()) else {
            return Ok(Admitted::stranger());
        };
        let secret = bearer(headers)?;
        let key = keys
            .find(secret)
            .ok_or_else(|| unauthorized("the key is not known"))?;
        match key.state(Timestamp::now()) {
            KeyState::Valid => {}
            KeyState::Expired => return Err(unauthorized("the key has expired")),
            KeyState::Revoked => return Err(unauthorized("the key was revoked")),
        }
        let mut admitted = Admitted::of(key);
        if scopes.iter().any(|&scope| key.may(scope)) {
            match self.slot(&key.id) {
                Ok(slot) => admitted.slot = Some(slot),
                Err(failure) => admitted.refused = Some(failure),
            }
        } else {
            admitted.refused = Some(lacks(scopes));
        }
        Ok(admitted)
    }

    /// A place among the key's requests, if there is one.
    fn slot(&self, id: &str) -> Result<OwnedSemaphorePermit, Failure> {
        if let Err(wait) = self.rate.check_key(&id.to_owned()) {
            let wait = wait.wait_time_from(DefaultClock::default().now());
            let seconds = (wait.as_secs_f64().ceil() as u64).max(1);
            let detail = format!(
                "this key may ask {} times a second; try again in {seconds} s",
                self.config.key_rate_per_s
            );
            return Err(Failure::new(Code::TooManyRequests, detail).retry_after(seconds));
        }
        let most = self.config.key_requests;
        let slots = {
            let mut all = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            let new = || Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
            Arc::clone(all.entry(id.to_owned()).or_insert_with(new))
        };
        slots.try_acquire_owned().map_err(|_| {
            let detail = format!("this key has {most} requests under way, as many as it may have");
            Failure::new(Code::TooManyRequests, detail).retry_after(1)
        })
    }

    fn check_host(&self, request: &Request, need: &Need) -> Result<(), Failure> {
        // Probes come by address.
        if self.config.hosts.is_empty() || *need == Need::Nothing {
            return Ok(());
        }
        let header = request.headers().get(HOST).and_then(|v| v.to_str().ok());
        let host = request.uri().authority().map(Authority::as_str).or(header);
        let host = host.unwrap_or_default();
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => host,
        };
        if self.config.hosts.contains(&name.to_ascii_lowercase()) {
            return Ok(());
        }
        let detail = "the service is not reached under this name";
        Err(Failure::new(Code::UnknownHost, detail))
    }
}

/// What came of the question who asks.
struct Admitted {
    caller: Caller,
    /// The key's id, for the audit.
    who: String,
    slot: Option<OwnedSemaphorePermit>,
    /// Known, but not allowed.
    refused: Option<Failure>,
}

impl Admitted {
    fn stranger() -> Self {
        Self {
            caller: Caller::anybody(),
            who: "anybody".to_owned(),
            slot: None,
            refused: None,
        }
    }

    fn of(key: &Key) -> Self {
        let sees = if key.may(Scope::Admin) {
            Sees::All
        } else {
            Sees::Own(key.id.clone())
        };
        Self {
            caller: Caller {
                owner: Some(key.id.clone()),
                sees,
                scopes: Some(key.scopes.clone()),
            },
            who: key.id.clone(),
            slot: None,
            refused: None,
        }
    }
}

/// The layer.
pub(super) async fn admit(
    State(gate): State<Arc<Gate>>,
    mut request: Request,
    next: Next,
) -> Response {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or(String::new(), |path| path.as_str().to_owned());
    let need = gate.need(request.method(), &route);
    if let Err(failure) = gate.check_host(&request, &need) {
        return failure.into_response();
    }
    let what = audited(request.method(), &route);
    let id = request.extensions().get::<RequestId>().cloned();
    let job = job_of(request.uri().path());
    let (who, response) = match gate.admit(&need, request.headers()) {
        Err(failure) => ("unknown".to_owned(), challenge(failure)),
        Ok(Admitted {
            who,
            refused: Some(failure),
            ..
        }) => (who, failure.into_response()),
        Ok(admitted) => {
            request.extensions_mut().insert(admitted.caller);
            let response = next.run(request).await;
            let response = response.map(|body| Held::body(body, admitted.slot));
            (admitted.who, response)
        }
    };
    if let Some(what) = what {
        let made = response.headers().get(LOCATION);
        let made = made.and_then(|v| job_of(v.to_str().ok()?));
        let code = response.extensions().get::<Failure>().map(Failure::code);
        telemetry::audit(&telemetry::Audit {
            who: &who,
            what,
            job: made.or(job),
            status: response.status().as_u16(),
            code: code.map(Code::name),
            request_id: id.and_then(|id| id.into_header_value().to_str().map(str::to_owned).ok()),
        });
    }
    response
}

/// What is written down of a request to that route.
fn audited(method: &Method, route: &str) -> Option<&'static str> {
    let job = "/v1/segmentations/{id}";
    match (method.as_str(), route) {
        ("POST", "/v1/segmentations") => Some("submit"),
        ("POST", "/v1/models/reload") => Some("reload"),
        ("DELETE", path) if path == job => Some("erase"),
        ("GET" | "HEAD", path) if path == job => Some("read"),
        ("POST", "/v1/studies/{study}/start") => Some("start"),
        ("POST", path) if path.starts_with("/dicom-web/") => Some("store"),
        ("GET" | "HEAD", path) if path.starts_with("/dicom-web/") => Some("read"),
        (method, path) => match (method, path.strip_prefix(job)?) {
            ("POST", "/cancel") => Some("cancel"),
            ("POST", "/deliveries/{destination}") => Some("send"),
            ("GET" | "HEAD", "/artifacts/{name}" | "/bundle.zip") => Some("read"),
            _ => None,
        },
    }
}

/// The job that an address is about, if it is one.
fn job_of(path: &str) -> Option<JobId> {
    let rest = path.strip_prefix("/v1/segmentations/")?;
    rest.split('/').next()?.parse().ok()
}

/// The key in the request.
fn bearer(headers: &HeaderMap) -> Result<&str, Failure> {
    let value = headers
        .get(AUTHORIZATION)
        .ok_or_else(|| unauthorized("the request has no Authorization header"))?;
    let words = value.to_str().ok().and_then(|text| text.split_once(' '));
    match words {
        Some((scheme, secret)) if scheme.eq_ignore_ascii_case("bearer") => Ok(secret.trim()),
        _ => Err(unauthorized("Authorization must be Bearer and a key")),
    }
}

fn unauthorized(detail: &str) -> Failure {
    Failure::new(Code::Unauthorized, detail)
}

/// The key may do other things.
pub(super) fn lacks(scopes: &[Scope]) -> Failure {
    let names: Vec<&str> = scopes.iter().map(|scope| scope.name()).collect();
    let detail = format!("the key lacks the scope {}", names.join(" or "));
    Failure::new(Code::Forbidden, detail)
}

fn challenge(failure: Failure) -> Response {
    let mut response = failure.into_response();
    let value = HeaderValue::from_static("Bearer realm=\"dawson\"");
    response.headers_mut().insert(WWW_AUTHENTICATE, value);
    response
}

/// What the description says that each route asks for.
fn needs(description: &utoipa::openapi::OpenApi) -> HashMap<(Method, String), Need> {
    let mut needs = HashMap::new();
    let described = serde_json::to_value(description).unwrap_or_default();
    let paths = described["paths"].as_object().into_iter().flatten();
    for (path, methods) in paths {
        for (method, operation) in methods.as_object().into_iter().flatten() {
            let Ok(method) = Method::from_bytes(method.to_ascii_uppercase().as_bytes()) else {
                continue;
            };
            let Some(asked) = operation["security"].as_array() else {
                continue;
            };
            let scopes: Vec<Scope> = asked
                .iter()
                .flat_map(|one| one[SCHEME].as_array().into_iter().flatten())
                .filter_map(|name| name.as_str()?.parse().ok())
                .collect();
            let open = asked
                .iter()
                .any(|one| one.as_object().is_some_and(serde_json::Map::is_empty));
            let need = if open {
                Need::Nothing
            } else {
                Need::OneOf(scopes)
            };
            needs.insert((method, path.clone()), need);
        }
    }
    needs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(hosts: &[&str]) -> Gate {
        let one = NonZeroU32::MIN;
        let config = AccessConfig {
            keys: None,
            hosts: hosts.iter().map(|&h| h.to_owned()).collect(),
            metrics: MetricsAccess::Open,
            key_requests: 1,
            key_rate_per_s: one,
            key_burst: one,
        };
        Gate::new(config, &super::super::openapi())
    }

    #[test]
    fn a_route_that_says_nothing_is_the_admins_and_head_is_like_get() {
        let gate = gate(&[]);
        let admin = Need::OneOf(vec![Scope::Admin]);
        assert_eq!(gate.need(&Method::PATCH, "/v1/new"), admin);
        assert_eq!(gate.need(&Method::PATCH, "/dicom-web/new"), admin);
        assert_eq!(gate.need(&Method::GET, "/healthz"), Need::Nothing);
        let read = gate.need(&Method::GET, "/v1/segmentations/{id}");
        assert_eq!(read, Need::OneOf(vec![Scope::Read]));
        assert_eq!(gate.need(&Method::HEAD, "/v1/segmentations/{id}"), read);
    }

    #[test]
    fn every_route_says_what_it_asks_for() {
        let described = serde_json::to_value(super::super::openapi()).unwrap();
        for (path, methods) in described["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let asked = operation["security"].as_array();
                assert!(asked.is_some_and(|a| !a.is_empty()), "{method} {path}");
                assert!(!is_guarded(path) || asked.unwrap()[0][SCHEME][0].is_string());
            }
        }
    }

    #[test]
    fn hosts_are_compared_without_port_and_case() {
        let gate = gate(&["scans.example", "[::1]"]);
        let need = Need::OneOf(vec![Scope::Read]);
        let check = |host: &str| {
            let request = Request::get("/v1/models").header(HOST, host);
            let request = request.body(axum::body::Body::empty()).unwrap();
            gate.check_host(&request, &need).is_ok()
        };
        assert!(check("scans.example") && check("Scans.Example:8443") && check("[::1]:80"));
        assert!(!check("evil.example") && !check("scans.example.evil") && !check(""));
    }
}
