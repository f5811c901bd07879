//! One request at a time over pooled connections: written whole, its answer read piece by piece.
//!
//! Decides whether a request that failed can have been seen, and which connections are used again. Never sends a
//! request twice, never follows where an answer leads, and never says more of a failure than its kind: the framework's
//! text quotes the peer's bytes.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use pingora::{
    Error, ErrorType,
    connectors::{ConnectorOptions, TransportConnector, http::Connector},
    http::RequestHeader,
    protocols::http::{client::HttpSession, v1::client::HttpSession as Http1},
    upstreams::peer::{HttpPeer, Peer},
};

use thread_local::ThreadLocal;

use super::{
    authorities,
    held::Held,
    loan::{Idle, Loan, Terms},
    within,
};
use crate::trace::Trace;

/// Idle connections kept, to all peers together.
const POOL: usize = 1024;
/// Longest wait for a peer to take all of a request.
pub const WRITE: Duration = Duration::from_secs(30);
/// Interim answers (RFC 9110, section 15.2) that may stand before the one that counts.
const MOST_INTERIM: usize = 8;

/// Connections to servers, kept between requests: those of each thread apart, because a connection belongs to the runtime
/// that opened it, and what is heard on it would have to wake another one. A clone has the same connections.
#[derive(Clone)]
pub struct Wire(Arc<ThreadLocal<Pools>>);

/// Connections of one thread.
struct Pools {
    /// Without TLS.
    idle: Idle,
    /// With TLS.
    http1: TransportConnector,
    /// To servers that may speak HTTP/2.
    any: Connector,
}

/// Whom a request goes to.
pub struct Recipient {
    /// By which connection.
    pub by: By,
    /// How long the beginning of an answer may take.
    pub patience: Duration,
}

/// A connection to somebody.
pub enum By {
    /// Without TLS, for one request at a time.
    Loan(Terms),
    /// As the framework makes them.
    Framework(Box<HttpPeer>),
}

/// Why there is no answer, or not all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    /// Whether the peer may have seen the whole request.
    pub is_sent: bool,
    /// What went wrong.
    pub kind: Fault,
    /// What was wrong with TLS, or the framework's word for it.
    pub word: &'static str,
}

/// What went wrong with an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// There is no connection.
    Connect,
    /// The connection ended before the answer did.
    Closed,
    /// The peer took too long.
    TooSlow,
    /// What came is not HTTP.
    NotHttp,
    /// The request is none that can be written.
    Unwritable,
}

impl Failed {
    fn new(error: &Error, is_sent: bool) -> Self {
        let kind = match error.etype() {
            ErrorType::ConnectRefused
            | ErrorType::ConnectNoRoute
            | ErrorType::ConnectError
            | ErrorType::ConnectProxyFailure
            | ErrorType::BindError
            | ErrorType::AcceptError
            | ErrorType::SocketError
            | ErrorType::TLSHandshakeFailure
            | ErrorType::TLSWantX509Lookup
            | ErrorType::InvalidCert
            | ErrorType::HandshakeError => Fault::Connect,
            ErrorType::ReadTimedout
            | ErrorType::WriteTimedout
            | ErrorType::ConnectTimedout
            | ErrorType::TLSHandshakeTimedout => Fault::TooSlow,
            ErrorType::InvalidHTTPHeader | ErrorType::H1Error | ErrorType::Custom(_) => Fault::NotHttp,
            _ => Fault::Closed,
        };
        let word = super::tls::trouble(error).unwrap_or_else(|| error.etype().as_str());
        Self { is_sent, kind, word }
    }

    fn slow(word: &'static str) -> Self {
        Self { is_sent: true, kind: Fault::TooSlow, word }
    }
}

impl Wire {
    /// No connections yet.
    pub fn new() -> Self {
        Self(Arc::default())
    }

    /// The connections of this thread.
    fn here(&self) -> &Pools {
        self.0.get_or(|| {
            let options = ConnectorOptions { ca_file: authorities::file(), ..ConnectorOptions::new(POOL) };
            Pools {
                idle: Idle::default(),
                http1: TransportConnector::new(Some(options.clone())),
                any: Connector::new(Some(options)),
            }
        })
    }

