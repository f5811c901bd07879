//! Servers that speak HTTP/2, over TLS and without: calls share a connection, streams are passed on as they come.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use h2::server;
use http::{Method, Response};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::mpsc,
    task::AbortHandle,
};
use tokio_rustls::TlsAcceptor;

use super::with_peers;
use crate::harness::{
    certificates::Authority,
    deadline::within,
    fake_peer::openapi,
    grants::{CALLER, Grants},
    tokens::email_token,
};

/// A peer that speaks nothing but HTTP/2. Its tool `work` answers with what it was sent, `stream` with events of the test.
struct Peer {
    address: String,
    connections: Arc<AtomicUsize>,
    streams: mpsc::UnboundedReceiver<h2::SendStream<Bytes>>,
    accepting: AbortHandle,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Peer {
    async fn start(tls: Option<rustls::ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (connections, (to_test, streams)) = (Arc::<AtomicUsize>::default(), mpsc::unbounded_channel());
        let (count, acceptor) = (connections.clone(), tls.map(|config| TlsAcceptor::from(Arc::new(config))));
        let accepting = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let (to_test, acceptor) = (to_test.clone(), acceptor.clone());
                tokio::spawn(async move {
                    match acceptor {
                        None => serve(socket, to_test).await,
                        Some(acceptor) => {
                            if let Ok(socket) = acceptor.accept(socket).await {
                                serve(socket, to_test).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, connections, streams, accepting: accepting.abort_handle() }
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    socket: S,
    to_test: mpsc::UnboundedSender<h2::SendStream<Bytes>>,
) {
    let Ok(mut connection) = server::handshake(socket).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let to_test = to_test.clone();
        tokio::spawn(async move {
            let (head, mut body) = request.into_parts();
            let mut whole = Vec::new();
            while let Some(Ok(piece)) = body.data().await {
                let _ = body.flow_control().release_capacity(piece.len());
                whole.extend_from_slice(&piece);
            }
            let of = |kind: &str| Response::builder().header("content-type", kind).body(()).unwrap();
            if head.uri.path() == "/stream" {
                let stream = respond.send_response(of("text/event-stream"), false).unwrap();
                let _ = to_test.send(stream);
                return;
            }
            let body = if head.method == Method::GET {
                let tools = ["work", "stream"].map(|name| (name.to_owned(), json!({"type": "object"})));
                openapi(&tools.into()).to_string().into_bytes()
            } else {
                whole
            };
            let mut stream = respond.send_response(of("application/json"), false).unwrap();
            let _ = stream.send_data(body.into(), true);
        });
    }
}

async fn check(mut peer: Peer, url: String, keys: &str) {
    let grants = Grants::of(&["alpha"]).await;
    let gateway = with_peers(grants.setup(), "alpha", &[url], keys).start().await;
    gateway.knows_tools("alpha", 2).await;
    let before = peer.connections.load(Ordering::SeqCst);
    let token = email_token(CALLER);
    for n in 0..20 {
        let answer = gateway.call("/alpha/work", &token, &json!({"n": n})).await;
        assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({"n": n})));
    }
    let large = json!({"text": "x".repeat(300_000)});
    assert_eq!(gateway.call("/alpha/work", &token, &large).await.json(), large);
    let calls = peer.connections.load(Ordering::SeqCst) - before;
    assert!((1..=4).contains(&calls), "{calls} connections for 21 calls");

    let mut response = gateway.call_request("/alpha/stream", &token, &json!({})).send().await.unwrap();
    let mut stream = within("the call at the peer", peer.streams.recv()).await.unwrap();
    for event in ["data: one\n\n", "data: two\n\n"] {
        stream.send_data(Bytes::from_static(event.as_bytes()), false).unwrap();
        let piece = within("an event", response.chunk()).await.unwrap().unwrap();
        assert_eq!(piece, event);
    }
    drop(response);
    let reset =
        within("the client's leaving at the peer", std::future::poll_fn(|cx| stream.poll_reset(cx))).await;
    assert!(reset.is_ok() || reset.is_err());
}

#[tokio::test]
async fn a_server_of_http2_without_tls_is_called_over_few_connections() {
    let peer = Peer::start(None).await;
    let url = format!("http://{}", peer.address);
    check(peer, url, "http2 = true").await;
}

#[tokio::test]
async fn a_server_that_chooses_http2_in_the_handshake_is_called_with_it() {
    for keys in ["http2 = 'auto'", "http2 = true"] {
        let authority = Authority::new();
        let ca = authority.root();
        let mut config = authority.serves("localhost", None);
        config.alpn_protocols = vec![b"h2".to_vec()];
        let peer = Peer::start(Some(config)).await;
        let port = peer.address.rsplit_once(':').unwrap().1.to_owned();
        check(peer, format!("https://localhost:{port}"), &format!("{keys}\nca = '{ca}'")).await;
    }
}
