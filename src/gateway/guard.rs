//! The public listener's guard: how many connections, how long for a header, and the hand that cuts.
//!
//! Pingora bounds none of the three: it reads a dripped header for ever, keeps idle connections
//! without end and can end no connection from outside. Decides nothing about requests.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use pingora::{
    apps::{HttpServerApp, ServerApp},
    protocols::Stream,
    server::ShutdownWatch,
};
use tokio::net::TcpStream;

use super::{
    client::{Client, Facts},
    configured::Configured,
    hearing::{HEAD_SHARE, Requests, Wrong},
    limiting::{self, TooMany},
    line::Line,
    proxy_protocol::{self, NoHeader},
    seats::{Forsaken, Seats},
    streams::Streams,
    taking::Taking,
    tls::Listener,
};
use crate::{limit, record::metrics::Metrics};

/// Of how many connections one may be forsaken by its client and go on.
const FORSAKEN_SHARE: usize = 10;

/// Guards every connection of the app inside.
pub struct Guard<A> {
    inner: Arc<A>,
    requests: Arc<Requests<A>>,
    gate: Gate,
}

/// What all guards of one listener share. A clone is the same.
#[derive(Clone)]
pub struct Gate {
    room: Arc<Seats>,
    forsaken: Arc<Seats>,
    configured: Configured,
    tls: Option<Listener>,
    metrics: Arc<Metrics>,
}

impl Gate {
    /// A gate that nobody has come through yet.
    pub fn new(configured: Configured, tls: Option<Listener>, metrics: Arc<Metrics>) -> Self {
        Self { room: Arc::default(), forsaken: Arc::default(), configured, tls, metrics }
    }
}

/// What the configuration says of a connection when it begins. It keeps that: an idle connection must not hold a
/// configuration that a reload has replaced.
pub struct Terms {
    header_timeout: Duration,
    /// How long it may be idle.
    pub keepalive_timeout: Duration,
    /// How many streams of HTTP/2 run at once.
    pub max_streams: usize,
    /// How large the headers of a request may be.
    pub max_header_bytes: usize,
    /// Whether it begins with a PROXY protocol header: it does when a balancer of ours sends those.
    is_introduced: bool,
    /// How slow a reader may be.
    write_timeout: Duration,
    min_answer_rate: u64,
}

