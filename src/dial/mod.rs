//! The gateway's own outbound calls: always a deadline, always a size cap, never a redirect or proxy.
//!
//! `Dialer` fetches documents for background work; `wire` has the connections of calls that the gateway makes in a
//! caller's place. Never decides where a request goes or what it says: `upstream` and `client` do.

pub mod authorities;
pub mod gathering;
mod held;
pub mod loan;
pub mod tls;
pub mod wire;

use std::{pin::pin, time::Duration};

use anyhow::{Context, bail};
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::{HeaderName, HeaderValue, StatusCode};
use tokio::time::error::Elapsed;

use crate::names::Secret;

/// What comes of `work` in this time. Mostly that is there at once, and nobody has to look at a clock.
pub async fn within<T>(patience: Duration, work: impl Future<Output = T>) -> Result<T, Elapsed> {
    let mut work = pin!(work);
    match work.as_mut().now_or_never() {
        Some(done) => Ok(done),
        None => tokio::time::timeout(patience, work).await,
    }
}

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
            let response = request.send().await.context("no answer")?;
            if !response.status().is_success() {
                bail!("answered {}", response.status());
            }
            self.whole(response).await
        };
        self.in_time(fetch).await
    }

    /// The whole answer to this request, whatever its status.
    pub async fn exchange(&self, request: http::Request<Bytes>) -> anyhow::Result<http::Response<Bytes>> {
        let request = reqwest::Request::try_from(request).context("no request")?;
        let exchange = async {
            let mut response = self.client.execute(request).await.context("no answer")?;
            let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
            let mut answer = http::Response::new(self.whole(response).await?);
            (*answer.status_mut(), *answer.headers_mut()) = (status, headers);
            Ok(answer)
        };
        self.in_time(exchange).await
    }

    /// The answer to this request, whose head settles what it says: of a body that is too large, or that breaks off, there
    /// is nothing.
    pub async fn settled(&self, request: http::Request<Bytes>) -> anyhow::Result<http::Response<Bytes>> {
        let request = reqwest::Request::try_from(request).context("no request")?;
        let answered = async { self.client.execute(request).await.context("no answer") };
        let mut response = self.in_time(answered).await?;
        let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
        let mut answer = http::Response::new(self.in_time(self.whole(response)).await.unwrap_or_default());
        (*answer.status_mut(), *answer.headers_mut()) = (status, headers);
        Ok(answer)
    }

    async fn whole(&self, mut response: reqwest::Response) -> anyhow::Result<Bytes> {
        let mut document = BytesMut::new();
        while let Some(chunk) = response.chunk().await.context("answer broke off")? {
            if document.len() + chunk.len() > self.max_bytes {
                bail!("answer is larger than {} bytes", self.max_bytes);
            }
            document.extend_from_slice(&chunk);
        }
        Ok(document.freeze())
    }

    async fn in_time<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        tokio::time::timeout(self.deadline, work)
            .await
            .with_context(|| format!("no complete answer within {:?}", self.deadline))?
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[tokio::test]
    async fn a_head_settles_an_answer_whose_body_is_too_large() {
        crate::app::install_crypto();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                drop(stream.read(&mut [0; 4096]));
                drop(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n"));
                drop(stream.write_all(&[b'x'; 100]));
            }
        });
        let dialer = Dialer::new(Duration::from_secs(5), 99).unwrap();
        let request = || http::Request::post(format!("http://{address}/")).body(Bytes::new()).unwrap();
        let answer = dialer.settled(request()).await.unwrap();
        assert_eq!((answer.status(), answer.body().len()), (StatusCode::OK, 0));
        assert!(dialer.exchange(request()).await.is_err(), "whoever wants all of it has none");
    }
}
