//! HTTP/1.1 messages as bytes: heads kept exactly as they came, bodies unframed.
//!
//! Shared by the raw client and the fake peer. Parses strictly enough to fail a test on a malformed message, and
//! never repairs one.

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// The first line and the headers of a message.
#[derive(Debug, Clone)]
pub struct Head {
    /// Byte for byte, the empty line included.
    pub raw: Vec<u8>,
    /// Request line or status line.
    pub first_line: String,
    /// In order, names in the case they came in.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// Reads a head; `None` when the connection ends before the first byte of one.
    pub async fn read(reader: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<Option<Self>> {
        let mut raw = Vec::new();
        loop {
            let line = reader.read_until(b'\n', &mut raw).await?;
            if raw.is_empty() {
                return Ok(None);
            }
            if line == 0 {
                return Err(std::io::Error::other(format!(
                    "head ended early: {:?}",
                    String::from_utf8_lossy(&raw)
                )));
            }
            if raw.ends_with(b"\r\n\r\n") || raw == b"\r\n" {
                return Self::parse(raw).map(Some);
            }
        }
    }

    fn parse(raw: Vec<u8>) -> std::io::Result<Self> {
        let text = String::from_utf8_lossy(&raw).into_owned();
        let mut lines = text.split("\r\n").filter(|line| !line.is_empty());
        let first_line = lines.next().unwrap_or_default().to_owned();
        let headers = lines
            .map(|line| {
                let (name, value) = line
                    .split_once(':')
                    .ok_or_else(|| std::io::Error::other(format!("header without a colon: {line:?}")))?;
                Ok((name.to_owned(), value.trim().to_owned()))
            })
            .collect::<std::io::Result<_>>()?;
        Ok(Self { raw, first_line, headers })
    }

    /// Every value of the header, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let same = self.headers.iter().filter(|(header, _)| header.eq_ignore_ascii_case(name));
        same.map(|(_, value)| value.as_str()).collect()
    }

    /// The first value of the header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    /// How the length of the body is said; `None` when it is not.
    pub fn framing(&self) -> Option<Framing> {
        if self.all("transfer-encoding").iter().any(|value| value.eq_ignore_ascii_case("chunked")) {
            return Some(Framing::Chunked);
        }
        self.header("content-length").and_then(|length| length.parse().ok()).map(Framing::Length)
    }
}

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length(usize),
    Chunked,
    /// The connection ends with it (answers only).
    UntilClose,
}

/// The next bytes of a chunked body, or `None` after its last chunk.
pub async fn read_chunk(reader: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = String::new();
    reader.read_line(&mut line).await?;
    let digits = line.trim_end().split(';').next().unwrap_or_default();
    let size = usize::from_str_radix(digits, 16)
        .map_err(|_| std::io::Error::other(format!("not the size of a chunk: {line:?}")))?;
    let mut chunk = vec![0; size];
    reader.read_exact(&mut chunk).await?;
    let mut end = String::new();
    while reader.read_line(&mut end).await? > 2 && size == 0 {
        end.clear(); // a trailer
    }
    if end != "\r\n" {
        return Err(std::io::Error::other(format!("chunk of {size} bytes ends in {end:?}")));
    }
    Ok((size > 0).then_some(chunk))
}

/// The whole body.
pub async fn read_body(
    reader: &mut (impl AsyncBufRead + Unpin),
    framing: Framing,
) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    match framing {
        Framing::Length(length) => {
            body.resize(length, 0);
            reader.read_exact(&mut body).await?;
        }
        Framing::Chunked => {
            while let Some(chunk) = read_chunk(reader).await? {
                body.extend(chunk);
            }
        }
        Framing::UntilClose => {
            reader.read_to_end(&mut body).await?;
        }
    }
    Ok(body)
}

/// `bytes` as one chunk.
pub fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// The answer with this status line tail (`200 OK`), media type and body, its length said.
pub fn answer(status: &str, media_type: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\ncontent-type: {media_type}\r\ncontent-length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

#[tokio::test]
async fn a_chunked_body_is_read_to_its_last_chunk_and_no_further() {
    let mut bytes =
        [chunk(b"one "), chunk(b"two"), b"0\r\nx-trailer: a\r\n\r\n".to_vec(), b"next".to_vec()].concat();
    let mut reader = &bytes[..];
    assert_eq!(read_body(&mut reader, Framing::Chunked).await.unwrap(), b"one two");
    assert_eq!(reader, b"next");
    bytes[0] = b'x';
    assert!(read_body(&mut &bytes[..], Framing::Chunked).await.is_err());
}
