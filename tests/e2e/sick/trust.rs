//! Servers behind an authority of their own, and servers that want to know who calls: certificates from files.

use std::{fs, path::Path, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};
use serde_json::json;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};
use tokio_rustls::TlsAcceptor;

use super::with_peers;
use crate::harness::{
    fake_peer::FakePeer,
    gateway::Gateway,
    grants::{CALLER, Grants},
    tokens::email_token,
};

/// An authority that certificates are issued by.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: rcgen::Certificate,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap();
        Self { issuer: Issuer::new(params, key), root }
    }

    /// Writes its own certificate to a file.
    pub fn write(&self, folder: &Path, name: &str) -> String {
        write(folder, name, &self.root.pem())
    }

    /// Writes a certificate of this name and its key to files.
    fn issue(&self, folder: &Path, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let leaf =
            CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        (write(folder, "client.pem", &leaf.pem()), write(folder, "client.key", &key.serialize_pem()))
    }

    /// The server's side of TLS with a certificate of this name; `asks` is whose certificates callers must show.
    pub fn serves(&self, name: &str, asks: Option<&Self>) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let leaf =
            CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider.clone());
        let config = config.with_safe_default_protocol_versions().unwrap();
        let config = match asks {
            None => config.with_no_client_auth(),
            Some(asks) => {
                let mut roots = RootCertStore::empty();
                roots.add(asks.root.der().clone()).unwrap();
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
                config.with_client_cert_verifier(verifier)
            }
        };
        config.with_single_cert(vec![leaf.der().clone()], key).unwrap()
    }
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// TLS in front of a peer.
struct Front(u16, AbortHandle);

impl Drop for Front {
    fn drop(&mut self) {
        self.1.abort();
    }
}

impl Front {
    async fn of(peer: &FakePeer, config: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (acceptor, peer) = (TlsAcceptor::from(Arc::new(config)), peer.address());
        let accepting = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (acceptor, peer) = (acceptor.clone(), peer.clone());
                tokio::spawn(async move {
                    let mut near = acceptor.accept(socket).await?;
                    let mut far = TcpStream::connect(peer).await?;
                    copy_bidirectional(&mut near, &mut far).await
                });
            }
        });
        Self(port, accepting.abort_handle())
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.0)
    }
}

async fn status(gateway: &Gateway, server: &str) -> u16 {
    gateway.call(&format!("/{server}/work"), &email_token(CALLER), &json!({})).await.status.as_u16()
}

#[tokio::test]
async fn a_server_of_a_private_authority_that_asks_who_calls_is_called_and_nobody_else_with_its_trust() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, clients) = (Authority::new(), Authority::new());
    let ca = authority.write(folder.path(), "ca.pem");
    let (certificate, key) = clients.issue(folder.path(), "portcullis");
    let peer = FakePeer::start().await.with_json("work", json!("done"));
    let front = Front::of(&peer, authority.serves("localhost", Some(&clients))).await;
    let ids = ["right", "nobody", "nothing"];
    let grants = Grants::of(&ids).await;
    let whole = format!("ca = '{ca}'\nclient_cert = '{certificate}'\nclient_key = '{key}'");
    let setup = with_peers(grants.setup(), "right", &[front.url()], &whole);
    // The same address, and no use of what the first has.
    let setup = with_peers(setup, "nobody", &[front.url()], &format!("ca = '{ca}'"));
    let gateway = with_peers(setup, "nothing", &[front.url()], "").start().await;
    gateway.knows_tools("right", 1).await;
    for _ in 0..3 {
        assert_eq!(status(&gateway, "right").await, 200);
        assert_eq!((status(&gateway, "nobody").await, status(&gateway, "nothing").await), (502, 502));
    }
    assert_eq!(gateway.metrics().await.sum("portcullis_tools", &[("server", "nobody")]), 0.0);
}

#[tokio::test]
async fn a_certificate_must_have_the_name_of_the_address_or_the_one_that_is_configured() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let ca = authority.write(folder.path(), "ca.pem");
    let other = Authority::new().write(folder.path(), "other.pem");
    let peer = FakePeer::start().await.with_json("work", json!("done"));
    let front = Front::of(&peer, authority.serves("tools.internal", None)).await;
    let grants = Grants::of(&["named", "unnamed", "foreign"]).await;
    let named = format!("ca = '{ca}'\ntls_name = 'tools.internal'");
    let setup = with_peers(grants.setup(), "named", &[front.url()], &named);
    let setup = with_peers(setup, "unnamed", &[front.url()], &format!("ca = '{ca}'"));
    let foreign = format!("ca = '{other}'\ntls_name = 'tools.internal'");
    let gateway = with_peers(setup, "foreign", &[front.url()], &foreign).start().await;
    gateway.knows_tools("named", 1).await;
    assert_eq!(status(&gateway, "named").await, 200);
    assert_eq!((status(&gateway, "unnamed").await, status(&gateway, "foreign").await), (502, 502));
}
