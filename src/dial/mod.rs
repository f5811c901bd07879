//! The gateway's own outbound calls: always a deadline, always a size cap, never a redirect or proxy.
//!
//! `Dialer` fetches documents for background work; `wire` has the connections of calls that the gateway makes in a
//! caller's place. Never decides where a request goes or what it says: `upstream` and `client` do.

pub mod wire;

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::{Bytes, BytesMut};

use http::{HeaderName, HeaderValue, StatusCode};

use crate::names::Secret;

/// Fetches documents within limits.
#[derive(Debug, Clone)]
pub struct Dialer {
    client: reqwest::Client,
    deadline: Duration,
    max_bytes: usize,
}

impl Dialer {
    /// A dialer with these limits for every document.
    pub fn new(deadline: Duration, max_bytes: usize) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(deadline)
            .connect_timeout(deadline)
            // Shorter than the 5 s after which uvicorn closes an idle connection.
            .pool_idle_timeout(Duration::from_secs(4))
            .user_agent(concat!("portcullis/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("cannot set up the outbound HTTP client")?;
        Ok(Self { client, deadline, max_bytes })
    }

    /// The status of the answer to this request. What follows the head is not read: it may never end.
    pub async fn status(&self, request: http::Request<Bytes>) -> anyhow::Result<StatusCode> {
        let request = reqwest::Request::try_from(request).context("no request")?;
        Ok(self.client.execute(request).await.context("no answer")?.status())
    }

    /// The document at this URL, asked for with this header where one is given.
    pub async fn get(
        &self,
        url: &str,
        credential: Option<(&HeaderName, &Secret<HeaderValue>)>,
    ) -> anyhow::Result<Bytes> {
        let mut request = self.client.get(url).header("accept", "application/json");
        if let Some((name, value)) = credential {
            request = request.header(name, value.expose());
        }
        let fetch = async {
            let mut response = request.send().await.context("no answer")?;
            if !response.status().is_success() {
                bail!("answered {}", response.status());
            }
            let mut document = BytesMut::new();
            while let Some(chunk) = response.chunk().await.context("answer broke off")? {
                if document.len() + chunk.len() > self.max_bytes {
                    bail!("answer is larger than {} bytes", self.max_bytes);
                }
                document.extend_from_slice(&chunk);
            }
            Ok(document.freeze())
        };
        tokio::time::timeout(self.deadline, fetch)
            .await
            .with_context(|| format!("no complete answer within {:?}", self.deadline))?
    }
}
