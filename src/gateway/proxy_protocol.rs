//! The PROXY protocol, by which a load balancer tells at the beginning of a connection who is behind it.
//!
//! Decides where its header ends (versions 1 and 2, haproxy's proxy-protocol.txt) and reads no byte past it, so that
//! what follows is the client's own. Never decides who may send one: that is `told_address`.

use std::{io, net::IpAddr};

use proxy_header::{ParseConfig, ProxyHeader};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The shortest header: `PROXY UNKNOWN\r\n`.
const LEAST_BYTES: usize = 15;
/// The longest header of version 1, which has no other end than its line's.
const MOST_BYTES_V1: usize = 107;
/// What comes before the length of a header of version 2, and the length.
const PREFIX_BYTES_V2: usize = 16;
/// The longest header of version 2 that is read; addresses take up to 216 bytes, what is said of TLS a few hundred.
const MOST_BYTES_V2: usize = 4096;

/// Why a connection has no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoHeader {
    /// It ended without a byte: somebody looked whether the port is open.
    Silent,
    /// It begins with something else, or broke off.
    Malformed,
}

/// The address of the client that the header names; none where the balancer speaks for itself or does not say.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<IpAddr>, NoHeader> {
    let mut header = vec![0; LEAST_BYTES];
    // The first byte apart, because a connection that ends before it is no mistake.
    if stream.read(&mut header[..1]).await.map_err(malformed)? == 0 {
        return Err(NoHeader::Silent);
    }
    stream.read_exact(&mut header[1..]).await.map_err(malformed)?;
    match header[0] {
        b'\r' => read_v2(stream, &mut header).await?,
        // The parser does not look at the space.
        b'P' if header.starts_with(b"PROXY ") => read_v1(stream, &mut header).await?,
        _ => return Err(NoHeader::Malformed),
    }
    let config = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
    match ProxyHeader::parse(&header, config) {
        Ok((parsed, length)) if length == header.len() => {
            Ok(parsed.proxied_address().map(|told| told.source.ip().to_canonical()))
        }
        Ok(_) | Err(_) => Err(NoHeader::Malformed),
    }
}

async fn read_v1(stream: &mut (impl AsyncRead + Unpin), header: &mut Vec<u8>) -> Result<(), NoHeader> {
    while !header.ends_with(b"\n") {
        if header.len() == MOST_BYTES_V1 {
            return Err(NoHeader::Malformed);
        }
        // Byte by byte, because the client's own bytes may be next; the connection below has a buffer.
        header.push(stream.read_u8().await.map_err(malformed)?);
    }
    Ok(())
}

async fn read_v2(stream: &mut (impl AsyncRead + Unpin), header: &mut Vec<u8>) -> Result<(), NoHeader> {
    read_up_to(stream, header, PREFIX_BYTES_V2).await?;
    let length = u16::from_be_bytes([header[PREFIX_BYTES_V2 - 2], header[PREFIX_BYTES_V2 - 1]]);
    let whole = PREFIX_BYTES_V2 + usize::from(length);
    if whole > MOST_BYTES_V2 {
        return Err(NoHeader::Malformed);
    }
    read_up_to(stream, header, whole).await
}

async fn read_up_to(
    stream: &mut (impl AsyncRead + Unpin),
    header: &mut Vec<u8>,
    whole: usize,
) -> Result<(), NoHeader> {
    let before = header.len();
    header.resize(whole, 0);
    stream.read_exact(&mut header[before..]).await.map(drop).map_err(malformed)
}

