//! Servers behind TLS: a certificate is believed when it is right, and otherwise not a byte of a request is sent.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

use super::wire::{End, request};
use crate::harness::{
    gateway::{Answer, Gateway},
    grants::{CALLER, Grants},
    tokens::email_token,
    wire::answer,
};

const RESULT: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[]}}"#;

/// What a certificate is good for.
struct Certificate {
    name: &'static str,
    is_expired: bool,
}

const GOOD: Certificate = Certificate { name: "localhost", is_expired: false };

/// A server behind TLS that answers every request with [`RESULT`] and counts what it was sent.
struct TlsServer {
    port: u16,
    /// The authority that signed its certificate, in PEM.
    authority: String,
    received: Arc<AtomicUsize>,
    handshakes: Arc<AtomicUsize>,
    accepting: AbortHandle,
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl TlsServer {
    async fn start(certificate: Certificate) -> Self {
        let (authority, config) = signed(&certificate);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (received, handshakes) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (bytes, hands) = (received.clone(), handshakes.clone());
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(serve(acceptor.clone(), socket, bytes.clone(), hands.clone()));
            }
        });
        Self { port, authority, received, handshakes, accepting: accepting.abort_handle() }
    }
}

/// An authority of its own, and a server's side with a certificate that it signed.
fn signed(certificate: &Certificate) -> (String, ServerConfig) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let root = authority.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let mut leaf = CertificateParams::new(vec![certificate.name.to_owned()]).unwrap();
    if certificate.is_expired {
        leaf.not_after = rcgen::date_time_ymd(2020, 1, 1);
    }
    let key = KeyPair::generate().unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![leaf.der().clone()], key).unwrap();
    (root.pem(), config)
}

async fn serve(
    acceptor: TlsAcceptor,
    socket: TcpStream,
    received: Arc<AtomicUsize>,
    handshakes: Arc<AtomicUsize>,
) {
    let accepted = acceptor.accept(socket).await;
    handshakes.fetch_add(1, Ordering::SeqCst);
    let Ok(mut connection) = accepted else { return };
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = connection.read(&mut buffer).await {
        received.fetch_add(length, Ordering::SeqCst);
        if buffer[..length].ends_with(b"}") {
            let said = answer("200 OK", "application/json", RESULT.as_bytes());
            let _ = connection.write_all(&said).await;
        }
    }
}

/// A gateway in front of it that believes this authority, and a list of the tools asked for.
async fn ask(server: &TlsServer, authority: Option<&str>) -> (Gateway, Grants, Answer) {
    let grants = Grants::of(&["native"]).await;
    let folder = tempfile::tempdir().unwrap();
    let setup = grants.setup().mcp("native", "mcp", &format!("https://localhost:{}/mcp", server.port));
    let setup = match authority {
        Some(authority) => {
            let file = folder.path().join("authority.pem");
            std::fs::write(&file, authority).unwrap();
            setup.environment("SSL_CERT_FILE", file.to_str().unwrap())
        }
        None => setup,
    };
    let gateway = setup.start().await;
    let through = End::through(gateway.url("/native/mcp"), &email_token(CALLER));
    let answer = Answer::read(through.post(&[], &request(1, "tools/list", json!({}))).await).await;
    (gateway, grants, answer)
}

#[tokio::test]
async fn a_server_whose_certificate_is_right_is_called() {
    let server = TlsServer::start(GOOD).await;
    let (_gateway, _grants, answer) = ask(&server, Some(&server.authority)).await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, RESULT));
}

/// The server is not believed: it has seen the handshake and nothing else, and the client is told without details.
async fn check_refused(certificate: Certificate, is_authority_known: bool) {
    let server = TlsServer::start(certificate).await;
    let authority = is_authority_known.then_some(&*server.authority);
    let (gateway, _grants, answer) = ask(&server, authority).await;
    assert_eq!(answer.status.as_u16(), 502, "{}", answer.text());
    assert_eq!(answer.json()["error"]["data"]["code"], "peer_unreachable");
    gateway.await_metric("portcullis_refusals_total", &[("code", "peer_unreachable")], 1).await;
    assert!(server.handshakes.load(Ordering::SeqCst) > 0, "the server was never called");
    assert_eq!(server.received.load(Ordering::SeqCst), 0, "bytes were sent to a server nobody vouches for");
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_not_believed() {
    check_refused(GOOD, false).await;
}

#[tokio::test]
async fn a_certificate_of_another_name_is_not_believed() {
    check_refused(Certificate { name: "other.example.com", is_expired: false }, true).await;
}

#[tokio::test]
async fn a_certificate_that_has_expired_is_not_believed() {
    check_refused(Certificate { name: "localhost", is_expired: true }, true).await;
}