    /// Gets ready on this thread, so that no request waits for it: certificates are read from files.
    pub fn get_ready(&self) {
        self.here();
    }

    /// A loan of one of this thread's connections.
    pub fn lend(&self, terms: Terms) -> Arc<Loan> {
        self.here().idle.lend(terms)
    }

    /// Writes a request whole and reads the head of its answer, both within the peer's own limits. The request has
    /// the path and query for a URI, and a body of known length.
    pub async fn send(&self, to: Recipient, request: http::Request<Bytes>) -> Result<Incoming, Failed> {
        let (mut parts, body) = request.into_parts();
        // Where whoever is waiting for the answer is traced.
        let trace = parts.extensions.remove::<Arc<Trace>>();
        if let Some(trace) = &trace {
            trace.sends(&parts.method);
        }
        let head = Box::new(RequestHeader::from(parts));
        let connected = self.session(to.by).await;
        let (mut session, is_reused, way_back) = connected.map_err(|error| {
            let failed = Failed::new(&error, false);
            match failed.kind {
                Fault::TooSlow => failed,
                _ => Failed { kind: Fault::Connect, ..failed },
            }
        })?;
        if let Some(trace) = &trace {
            trace.connected(is_reused);
        }
        // Without its head a request is none: nothing of its body has left.
        session.write_request_header(head).await.map_err(|error| match error.etype() {
            ErrorType::InvalidHTTPHeader => {
                Failed { is_sent: false, kind: Fault::Unwritable, word: error.etype().as_str() }
            }
            _ => Failed::new(&error, false),
        })?;
        let sent = async {
            if !body.is_empty() {
                session.write_request_body(body, true).await?;
            }
            session.finish_request_body().await
        };
        let sent =
            within(WRITE, sent).await.unwrap_or_else(|_| Error::e_explain(ErrorType::WriteTimedout, ""));
        if let Err(error) = sent {
            // A connection that was closed meanwhile is noticed here at the earliest: the head was held.
            let is_sent = match &way_back {
                WayBack::Loan(loan) => loan.has_sent(),
                WayBack::Pool(..) => has_sent(&session),
            };
            return Err(Failed::new(&error, is_sent));
        }
        let mut incoming = Incoming {
            session: Some(Box::new(session)),
            way_back,
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            is_reused,
            at_end: None,
        };
        incoming.read_head(to.patience).await?;
        if let Some(trace) = &trace {
            trace.answered(incoming.status.as_u16());
        }
        Ok(incoming)
    }

    /// A connection, whether it has served before, and where it goes afterwards.
    async fn session(&self, by: By) -> pingora::Result<(HttpSession, bool, WayBack)> {
        let peer = match by {
            By::Framework(peer) => peer,
            By::Loan(terms) => {
                let loan = self.lend(terms);
                let session = HttpSession::H1(Http1::new(loan.lent().await?));
                return Ok((session, loan.is_reused(), WayBack::Loan(loan)));
            }
        };
        let (session, is_reused) = self.here().session(&peer).await?;
        Ok((session, is_reused, WayBack::Pool(self.clone(), peer)))
    }
}

impl Pools {
    /// A connection to a peer, and whether it has served before.
    async fn session(&self, peer: &HttpPeer) -> pingora::Result<(HttpSession, bool)> {
        if !is_http1(peer) {
            return self.any.get_http_session(peer).await;
        }
        let (stream, is_reused) = self.http1.get_stream(peer).await?;
        let stream = match Held::of(&stream) {
            Some(held) => {
                held.begin();
                stream
            }
            None => Box::new(Held::new(stream)),
        };
        Ok((HttpSession::H1(Http1::new_with_options(stream, peer)), is_reused))
    }

    /// Keeps a connection whose answer was read to its end, where it may serve again.
    async fn release(&self, session: HttpSession, peer: &HttpPeer) {
        let idle = peer.options.idle_timeout;
        match session {
            HttpSession::H1(mut session) if is_http1(peer) => {
                session.respect_keepalive();
                if let Some(stream) = session.reuse().await {
                    self.http1.release_stream(stream, peer.reuse_hash(), idle);
                }
            }
            session => self.any.release_http_session(session, peer, idle).await,
        }
    }
}

