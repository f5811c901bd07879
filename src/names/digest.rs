//! The SHA-256 of a text, by which two texts are known to be the same.

use std::fmt;

use sha2::{Digest as _, Sha256};

use super::BadName;

/// How many digits tell digests apart for people.
const SHORT: usize = 12;

/// The SHA-256 of a text. Written as 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of this text.
    pub fn of(text: &str) -> Self {
        Self(Sha256::digest(text).into())
    }

    /// The digest of these bytes.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Reads 64 hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        let bad = BadName("a hash is 64 of `0-9`, `a-f`");
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
        let mut bytes = [0; 32];
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return Err(bad) };
        if pairs.len() != bytes.len() {
            return Err(bad);
        }
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            *byte = digit(*high)
                .zip(digit(*low))
                .map(|(high, low)| high << 4 | low)
                .ok_or_else(|| bad.clone())?;
        }
        Ok(Self(bytes))
    }

    /// Its first digits, as people are shown them.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(SHORT);
        text
    }
}

/// The digest of something that comes in pieces.
#[derive(Debug, Clone, Default)]
pub struct Summing(Sha256);

impl Summing {
    /// The next piece.
    pub fn feed(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The digest of all pieces.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digit = |value: u8| b"0123456789abcdef"[usize::from(value)];
        let mut digits = [0; 64];
        for (pair, byte) in digits.as_chunks_mut::<2>().0.iter_mut().zip(self.0) {
            *pair = [digit(byte >> 4), digit(byte & 0xf)];
        }
        // At once: the audit writes one a call.
        f.write_str(std::str::from_utf8(&digits).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_as_it_is_written() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Digest::of("abc").to_string(), abc);
        assert_eq!(Digest::parse(abc), Ok(Digest::of("abc")));
        assert_eq!(Digest::of("abc").short(), "ba7816bf8f01");
        for bad in ["", "ba", &abc[1..], &format!("{abc}00"), &abc.replace('b', "g"), &abc.replace("ba", "é")]
        {
            assert!(Digest::parse(bad).is_err(), "{bad}");
        }
    }
}
