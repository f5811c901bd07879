//! How a document is packed for the client.
//!
//! Decides the content coding from `Accept-Encoding` (RFC 9110, section 12.5.3) and applies it. Never
//! refuses: a client that accepts nothing gets the document as it is.

use std::io::Write;

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};

/// Brotli quality: near gzip's time, smaller than gzip's output.
const BROTLI_QUALITY: u32 = 5;
const BROTLI_WINDOW_BITS: u32 = 22;
const BUFFER_BYTES: usize = 16 * 1024;

/// A content coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// The bytes as they are.
    Identity,
    /// `gzip`.
    Gzip,
    /// `br`.
    Brotli,
}

impl Encoding {
    /// The word for `Content-Encoding`; none for the bytes as they are.
    pub const fn content_encoding(self) -> Option<&'static str> {
        match self {
            Encoding::Identity => None,
            Encoding::Gzip => Some("gzip"),
            Encoding::Brotli => Some("br"),
        }
    }

    pub(super) fn pack(self, bytes: &Bytes) -> std::io::Result<Bytes> {
        match self {
            Encoding::Identity => Ok(bytes.clone()),
            Encoding::Gzip => {
                let mut packer = GzEncoder::new(Vec::new(), Compression::default());
                packer.write_all(bytes)?;
                Ok(packer.finish()?.into())
            }
            Encoding::Brotli => {
                let mut packed = Vec::new();
                let mut packer = brotli::CompressorWriter::new(
                    &mut packed,
                    BUFFER_BYTES,
                    BROTLI_QUALITY,
                    BROTLI_WINDOW_BITS,
                );
                packer.write_all(bytes)?;
                drop(packer);
                Ok(packed.into())
            }
        }
    }
}

/// The coding to answer with: what the client likes best, `br` before `gzip` when it likes them alike.
///
/// `accept_encoding` is the header's value, several joined with commas, empty when there is none.
pub fn choose(accept_encoding: &str) -> Encoding {
    let mut liking = Liking::default();
    for item in accept_encoding.split(',') {
        let mut parts = item.split(';').map(str::trim);
        let coding = parts.next().unwrap_or_default().to_ascii_lowercase();
        let quality = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
        let quality = quality.map_or(1000, thousandths);
        match coding.as_str() {
            "br" => liking.brotli = Some(quality),
            "gzip" | "x-gzip" => liking.gzip = Some(quality),
            "identity" => liking.identity = Some(quality),
            "*" => liking.others = Some(quality),
            _ => {}
        }
    }
    liking.best()
}

/// Qualities in thousandths, as far as the client gave them.
#[derive(Default)]
struct Liking {
    brotli: Option<u16>,
    gzip: Option<u16>,
    identity: Option<u16>,
    others: Option<u16>,
}

impl Liking {
    fn best(&self) -> Encoding {
        let of = |quality: Option<u16>| quality.or(self.others).unwrap_or(0);
        let (brotli, gzip) = (of(self.brotli), of(self.gzip));
        // Unlisted, the plain bytes are acceptable but nobody's wish.
        let best = brotli.max(gzip).max(self.identity.unwrap_or(0));
        match best {
            0 => Encoding::Identity,
            best if brotli == best => Encoding::Brotli,
            best if gzip == best => Encoding::Gzip,
            _ => Encoding::Identity,
        }
    }
}

/// A quality value (RFC 9110, section 12.4.2); what is none counts as "not acceptable".
fn thousandths(quality: &str) -> u16 {
    match quality.trim().parse::<f32>() {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1000 fits")]
        Ok(value) if (0.0..=1.0).contains(&value) => (value * 1000.0).round() as u16,
        Ok(_) | Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(accept_encoding: &str, expected: Encoding) {
        assert_eq!(choose(accept_encoding), expected, "for {accept_encoding:?}");
    }

    #[test]
    fn the_client_decides_the_coding() {
        check("", Encoding::Identity);
        check("gzip, deflate, br", Encoding::Brotli);
        check("gzip, deflate", Encoding::Gzip);
        check("GZIP", Encoding::Gzip);
        check("deflate", Encoding::Identity);
        check("br;q=0.5, gzip;q=0.8", Encoding::Gzip);
        check("br;q=0, gzip;q=0", Encoding::Identity);
        check("br; q=0, *", Encoding::Gzip);
        check("*", Encoding::Brotli);
        check("*;q=0", Encoding::Identity);
        check("identity;q=1, gzip;q=0.5", Encoding::Identity);
        check("identity;q=0.5, gzip", Encoding::Gzip);
        check("gzip;q=x, br;q=7", Encoding::Identity);
        check(",,;q=1,", Encoding::Identity);
    }

    #[test]
    fn packed_bytes_unpack_to_the_same() {
        let bytes = Bytes::from(b"portcullis ".repeat(10_000));
        let mut gzip = Vec::new();
        let packed = Encoding::Gzip.pack(&bytes).unwrap();
        flate2::read::GzDecoder::new(&*packed).read_to_end(&mut gzip).unwrap();
        assert!(gzip == bytes && packed.len() < 1_000);
        let mut plain = Vec::new();
        let packed = Encoding::Brotli.pack(&bytes).unwrap();
        brotli::Decompressor::new(&*packed, BUFFER_BYTES).read_to_end(&mut plain).unwrap();
        assert!(plain == bytes && packed.len() < 1_000);
        assert_eq!(Encoding::Identity.pack(&bytes).unwrap(), bytes);
    }

    proptest! {
        #[test]
        fn any_header_gets_an_answer(accept_encoding in ".*") {
            choose(&accept_encoding);
        }

        #[test]
        fn a_coding_with_quality_zero_is_never_chosen(
            others in "(identity|gzip|deflate|\\*)?(;q=(0|1|0\\.3))?", zero in "0|0\\.0|0\\.000"
        ) {
            prop_assert_ne!(choose(&format!("br;q={zero}, {others}")), Encoding::Brotli);
        }
    }
}