impl<A: HttpServerApp + Send + Sync + 'static> Guard<A> {
    /// A guard around `inner`.
    pub fn new(inner: A, gate: Gate) -> Self {
        let inner = Arc::new(inner);
        let requests = Arc::new(Requests(inner.clone()));
        Self { inner, requests, gate }
    }

    /// Serves a connection to its end. `shutdown` tells it that the process wants to end.
    pub async fn serve(&self, socket: TcpStream, peer: SocketAddr, shutdown: &ShutdownWatch) {
        let (terms, most) = self.terms(peer);
        let Some(seat) = self.gate.room.take(most) else {
            return self.close("too_many");
        };
        let _open = Open::new(&self.gate.metrics);
        let header_timeout = terms.header_timeout;
        let forsaken = Forsaken { seats: self.gate.forsaken.clone(), most: (most / FORSAKEN_SHARE).max(1) };
        let line = Line::new(header_timeout, Some(seat), forsaken);
        let hear = line.scope(self.hear((socket, peer), terms, line.clone(), shutdown));
        tokio::select! {
            // In this order: an answer that can be finished at once is, and its connection stays good for the next call.
            biased;
            () = hear => {}
            () = line.ending.withdrawn() => self.close("withdrawn"),
            () = line.overdue(header_timeout) => self.close("header_timeout"),
        }
        // Not when the last one lets go of the line: the next client may be waiting.
        line.take_seat(None);
        line.take_place(None);
    }

    /// What holds for a connection that begins now, and how many there may be.
    fn terms(&self, peer: SocketAddr) -> (Terms, usize) {
        let gateway = self.gate.configured.now();
        let settings = &gateway.settings;
        let is_balancer = settings.addresses.is_balancer(peer.ip().to_canonical());
        let terms = Terms {
            header_timeout: settings.header_timeout,
            keepalive_timeout: settings.keepalive_timeout,
            max_header_bytes: settings.max_header_bytes,
            max_streams: settings.max_h2_streams,
            is_introduced: is_balancer && settings.addresses.is_proxy_protocol_on,
            write_timeout: settings.write_timeout,
            min_answer_rate: settings.min_answer_rate,
        };
        (terms, settings.max_connections)
    }

    /// Hears what a balancer has to say first, agrees on TLS where there is a certificate, and leaves the rest to the
    /// app inside.
    ///
    /// A balancer that does not say it is not heard as a client either: its word would be forgotten where it is
    /// configured, and taken for the client's where it is not.
    async fn hear(
        &self,
        (mut socket, peer): (TcpStream, SocketAddr),
        terms: Terms,
        line: Arc<Line>,
        shutdown: &ShutdownWatch,
    ) {
        let facts = Facts::of(&socket, peer);
        if terms.is_introduced {
            match Box::pin(proxy_protocol::read(&mut socket)).await {
                Ok(Some(address)) => line.tell(address),
                Ok(None) => {}
                Err(NoHeader::Silent) => return,
                Err(NoHeader::Malformed) => return self.close("no_proxy_header"),
            }
        }
        let Ok(place) = self.admit(&line, peer) else { return self.close("too_many_of_address") };
        line.take_place(place);
        let taking = Taking::new(terms.write_timeout, terms.min_answer_rate);
        match &self.gate.tls {
            Some(tls) => {
                Box::pin(self.agree(tls, (socket, facts), (&terms, taking), &line, shutdown)).await;
            }
            None => {
                let client = Client::new(socket, facts, line.clone(), taking);
                self.serve_requests(Box::new(client), &line, &terms, shutdown).await;
            }
        }
    }

    /// Agrees on TLS, and leaves the rest to the app inside.
    async fn agree(
        &self,
        tls: &Listener,
        (socket, mut facts): (TcpStream, Facts),
        (terms, taking): (&Terms, Taking),
        line: &Arc<Line>,
        shutdown: &ShutdownWatch,
    ) {
        // Somebody who looks whether the port is open has not failed at TLS.
        if !matches!(socket.peek(&mut [0]).await, Ok(1..)) {
            return;
        }
        line.disarm();
        let Ok(Ok(agreed)) = tokio::time::timeout(terms.header_timeout, tls.agree(socket)).await else {
            return self.close("tls_handshake");
        };
        line.arm(terms.header_timeout);
        (facts.tls, facts.alpn) = (Some(agreed.digest), agreed.alpn);
        let client = Box::new(Client::new(agreed.stream, facts, line.clone(), taking.clone()));
        if agreed.is_h2 {
            let streams = Streams::new(self.inner.clone(), line.clone(), (terms, taking), &self.gate.metrics);
            drop(Arc::new(streams).process_new(client, shutdown).await);
        } else {
            self.serve_requests(client, line, terms, shutdown).await;
        }
    }

    /// Has requests of HTTP/1.1 served, and hears them.
    async fn serve_requests(&self, client: Stream, line: &Line, terms: &Terms, shutdown: &ShutdownWatch) {
        line.hearing().listen(terms.max_header_bytes * HEAD_SHARE);
        drop(self.requests.process_new(client, shutdown).await);
        if line.hearing().wrong() == Some(Wrong::Head) {
            self.close("header_size");
        }
    }

    /// A place for the connection among those of its address.
    fn admit(&self, line: &Line, peer: SocketAddr) -> Result<Option<limit::seats::Seat>, TooMany> {
        let gateway = self.gate.configured.now();
        let address = line.told().unwrap_or_else(|| peer.ip().to_canonical());
        // Behind a balancer that tells no address it is nobody's.
        let is_somebody_s = !gateway.settings.addresses.is_balancer(address);
        let seat = gateway.limiting.connect(is_somebody_s.then_some(address));
        seat.inspect_err(|_| limiting::suspect_a_crowd(address))
    }

    /// Closes the connections that wait for a request.
    pub async fn close_idle(&self) {
        self.inner.http_cleanup().await;
    }

    fn close(&self, reason: &'static str) {
        self.gate.metrics.connections_closed.with_label_values(&[reason]).inc();
    }
}

/// Counts a connection as open until dropped.
struct Open<'m>(&'m Metrics);

impl<'m> Open<'m> {
    fn new(metrics: &'m Metrics) -> Self {
        metrics.connections.inc();
        Self(metrics)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.connections.dec();
    }
}
