//! TLS on the public listener: the certificate, read again while the gateway runs, and the handshake.
//!
//! Decides whether two files are a certificate and its key. Never decides who is let in: a certificate of the client's
//! is not asked for. Files are read by whoever keeps them (`Certificates::reread`), never while a client waits.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use pingora::protocols::{ALPN, tls::SslDigest};
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use x509_parser::prelude::{FromDer, X509Certificate};

const H2: &[u8] = b"h2";
const HTTP_1: &[u8] = b"http/1.1";

/// Where the certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The certificate and those that lead to a known authority, in PEM.
    pub certificate: PathBuf,
    /// Its private key, in PEM.
    pub private_key: PathBuf,
}

/// A certificate with its key.
#[derive(Debug, Clone)]
pub struct Pair {
    key: Arc<CertifiedKey>,
    /// Seconds since 1970.
    begins_at: i64,
    /// Seconds since 1970.
    expires_at: i64,
}

/// Why two files are no certificate and key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable {
    /// The setting to look at: `certificate` or `private_key`.
    pub key: &'static str,
    /// What is wrong with it.
    pub sentence: String,
    /// What to do.
    pub hint: &'static str,
}

/// What is in the two files.
type Contents = (Vec<u8>, Vec<u8>);

impl Settings {
    /// Reads the certificate and its key.
    pub fn read(&self) -> Result<Pair, Unusable> {
        self.pair(&self.contents()?)
    }

    fn contents(&self) -> Result<Contents, Unusable> {
        Ok((contents("certificate", &self.certificate)?, contents("private_key", &self.private_key)?))
    }

    fn pair(&self, (certificate, private_key): &Contents) -> Result<Pair, Unusable> {
        let unusable = |key, path: &Path, what: &str, hint| Unusable {
            key,
            sentence: format!("`{}` {what}", path.display()),
            hint,
        };
        let of_certificate = |what: &str| {
            let hint = "name a file in PEM with the certificate first and those that lead to a known authority after it";
            unusable("certificate", &self.certificate, what, hint)
        };
        let of_key = |what: &str, hint| unusable("private_key", &self.private_key, what, hint);
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<_, _>>()
            .map_err(|_| of_certificate("is not PEM"))?;
        let leaf = chain.first().ok_or_else(|| of_certificate("holds no certificate"))?;
        let (_, leaf) = X509Certificate::from_der(leaf)
            .map_err(|_| of_certificate("holds a certificate that cannot be read"))?;
        let (begins_at, expires_at) =
            (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
        let pem = "name a file in PEM with a key in PKCS#8, PKCS#1 or SEC1 that no passphrase protects";
        let private =
            PrivateKeyDer::from_pem_slice(private_key).map_err(|_| of_key("holds no private key", pem))?;
        let signing = ring::sign::any_supported_type(&private).map_err(|_| {
            of_key("holds a key that cannot be used", "use RSA, ECDSA (P-256, P-384) or Ed25519")
        })?;
        let key = CertifiedKey::new(chain, signing);
        key.keys_match()
            .map_err(|_| of_key("is not the key of the certificate", "name the key it was issued for"))?;
        Ok(Pair { key: Arc::new(key), begins_at, expires_at })
    }
}

fn contents(key: &'static str, path: &Path) -> Result<Vec<u8>, Unusable> {
    fs::read(path).map_err(|error| Unusable {
        key,
        sentence: match error.kind() {
            io::ErrorKind::NotFound => format!("`{}` does not exist", path.display()),
            _ => format!("`{}` cannot be read: {error}", path.display()),
        },
        hint: "name a file that the gateway's user may read; a path without `/` at its start begins where it was started",
    })
}

impl Pair {
    /// Seconds since 1970 when it ends.
    pub fn expires_at(&self) -> i64 {
        self.expires_at
    }

    /// What clients will hold against it now, if anything.
    pub fn remark(&self) -> Option<&'static str> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs() as i64);
        match () {
            () if now >= self.expires_at => Some("has expired"),
            () if now < self.begins_at => Some("is not valid yet"),
            () => None,
        }
    }
}

/// The certificate in use.
#[derive(Debug)]
pub struct Certificates {
    settings: Settings,
    current: ArcSwap<Pair>,
}

/// What became of the files.
#[derive(Debug)]
pub enum Reread {
    /// They are as they were.
    Same,
    /// Connections that begin now have this one.
    Renewed(Arc<Pair>),
    /// They are other ones and of no use; the one before stays.
    Unusable(Unusable),
}

impl Certificates {
    /// Reads the files for the first time.
    pub fn read(settings: &Settings) -> Result<Arc<Self>, Unusable> {
        let current = ArcSwap::from_pointee(settings.read()?);
        Ok(Arc::new(Self { settings: settings.clone(), current }))
    }

    /// Reads the files again and takes what is new in them. Connections that stand keep what they have.
    pub fn reread(&self) -> Reread {
        match self.settings.read() {
            Ok(pair) => self.take(pair),
            Err(unusable) => Reread::Unusable(unusable),
        }
    }

    fn take(&self, pair: Pair) -> Reread {
        if self.current.load().key.cert == pair.key.cert {
            return Reread::Same;
        }
        let pair = Arc::new(pair);
        self.current.store(pair.clone());
        Reread::Renewed(pair)
    }

    /// The one that connections begin with now.
    pub fn current(&self) -> Arc<Pair> {
        self.current.load_full()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load().key.clone())
    }
}

/// Agrees on TLS with clients.
#[derive(Clone)]
pub struct Listener(TlsAcceptor);

/// A connection that has agreed on TLS.
pub struct Agreed<S> {
    /// What is said over it.
    pub stream: TlsStream<S>,
    /// What was agreed on.
    pub digest: Arc<SslDigest>,
    /// The protocol to be spoken.
    pub alpn: Option<ALPN>,
    /// Whether that is HTTP/2.
    pub is_h2: bool,
}

impl Listener {
    /// With these certificates, TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1.
    pub fn new(certificates: Arc<Certificates>) -> anyhow::Result<Self> {
        let provider = Arc::new(CryptoProvider { ..ring::default_provider() });
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(certificates);
        config.alpn_protocols = vec![H2.to_vec(), HTTP_1.to_vec()];
        // Tickets keep what a resumption needs at the client, for as many as there are.
        config.ticketer = ring::Ticketer::new()?;
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// Agrees with a client.
    pub async fn agree<S: AsyncRead + AsyncWrite + Unpin>(&self, socket: S) -> io::Result<Agreed<S>> {
        let stream = self.0.accept(socket).await?;
        let (_, session) = stream.get_ref();
        let is_h2 = session.alpn_protocol() == Some(H2);
        let word = |word: Option<&str>| word.unwrap_or_default().to_owned();
        let cipher = word(session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()));
        let version = word(session.protocol_version().and_then(|version| version.as_str()));
        let digest = Arc::new(SslDigest::new(cipher, version, None, None, Vec::new()));
        Ok(Agreed { stream, digest, alpn: Some(if is_h2 { ALPN::H2 } else { ALPN::H1 }), is_h2 })
    }
}
