//! A fast server of tools, over REST and over MCP: what stands behind everything that is measured.
//!
//!     peer LISTEN        peer 127.0.0.1:20001
//!
//! Paths begin with a number, which is how many tools there are: `/3/openapi.json`, `POST /3/echo`, `POST /3/mcp`. The
//! tools are `echo` (1 KiB at once), `events` (a stream that tells when each event was sent), `idle` (a stream that says
//! one thing and then nothing) and as many more like `echo` as make up the number. One thread a core, each with a runtime
//! of its own: no work crosses threads. It reads no credential and refuses nobody.

mod answers;
mod events;
mod mcp;

use std::{convert::Infallible, net::SocketAddr, thread};

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header, http::HeaderValue, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket};

use events::{Events, Pace};

/// What is sent: all at once, or event by event.
pub type Body = Either<Full<Bytes>, Events>;

pub const JSON: &str = "application/json";

/// An answer in one piece.
pub fn whole(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A stream of events.
pub fn stream(events: Events) -> Response<Body> {
    let mut response = Response::new(Either::Right(events));
    let kind = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

pub fn nothing(status: StatusCode) -> Response<Body> {
    whole(status, "text/plain", Bytes::new())
}

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let mut segments = head.uri.path().trim_start_matches('/').split('/');
    let (Some(count), Some(what), None) = (segments.next(), segments.next(), segments.next()) else {
        return Ok(nothing(StatusCode::NOT_FOUND));
    };
    let Some(count) = count.parse().ok().filter(|count| (1..=10_000).contains(count)) else {
        return Ok(nothing(StatusCode::NOT_FOUND));
    };
    Ok(match (&head.method, what) {
        (&Method::GET, "openapi.json") => whole(StatusCode::OK, JSON, answers::document(count)),
        (&Method::GET, "mcp") => stream(Events::idle()),
        (&Method::POST, "mcp") => mcp::answer(count, &body),
        (&Method::POST, "events") => stream(Events::plain(Pace::read(&body))),
        (&Method::POST, "idle") => stream(Events::idle()),
        (&Method::POST, tool) if answers::is_plain(tool) => {
            whole(StatusCode::OK, JSON, answers::REST.clone())
        }
        _ => nothing(StatusCode::NOT_FOUND),
    })
}

/// A listener of this thread's own: the kernel deals connections out among them.
fn listener(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    socket.listen(4096)
}

async fn serve(address: SocketAddr) -> std::io::Result<Infallible> {
    let listener = listener(address)?;
    loop {
        // Out of open files, or a caller that is gone: the next one may have more luck.
        let Ok((socket, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        socket.set_nodelay(true)?;
        let connection = http1::Builder::new().serve_connection(TokioIo::new(socket), service_fn(answer));
        // A caller that hangs up is no news.
        tokio::spawn(async move { drop(connection.await) });
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Some(address) = std::env::args().nth(1) else { return Err("usage: peer LISTEN".into()) };
    let address: SocketAddr = address.parse()?;
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let run = move || -> std::io::Result<Infallible> {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(address))
    };
    let threads: Vec<_> = (1..cores).map(|_| thread::spawn(run)).collect();
    let ended = run();
    drop(threads);
    match ended? {}
}
