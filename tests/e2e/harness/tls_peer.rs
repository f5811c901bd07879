//! TLS in front of a peer, with a certificate of an authority of the test.

use std::sync::{Arc, Mutex};

use rcgen::{CertificateParams, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};
use tokio_rustls::TlsAcceptor;

use super::{certificates::Authority, load::apart};

impl Authority {
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

/// TLS in front of a peer.
pub struct TlsFront {
    port: u16,
    config: Arc<Mutex<Arc<ServerConfig>>>,
    accepting: AbortHandle,
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl TlsFront {
    /// In front of the peer at this address.
    pub fn of(peer: String, config: ServerConfig) -> Self {
        let _apart = apart().enter();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let listener = TcpListener::from_std(listener).unwrap();
        let config = Arc::new(Mutex::new(Arc::new(config)));
        let current = config.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (acceptor, peer) = (TlsAcceptor::from(current.lock().unwrap().clone()), peer.clone());
                tokio::spawn(async move {
                    let mut near = acceptor.accept(socket).await?;
                    let mut far = TcpStream::connect(peer).await?;
                    copy_bidirectional(&mut near, &mut far).await
                });
            }
        });
        Self { port, config, accepting: accepting.abort_handle() }
    }

    /// Greets whoever connects from now on with this; connections that stand are left alone.
    pub fn serve(&self, config: ServerConfig) {
        *self.config.lock().unwrap() = Arc::new(config);
    }

    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }
}
