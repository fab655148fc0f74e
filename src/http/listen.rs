//! The socket side: connections are taken, counted, timed and let go.
//!
//! `axum::serve` times neither headers nor silence and waits for its clients without end, so hyper's
//! own builder is used. Every connection stands in one list; one sweep looks at all of them. When as
//! many are open as may be, the one that has been idle longest makes room, so that those who only hold
//! connections keep nobody out. What happens inside a request is the router's business.
use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, Response};
use dawson_inference::problem::{Code, Problem};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, Sleep, sleep};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use super::limits::Held;
use crate::telemetry;
use crate::tls::Tls;

/// How long a connection that was asked to end may take if no request is under way on it.
const LET_GO: Duration = Duration::from_secs(1);
/// How long what a client still sends is read and thrown away after the last answer. A connection
/// that is closed with bytes unread is reset, and the client may never see why it was refused.
const LINGER: Duration = Duration::from_secs(5);
/// What is read at once while lingering.
const LINGER_BYTES: usize = 16 << 10;
/// How long nothing is accepted after the system refused to (no handles left).
const BREATHER: Duration = Duration::from_millis(100);
/// Bytes of a stream, and of a connection, that HTTP/2 clients may send ahead.
const WINDOW: u32 = 256 << 10;
/// Answers of a stream that wait for an HTTP/2 client.
const SEND_BUFFER: usize = 64 << 10;
/// Streams that an HTTP/2 client has reset before they were looked at; more is an attack.
const MAX_RESETS: usize = 20;
/// Streams that were reset because of the client's own errors; more is an attack.
const MAX_ERRORS: usize = 128;

/// Limits of connections.
#[derive(Debug, Clone)]
pub struct ListenConfig {
    /// The most connections at once.
    pub max_connections: usize,
    /// How long the head of a request may take.
    pub header_timeout: Duration,
    /// How long a connection may wait for its next request.
    pub idle_timeout: Duration,
    /// How long a client may take nothing of an answer that waits for it.
    pub write_timeout: Duration,
    /// The most bytes of a request's head; at least 8,192.
    pub max_header_bytes: usize,
    /// The most header fields of a request.
    pub max_headers: usize,
    /// The most requests at once on an HTTP/2 connection.
    pub max_streams: u32,
    /// How long requests may go on once the server is to stop.
    pub grace: Duration,
}

/// Serves until `stop`, then lets requests end within the grace time; then connections are closed
/// whatever they do.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    router: Router,
    config: ListenConfig,
    stop: impl Future<Output = ()>,
) {
    let server = Arc::new(Server {
        builder: builder(&config),
        tls,
        router,
        open: Mutex::default(),
        began: Instant::now(),
        stopping: watch::Sender::new(false),
        config,
    });
    let mut tasks = JoinSet::new();
    let mut sweep = tokio::time::interval(server.sweep_every());
    let mut stop = pin!(stop);
    let mut next_id = 0_u64;
    loop {
        tokio::select! {
            () = &mut stop => break,
            _ = sweep.tick() => server.sweep(),
            Some(_ended) = tasks.join_next(), if !tasks.is_empty() => {}
            // One above the limit, for whom the longest idle is let go: the next one once that one has gone.
            accepted = listener.accept(), if tasks.len() <= server.config.max_connections => match accepted {
                Ok((stream, peer)) => {
                    next_id += 1;
                    server.take(&mut tasks, next_id, stream, peer);
                }
                Err(error) if of_one_client(&error) => {}
                Err(error) => {
                    telemetry::accept_failed(&error);
                    server.evict();
                    sleep(BREATHER).await;
                }
            }
        }
    }
    drop(listener);
    server.stopping.send_replace(true);
    let all_gone = async {
        loop {
            tokio::select! {
                ended = tasks.join_next() => if ended.is_none() { break },
                _ = sweep.tick() => server.sweep(),
            }
        }
    };
    if tokio::time::timeout(server.config.grace, all_gone)
        .await
        .is_err()
    {
        telemetry::connections_cut(tasks.len());
        tasks.shutdown().await;
    }
}

/// Whether a failed accept says nothing about the next one.
fn of_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