fn is_http1(peer: &HttpPeer) -> bool {
    peer.options.alpn.get_max_http_version() == 1
}

/// Whether anything of the request can have gone.
fn has_sent(session: &HttpSession) -> bool {
    match session {
        HttpSession::H1(session) => Held::of(session.stream()).is_none_or(Held::has_sent),
        HttpSession::H2(_) | HttpSession::Custom(()) => true,
    }
}

impl Default for Wire {
    fn default() -> Self {
        Self::new()
    }
}

/// An answer whose head is there. Read to its end it leaves its connection for the next request; dropped before, it
/// closes it.
pub struct Incoming {
    /// None when all has been read.
    session: Option<Box<HttpSession>>,
    way_back: WayBack,
    status: StatusCode,
    headers: HeaderMap,
    is_reused: bool,
    at_end: Option<AtEnd>,
}

/// Where a connection goes that may serve again.
enum WayBack {
    /// To whoever lent it.
    Loan(Arc<Loan>),
    /// To the framework's pool.
    Pool(Wire, Box<HttpPeer>),
}

/// Is told how the body of an answer ends.
type AtEnd = Box<dyn FnOnce(Option<Failed>) + Send + Sync>;

impl Incoming {
    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Its headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Whether it came over a connection that had served before.
    pub fn is_reused(&self) -> bool {
        self.is_reused
    }

    /// Tells once how its body ends, unless nobody reads so far.
    pub fn at_end(&mut self, tell: impl FnOnce(Option<Failed>) + Send + Sync + 'static) {
        self.at_end = Some(Box::new(tell));
    }

    /// The next piece of its body; none at its end. The next piece must come within `deadline`, where there is one.
    pub async fn chunk(&mut self, deadline: Option<Duration>) -> Result<Option<Bytes>, Failed> {
        let read = self.read_chunk(deadline).await;
        if !matches!(read, Ok(Some(_)))
            && let Some(tell) = self.at_end.take()
        {
            tell(read.as_ref().err().copied());
        }
        read
    }

    async fn read_chunk(&mut self, deadline: Option<Duration>) -> Result<Option<Bytes>, Failed> {
        let Some(session) = &mut self.session else { return Ok(None) };
        let read = session.read_response_body();
        let read = match deadline {
            Some(deadline) => {
                within(deadline, read).await.map_err(|_| Failed::slow("the rest of the answer is overdue"))?
            }
            None => read.await,
        };
        match read {
            Ok(Some(piece)) => Ok(Some(piece)),
            Ok(None) => {
                self.release().await;
                Ok(None)
            }
            Err(error) => {
                self.session = None;
                Err(Failed::new(&error, true))
            }
        }
    }

    async fn read_head(&mut self, patience: Duration) -> Result<(), Failed> {
        tokio::time::timeout(patience, self.read_last_head())
            .await
            .map_err(|_| Failed::slow("the beginning of the answer is overdue"))?
    }

    /// Reads heads until one is not an interim answer's. Another protocol is not HTTP: it was not asked for.
    async fn read_last_head(&mut self) -> Result<(), Failed> {
        let not_http = |word| Failed { is_sent: true, kind: Fault::NotHttp, word };
        let Some(session) = &mut self.session else { return Err(not_http("no connection")) };
        for _ in 0..MOST_INTERIM {
            session.read_response_header().await.map_err(|error| Failed::new(&error, true))?;
            let Some(head) = session.response_header() else { return Err(not_http("no head")) };
            if head.status == StatusCode::SWITCHING_PROTOCOLS {
                return Err(not_http("another protocol"));
            }
            if !head.status.is_informational() {
                (self.status, self.headers) = (head.status, head.headers.clone());
                return Ok(());
            }
        }
        Err(not_http("interim answers without end"))
    }

    async fn release(&mut self) {
        let Some(session) = self.session.take() else { return };
        match (*session, &self.way_back) {
            (HttpSession::H1(session), WayBack::Loan(loan)) => loan.take_back(session).await,
            (session, WayBack::Pool(wire, peer)) => wire.here().release(session, peer).await,
            // Only HTTP/1.1 is spoken over what is lent.
            (_, WayBack::Loan(_)) => {}
        }
    }
}
