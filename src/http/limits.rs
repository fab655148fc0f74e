//! What a body may cost: its bytes, its pace, the room that a form's part headers take.
//!
//! A body is bounded while it passes, whoever reads it. What it did wrong is remembered beside the
//! error that its reader gets, so that the answer is right whatever the reader makes of that error.
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use dawson_inference::problem::Code;
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::App;
use super::problem::Failure;

/// How slowly a body may come.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// How long in all the server may wait for bytes of a body, …
    pub timeout: Duration,
    /// … and a second longer for each so many bytes that came; at least 1.
    pub min_bytes_per_s: u64,
}

/// What a body did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Fault {
    #[error("the body has more than {most} bytes")]
    TooLarge { most: usize },
    #[error("the body came too slowly: {received} bytes, then the server had waited long enough")]
    TooSlow { received: u64 },
    #[error(
        "what stands between the parts of the form, or a part's headers, has more than {most} bytes"
    )]
    HeadersTooLarge { most: usize },
}

impl Fault {
    fn code(self) -> Code {
        match self {
            Self::TooLarge { .. } => Code::BodyTooLarge,
            Self::TooSlow { .. } => Code::RequestTimeout,
            Self::HeadersTooLarge { .. } => Code::MalformedRequest,
        }
    }
}

/// Bounds the body of each request, and answers for what it did wrong.
pub(super) async fn bound_body(State(app): State<App>, request: Request, next: Next) -> Response {
    if let Err(failure) = of_head(&request, app.config.max_body_bytes) {
        return close(failure.into_response(), request.version());
    }
    let version = request.version();
    let fault = Arc::new(OnceLock::new());
    let room = FormRoom::default();
    let (mut parts, body) = request.into_parts();
    parts.extensions.insert(room.clone());
    let body = Bounded {
        body,
        most: app.config.max_body_bytes,
        most_headers: app.config.max_part_header_bytes,
        pace: app.config.pace,
        room,
        received: 0,
        waited: Duration::ZERO,
        waiting: None,
        gave: false,
        fault: Arc::clone(&fault),
    };
    let response = next.run(Request::from_parts(parts, Body::new(body))).await;
    match fault.get() {
        Some(fault) => {
            let failure = Failure::new(fault.code(), fault.to_string());
            close(failure.into_response(), version)
        }
        None => response,
    }
}

/// What the head alone says about the body.
fn of_head(request: &Request, most: usize) -> Result<(), Failure> {
    let promised = request.body().size_hint().lower();
    if promised > most as u64 {
        let detail = format!("the body has {promised} bytes, at most {most} are taken");
        return Err(Failure::new(Code::BodyTooLarge, detail));
    }
    Ok(())
}

/// Nothing more is read from this client.
fn close(mut response: Response, version: Version) -> Response {
    if version < Version::HTTP_2 {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Bytes that may come before the reader of a form has the next part in hand. The form's parser
/// keeps what it cannot make out yet, so a part's header without end would fill the memory.
#[derive(Debug, Clone)]
pub(super) struct FormRoom(Arc<AtomicI64>);

impl Default for FormRoom {
    fn default() -> Self {
        Self(Arc::new(AtomicI64::new(i64::MAX)))
    }
}

impl FormRoom {
    /// The next bytes are a part's header.
    pub(super) fn expect_header(&self, most: usize) {
        self.0
            .store(i64::try_from(most).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// The next bytes are a part's content, whose reader bounds it.
    pub(super) fn expect_content(&self) {
        self.0.store(i64::MAX, Ordering::Relaxed);
    }

    /// Whether more may come; `bytes` are then taken off the room.
    fn has_room(&self, bytes: usize) -> bool {
        let left = self.0.load(Ordering::Relaxed);
        if left != i64::MAX {
            let after = left.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
            self.0.store(after, Ordering::Relaxed);
        }
        left > 0
    }
}

/// A body that ends with an error as soon as it is too large or too slow.
struct Bounded {
    body: Body,
    most: usize,
    most_headers: usize,
    pace: Pace,
    room: FormRoom,
    received: u64,
    /// How long bytes were waited for, without the present wait.
    waited: Duration,
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
    /// Whether the last poll gave a frame; the next one then lets its reader look at that first.
    gave: bool,
    fault: Arc<OnceLock<Fault>>,
}

impl Bounded {
    fn fail(&self, fault: Fault) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        // The first fault is the one that matters.
        let fault = *self.fault.get_or_init(|| fault);
        Poll::Ready(Some(Err(axum::Error::new(fault))))
    }

    /// How long the server may wait in all, by what has come so far.
    fn patience(&self) -> Duration {
        let earned = self.received / self.pace.min_bytes_per_s.max(1);
        self.pace
            .timeout
            .saturating_add(Duration::from_secs(earned))
    }

    fn arrived(&mut self, bytes: usize) -> Result<(), Fault> {
        self.received = self.received.saturating_add(bytes as u64);
        if self.received > self.most as u64 {
            return Err(Fault::TooLarge { most: self.most });
        }
        if self.room.has_room(bytes) {
            Ok(())
        } else {
            Err(Fault::HeadersTooLarge {
                most: self.most_headers,
            })
        }
    }
}

impl HttpBody for Bounded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        if let Some(&fault) = this.fault.get() {
            return this.fail(fault);
        }
        if std::mem::take(&mut this.gave) {
            // The form's parser takes all that is there before it looks at any of it.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if polled.is_ready() {
            if let Some((since, _)) = this.waiting.take() {
                this.waited += since.elapsed();
            }
            if let Poll::Ready(Some(Ok(frame))) = &polled
                && let Some(data) = frame.data_ref()
                && let Err(fault) = this.arrived(data.len())
            {
                return this.fail(fault);
            }
            this.gave = matches!(polled, Poll::Ready(Some(Ok(_))));
            return polled;
        }
        if this.waiting.is_none() {
            let now = Instant::now();
            let left = this.patience().saturating_sub(this.waited);
            let until = now
                .checked_add(left)
                .unwrap_or(now + Duration::from_hours(24));
            this.waiting = Some((now, Box::pin(sleep_until(until))));
        }
        if let Some((_, limit)) = &mut this.waiting
            && limit.as_mut().poll(cx).is_ready()
        {
            let received = this.received;
            return this.fail(Fault::TooSlow { received });
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body that holds something until it has been sent or given up.
pub(super) struct Held<G> {
    body: Body,
    _guard: G,
}

impl<G: Send + Unpin + 'static> Held<G> {
    /// `body`, with `guard` dropped at its end.
    pub(super) fn body(body: Body, guard: G) -> Body {
        Body::new(Self {
            body,
            _guard: guard,
        })
    }
}

impl<G: Send + Unpin> HttpBody for Held<G> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