fn builder(config: &ListenConfig) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // hyper's clock also runs while the next request is awaited; the sweep knows the two apart.
        .header_read_timeout(config.idle_timeout.max(config.header_timeout))
        .max_buf_size(config.max_header_bytes.max(8192))
        .max_headers(config.max_headers);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.max_streams)
        .max_header_list_size(u32::try_from(config.max_header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(MAX_ERRORS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(config.idle_timeout)
        .keep_alive_timeout(config.write_timeout);
    builder
}

#[derive(Debug)]
struct Server {
    builder: Builder<TokioExecutor>,
    tls: Option<Arc<Tls>>,
    router: Router,
    open: Mutex<HashMap<u64, Entry>>,
    began: Instant,
    stopping: watch::Sender<bool>,
    config: ListenConfig,
}

#[derive(Debug)]
struct Entry {
    connection: Arc<Connection>,
    /// There as soon as the task is.
    task: Option<AbortHandle>,
}

/// What is known of a connection from outside. Times are milliseconds since the server began.
#[derive(Debug)]
struct Connection {
    began: Instant,
    /// Requests whose answers have not been sent to their end.
    in_flight: AtomicUsize,
    /// Whether it ever sent a whole head.
    served: AtomicBool,
    /// Whether bytes of an answer wait for the client to take them.
    stalled: AtomicBool,
    /// Since when nothing is under way.
    idle_since: AtomicU64,
    /// When the first byte of the head came that is not whole yet; 0 for none.
    head_since: AtomicU64,
    close: Notify,
}

impl Connection {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).map_or(u64::MAX, |ms| ms.saturating_add(1))
    }

    /// Bytes came.
    fn heard(&self) {
        if self.in_flight.load(Ordering::Relaxed) == 0
            && self.head_since.load(Ordering::Relaxed) == 0
        {
            self.head_since.store(self.now(), Ordering::Relaxed);
        }
    }

    /// A request is whole; it is under way until the guard is dropped.
    fn begin(self: &Arc<Self>) -> UnderWay {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.head_since.store(0, Ordering::Relaxed);
        self.served.store(true, Ordering::Relaxed);
        UnderWay(Arc::clone(self))
    }

    /// Whether nothing is under way, to its last byte.
    fn is_idle(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) == 0 && !self.stalled.load(Ordering::Relaxed)
    }

    /// The client takes bytes, or does not.
    fn stalls(&self, now: bool) {
        if self.stalled.swap(now, Ordering::Relaxed) && !now {
            self.idle_since.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Whether it has kept the server waiting for longer than it may.
    fn is_overdue(&self, config: &ListenConfig) -> bool {
        let longer = |since: u64, limit: Duration| {
            u128::from(self.now().saturating_sub(since)) > limit.as_millis()
        };
        let head = self.head_since.load(Ordering::Relaxed);
        let idle = self.idle_since.load(Ordering::Relaxed);
        let patience = if self.served.load(Ordering::Relaxed) {
            config.idle_timeout
        } else {
            config.header_timeout
        };
        self.is_idle()
            && (longer(idle, patience) || (head != 0 && longer(head, config.header_timeout)))
    }
}

/// A request that is under way.
#[derive(Debug)]
struct UnderWay(Arc<Connection>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let connection = &self.0;
        connection
            .idle_since
            .store(connection.now(), Ordering::Relaxed);
        connection.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Server {
    /// Often enough to see the shortest limit pass, and no oftener than is of use.
    fn sweep_every(&self) -> Duration {
        let shortest = self.config.header_timeout.min(self.config.idle_timeout);
        (shortest / 4).clamp(Duration::from_millis(20), Duration::from_secs(1))
    }

    /// Takes a connection, or refuses it if all that are open are at work.
    fn take(
        self: &Arc<Self>,
        tasks: &mut JoinSet<()>,
        id: u64,
        stream: TcpStream,
        peer: SocketAddr,
    ) {
        let full = self.lock().len() >= self.config.max_connections;
        if full && !self.evict() {
            telemetry::connection_refused();
            // Those who speak TLS would not understand.
            if self.tls.is_none() {
                refuse(&stream);
            }
            return;
        }
        let connection = Arc::new(Connection {
            began: self.began,
            in_flight: AtomicUsize::new(0),
            served: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            idle_since: AtomicU64::new(0),
            head_since: AtomicU64::new(0),
            close: Notify::new(),
        });
        connection
            .idle_since
            .store(connection.now(), Ordering::Relaxed);
        let gone = Gone {
            server: Arc::clone(self),
            id,
        };
        let server = Arc::clone(self);
        let attended = Arc::clone(&connection);
        let entry = Entry {
            connection,
            task: None,
        };
        let mut open = self.lock();
        open.insert(id, entry);
        telemetry::connections_open(open.len());
        drop(open);
        // The list is not locked here: a runtime that ends drops the task at once.
        let task = tasks.spawn(async move {
            let _gone = gone;
            server.attend(stream, peer, &attended).await;
        });
        if let Some(entry) = self.lock().get_mut(&id) {
            entry.task = Some(task);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Entry>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of the connection that has been idle longest; false if none is.
    fn evict(&self) -> bool {
        let mut open = self.lock();
        let oldest = open
            .iter()
            .filter(|(_, entry)| entry.connection.is_idle())
            .min_by_key(|(_, entry)| entry.connection.idle_since.load(Ordering::Relaxed))
            .map(|(id, _)| *id);
        let Some(entry) = oldest.and_then(|id| open.remove(&id)) else {
            return false;
        };
        drop(open);
        if let Some(task) = entry.task {
            task.abort();
        }
        true
    }

    /// Tells those to end that keep the server waiting.
    fn sweep(&self) {
        for entry in self.lock().values() {
            if entry.connection.is_overdue(&self.config) {
                entry.connection.close.notify_one();
            }
        }
    }

    async fn attend(&self, stream: TcpStream, peer: SocketAddr, connection: &Arc<Connection>) {
        // Small answers are not held back. If the system will not, they are a little late.
        let _hint = stream.set_nodelay(true);
        let Some(tls) = &self.tls else {
            return self.converse(stream, peer, connection).await;
        };
        let handshake = TlsAcceptor::from(tls.current()).accept(stream);
        match tokio::time::timeout(self.config.header_timeout, handshake).await {
            Ok(Ok(stream)) => self.converse(stream, peer, connection).await,
            Ok(Err(error)) => telemetry::handshake_failed(&error),
            Err(late) => telemetry::handshake_failed(&late),
        }
    }

    async fn converse<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: S,
        peer: SocketAddr,
        connection: &Arc<Connection>,
    ) {
        let service = hyper::service::service_fn(|mut request: Request<Incoming>| {
            let under_way = connection.begin();
            request.extensions_mut().insert(ConnectInfo(peer));
            let answer = self.router.clone().oneshot(request.map(Body::new));
            async move {
                let response = answer.await?;
                Ok::<Response<Body>, Infallible>(response.map(|body| Held::body(body, under_way)))
            }
        });
        let stream = Watched {
            stream,
            connection: Arc::clone(connection),
            write_timeout: self.config.write_timeout,
            stalled: None,
            linger: None,
        };
        let mut conversation = pin!(self.builder.serve_connection(TokioIo::new(stream), service));
        let mut stopping = self.stopping.subscribe();
        let mut asked = false;
        let mut patience = pin!(sleep(LET_GO));
        loop {
            tokio::select! {
                // How a client leaves is its own business.
                _ended = conversation.as_mut() => return,
                () = connection.close.notified(), if !asked => {}
                _stop = stopping.wait_for(|stop| *stop), if !asked => {}
                () = patience.as_mut(), if asked => {
                    if connection.is_idle() {
                        return;
                    }
                    patience.as_mut().reset(Instant::now() + LET_GO);
                    continue;
                }
            }
            asked = true;
            patience.as_mut().reset(Instant::now() + LET_GO);
            conversation.as_mut().graceful_shutdown();
        }
    }
}

/// Takes a connection off the list, however its task ends.
#[derive(Debug)]
struct Gone {
    server: Arc<Server>,
    id: u64,
}

impl Drop for Gone {
    fn drop(&mut self) {
        let mut open = self.server.lock();
        open.remove(&self.id);
        telemetry::connections_open(open.len());
    }
}

/// Says why and hangs up; whoever does not listen misses it.
fn refuse(stream: &TcpStream) {
    let problem = Problem::new(
        Code::Overloaded,
        "as many connections are open as may be, and all are at work",
    );
    let body = serde_json::to_string(&problem).unwrap_or_default();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\
         retry-after: 5\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let _said = stream.try_write(answer.as_bytes());
}

/// A stream that notes when bytes come, bounds how long a write may stall, and lingers at its end.
#[derive(Debug)]
struct Watched<S> {
    stream: S,
    connection: Arc<Connection>,
    write_timeout: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    linger: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Watched<S> {
    /// An error once nothing has been taken for too long.
    fn timed<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.connection.stalls(polled.is_pending());
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let limit = self.write_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Reads and throws away until the client ends or the time is over.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let linger = self.linger.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        if linger.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let mut bytes = [0; LINGER_BYTES];
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            this.connection.heard();
        }
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.timed(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bytes);
        this.timed(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.timed(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.linger.is_none() {
            let shut = Pin::new(&mut this.stream).poll_shutdown(cx);
            ready!(this.timed(cx, shut))?;
        }
        this.poll_linger(cx).map(Ok)
    }
}
