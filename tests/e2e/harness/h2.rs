//! A client that speaks HTTP/2: one connection, any number of requests on it.

use bytes::Bytes;
use h2::{RecvStream, client::SendRequest};
use http::Request;
use tokio::task::AbortHandle;

use super::{certificates::Authority, deadline::within};

/// One connection.
pub struct H2Client {
    send: SendRequest<Bytes>,
    driver: tokio::task::JoinHandle<Result<(), h2::Error>>,
    abort: AbortHandle,
}

impl Drop for H2Client {
    fn drop(&mut self) {
        self.abort.abort();
    }
}

/// An answer, as far as it has come.
pub struct H2Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    body: RecvStream,
}

impl H2Client {
    /// Connects to `127.0.0.1:PORT`.
    pub async fn connect(authority: &Authority, address: &str) -> Self {
        let stream = authority.connect(address, &[b"h2"]).await.unwrap();
        let (send, connection) = within("HTTP/2", h2::client::handshake(stream)).await.unwrap();
        let driver = tokio::spawn(connection);
        let abort = driver.abort_handle();
        Self { send, driver, abort }
    }

    /// Sends a request with this body, whose length is told by its end alone.
    pub async fn begin(&self, method: &str, path: &str, token: &str, body: Option<&str>) -> Pending {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("https://gateway{path}"))
            .version(http::Version::HTTP_2);
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        self.begin_as(request.body(()).unwrap(), body).await
    }

    /// Sends this request with this body.
    pub async fn begin_as(&self, request: Request<()>, body: Option<&str>) -> Pending {
        let mut send = within("room for a stream", self.send.clone().ready()).await.unwrap();
        let (answer, mut stream) = send.send_request(request, body.is_none()).unwrap();
        if let Some(body) = body {
            stream.send_data(Bytes::copy_from_slice(body.as_bytes()), true).unwrap();
        }
        Pending { answer, stream }
    }

    /// Sends the head of this request and keeps its body open.
    pub async fn begin_open(&self, request: Request<()>) -> Pending {
        let mut send = within("room for a stream", self.send.clone().ready()).await.unwrap();
        let (answer, stream) = send.send_request(request, false).unwrap();
        Pending { answer, stream }
    }

    /// Sends a request without a body, where the other side still takes any.
    pub async fn try_begin(&self, method: &str, path: &str, token: &str) -> Option<Pending> {
        let request = Request::builder().method(method).uri(format!("https://gateway{path}"));
        let request = request.header("authorization", format!("Bearer {token}")).body(()).unwrap();
        let mut send = within("room for a stream", self.send.clone().ready()).await.ok()?;
        let (answer, stream) = send.send_request(request, true).ok()?;
        Some(Pending { answer, stream })
    }

    /// Whether the other side takes no further request.
    pub fn is_going_away(&self) -> bool {
        use futures_util::FutureExt;
        !matches!(self.send.clone().ready().now_or_never(), Some(Ok(_)))
    }

    /// Sends a request and reads its answer.
    pub async fn exchange(&self, method: &str, path: &str, token: &str, body: Option<&str>) -> (u16, String) {
        let mut answer = self.begin(method, path, token, body).await.answer().await.unwrap();
        (answer.status, answer.text().await.unwrap())
    }

    /// How the connection ended, waited for.
    pub async fn ended(mut self) -> Result<(), h2::Error> {
        within("the end of a connection", &mut self.driver).await.unwrap()
    }

    pub fn is_open(&self) -> bool {
        !self.driver.is_finished()
    }
}

/// A request whose answer is waited for.
pub struct Pending {
    answer: h2::client::ResponseFuture,
    pub stream: h2::SendStream<Bytes>,
}

impl Pending {
    /// The answer, and the stream whose body may still be open.
    pub async fn answer_and_stream(self) -> (Result<H2Answer, h2::Error>, h2::SendStream<Bytes>) {
        let answer = within("the head of an answer", self.answer).await.map(|answer| {
            let (head, body) = answer.into_parts();
            H2Answer { status: head.status.as_u16(), headers: head.headers, body }
        });
        (answer, self.stream)
    }

    pub async fn answer(self) -> Result<H2Answer, h2::Error> {
        self.answer_and_stream().await.0
    }
}

impl H2Answer {
    /// The next piece; none at the end.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, h2::Error> {
        let piece = within("a piece of an answer", self.body.data()).await.transpose()?;
        if let Some(piece) = &piece {
            self.body.flow_control().release_capacity(piece.len()).unwrap();
        }
        Ok(piece)
    }

    /// All that is left.
    pub async fn text(&mut self) -> Result<String, h2::Error> {
        let mut text = Vec::new();
        while let Some(piece) = self.piece().await? {
            text.extend_from_slice(&piece);
        }
        Ok(String::from_utf8(text).unwrap())
    }
}
