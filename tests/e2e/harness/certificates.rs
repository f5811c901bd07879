//! An authority of this test alone, what it signs, and clients that believe it.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{deadline::within, gateway::Setup};

/// An authority.
pub struct Authority {
    pub(super) issuer: Issuer<'static, KeyPair>,
    pub(super) root: rcgen::Certificate,
    /// Its certificate, and the gateway's with its key.
    pub folder: tempfile::TempDir,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Another name than what it issues has, or that would look as if it had signed itself.
        params.distinguished_name.push(DnType::CommonName, "an authority of a test");
        let root = params.self_signed(&key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("root.pem"), root.pem()).unwrap();
        let authority = Self { issuer: Issuer::new(params, key), root, folder };
        authority.issue();
        authority
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// The authority's certificate in PEM.
    pub fn root(&self) -> String {
        self.path("root.pem")
    }

    /// The certificate it issued last and its key, in PEM.
    pub fn files(&self) -> (String, String) {
        (self.path("gateway.pem"), self.path("gateway.key"))
    }

    /// Puts a new certificate and key for `localhost` and `127.0.0.1` where the gateway looks for them, and gives back
    /// the certificate as clients see it.
    pub fn issue(&self) -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        self.write("gateway.pem", &certificate.pem());
        self.write("gateway.key", &key.serialize_pem());
        certificate.der().to_vec()
    }

    /// Puts this text in the place of a file at once, as who renews certificates does.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        let new = path.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    /// A client's end of TLS that believes this authority and offers these protocols.
    pub fn connector(&self, protocols: &[&[u8]]) -> TlsConnector {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut roots = RootCertStore::empty();
        roots.add(self.root.der().clone()).unwrap();
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }

    /// Connects, and agrees on TLS.
    pub async fn connect(&self, address: &str, protocols: &[&[u8]]) -> std::io::Result<TlsStream<TcpStream>> {
        let socket = TcpStream::connect(address).await?;
        self.agree(socket, protocols).await
    }

    /// Agrees on TLS.
    pub async fn agree(
        &self,
        socket: TcpStream,
        protocols: &[&[u8]],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from("localhost").unwrap();
        within("a handshake", self.connector(protocols).connect(name, socket)).await
    }
}

impl Setup {
    /// Has the gateway speak TLS, with what this authority issues.
    pub fn tls(self, authority: &Authority) -> Self {
        let (certificate, key) = authority.files();
        self.set("listen.certificate", certificate).set("listen.private_key", key)
    }
}
