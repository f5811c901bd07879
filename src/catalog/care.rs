//! How a server's peers are treated: how long they are waited for, what may be sent to them twice, how they are probed, and
//! over which kind of connection.
//!
//! Holds checked values only; `config` makes them.

use std::{fmt, sync::Arc, time::Duration};

use crate::names::{Secret, ToolPattern};

/// How long the gateway waits for a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// For the TCP connection.
    pub connect: Duration,
    /// For the beginning of an answer, once all of the request was sent.
    pub first_byte: Duration,
    /// Between two pieces of an answer.
    pub read: Duration,
    /// For all of an answer that is no stream of events, once all of the request was sent.
    pub total: Duration,
}

impl Deadlines {
    /// The answer's beginning and each of its pieces within `read`, and all of it in ten minutes, or twice that.
    pub fn of(connect: Duration, read: Duration) -> Self {
        Self { connect, first_byte: read, read, total: (read * 2).max(Duration::from_secs(600)) }
    }
}

/// Which version of HTTP is spoken with a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Http2 {
    /// HTTP/1.1.
    #[default]
    Never,
    /// What the server chooses in the TLS handshake.
    Offered,
    /// HTTP/2, from the first byte where there is no TLS.
    Always,
}

/// Our own certificate at a server.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// In DER, the leaf first.
    pub chain: Vec<Vec<u8>>,
    /// Its private key, in DER.
    pub key: Secret<Vec<u8>>,
}

/// Whom to believe at a server's addresses, and as whom to be believed.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct TlsFiles {
    /// Certificates of authorities, in DER: trusted instead of the system's.
    pub authorities: Vec<Vec<u8>>,
    /// What we show of ourselves.
    pub client: Option<ClientCertificate>,
    /// The name that the server's certificate must have, where that is not the host of its address.
    pub name: Option<String>,
    /// Of all of it: connections made with another one are never used.
    pub fingerprint: u64,
}

impl TlsFiles {
    /// What of it is for addresses of the same kind that others bring: whom to believe, and not as whom to be believed.
    pub fn for_others(&self) -> Option<Self> {
        let authorities = self.authorities.clone();
        let fingerprint = !self.fingerprint;
        (!authorities.is_empty()).then_some(Self { authorities, client: None, name: None, fingerprint })
    }
}

impl fmt::Debug for TlsFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsFiles").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

/// How it is seen whether a peer is well.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Probe {
    /// A tool to call, and its arguments as JSON. Without one the server is asked what it offers.
    pub tool: Option<(String, String)>,
    /// How often a peer is probed that is well; never, without it.
    pub every: Option<Duration>,
}

/// How a server's peers are treated.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Care {
    /// Tools whose calls may be sent again although the first may have been run, as the operator says.
    pub repeatable: Vec<ToolPattern>,
    /// How peers are probed.
    pub probe: Probe,
    /// Which version of HTTP is spoken.
    pub http2: Http2,
    /// Requests at the same time on one connection of HTTP/2.
    pub max_h2_streams: usize,
    /// What TLS needs to know; none where that is the system's.
    pub tls: Option<Arc<TlsFiles>>,
}