fn malformed(_: io::Error) -> NoHeader {
    NoHeader::Malformed
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::*;
    use proxy_header::ProxiedAddress;
    use tokio::runtime;

    use super::*;

    /// What is read of these bytes, and what is left of them.
    fn read_of(bytes: &[u8]) -> (Result<Option<IpAddr>, NoHeader>, Vec<u8>) {
        let runtime = runtime::Builder::new_current_thread().build().unwrap();
        let mut left = bytes;
        let read = runtime.block_on(read(&mut left));
        (read, left.to_vec())
    }

    #[track_caller]
    fn check(bytes: &[u8], expected: Result<Option<&str>, NoHeader>) {
        let expected = expected.map(|address| address.map(|address| address.parse().unwrap()));
        let request = b"GET / HTTP/1.1\r\n";
        let (read, left) = read_of(&[bytes, request].concat());
        assert_eq!(read, expected, "{:?}", String::from_utf8_lossy(bytes));
        if read.is_ok() {
            assert_eq!(left, request, "not a byte past the header");
        }
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, rest].concat()
    }

    #[test]
    fn version_1_says_an_address_or_that_it_knows_none() {
        check(b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\n", Ok(Some("192.0.2.7")));
        check(b"PROXY TCP6 2001:db8::7 fd00::1 56324 443\r\n", Ok(Some("2001:db8::7")));
        check(b"PROXY TCP6 ::ffff:192.0.2.7 fd00::1 56324 443\r\n", Ok(Some("192.0.2.7")));
        check(b"PROXY UNKNOWN\r\n", Ok(None));
        check(b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", Ok(None));
        for bad in [
            &b"PROXYXTCP4 192.0.2.7 10.0.0.1 56324 443\r\n"[..],
            b"PROXY TCP4 2001:db8::7 10.0.0.1 56324 443\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 66000 443\r\n",
            b"PROXY TCP4 192.0.2.7,10.0.0.9 10.0.0.1 1 2\r\n",
            b"proxy tcp4 192.0.2.7 10.0.0.1 56324 443\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            check(bad, Err(NoHeader::Malformed));
        }
        check(format!("PROXY UNKNOWN {}\r\n", "x".repeat(100)).as_bytes(), Err(NoHeader::Malformed));
    }

    #[test]
    fn version_2_says_an_address_or_that_it_knows_none() {
        let v4 = [192, 0, 2, 7, 10, 0, 0, 1, 0, 80, 1, 187];
        check(&v2(0x21, 0x11, &v4), Ok(Some("192.0.2.7")));
        let further = [&v4[..], &[4, 0, 2, 0, 0]].concat();
        check(&v2(0x21, 0x11, &further), Ok(Some("192.0.2.7")));
        check(&v2(0x20, 0x11, &v4), Ok(None));
        check(&v2(0x20, 0x00, &[]), Ok(None));
        check(&v2(0x21, 0x31, &[0; 216]), Ok(None));
        check(&v2(0x21, 0x11, &v4[..11]), Err(NoHeader::Malformed));
        check(&v2(0x11, 0x11, &v4), Err(NoHeader::Malformed));
        check(&v2(0x21, 0x44, &v4), Err(NoHeader::Malformed));
        check(&v2(0x21, 0x11, &[0; 4081]), Err(NoHeader::Malformed));
        check(&v2(0x21, 0x11, &[0; 4080]), Ok(Some("0.0.0.0")));
    }

    #[test]
    fn a_connection_that_only_looks_whether_the_port_is_open_is_no_mistake() {
        assert_eq!(read_of(b"").0, Err(NoHeader::Silent));
        assert_eq!(read_of(b"P").0, Err(NoHeader::Malformed));
        assert_eq!(read_of(b"PROXY TCP4 192.0.2.7 10.0").0, Err(NoHeader::Malformed));
        assert_eq!(read_of(&v2(0x21, 0x11, &[0; 12])[..20]).0, Err(NoHeader::Malformed));
    }

    proptest! {
        #[test]
        fn what_a_balancer_says_is_read_and_nothing_of_the_client_s(
            source: SocketAddr, port: u16, is_v2: bool, rest in proptest::collection::vec(any::<u8>(), 0..64)
        ) {
            let destination = SocketAddr::new(source.ip(), port);
            let header = ProxyHeader::with_address(ProxiedAddress::stream(source, destination));
            let mut bytes = vec![0; 256];
            let length =
                if is_v2 { header.encode_to_slice_v2(&mut bytes) } else { header.encode_to_slice_v1(&mut bytes) };
            bytes.truncate(length.unwrap());
            bytes.extend_from_slice(&rest);
            let (read, left) = read_of(&bytes);
            prop_assert_eq!(read, Ok(Some(source.ip().to_canonical())));
            prop_assert_eq!(left, rest);
        }

        #[test]
        fn no_bytes_are_a_panic_and_never_more_than_the_longest_header_is_read(
            begins_as in 0..3, rest in proptest::collection::vec(any::<u8>(), 0..9000)
        ) {
            let begin: &[u8] = [&b""[..], b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n"][begins_as as usize];
            let bytes = [begin, &rest].concat();
            let (_, left) = read_of(&bytes);
            prop_assert!(bytes.len() - left.len() <= MOST_BYTES_V2);
        }
    }
}
