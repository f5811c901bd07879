//! Keys that things are sealed with: 32 bytes, as operators write them.
//!
//! Decides which texts are keys. Never seals.

use std::fmt;

use anyhow::Context;
use base64::{Engine, engine::general_purpose::STANDARD};

use super::Secret;

/// How long a key is.
pub const KEY_BYTES: usize = 32;

/// A key that something is sealed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretKey(Secret<[u8; KEY_BYTES]>);

/// Why a text is no key, and what to do; says nothing of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadKey;

impl fmt::Display for BadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a key is 64 hexadecimal digits or the base64 of 32 bytes; make one with `openssl rand -hex 32`",
        )
    }
}

impl std::error::Error for BadKey {}

impl SecretKey {
    /// Parses 64 hexadecimal digits or the base64 of 32 bytes.
    pub fn parse(text: &str) -> Result<Self, BadKey> {
        let bytes = from_hex(text).or_else(|| STANDARD.decode(text).ok()?.try_into().ok());
        bytes.map(Self::from_bytes).ok_or(BadKey)
    }

    /// A new key that nobody else has: what it seals ends with this process.
    pub fn random() -> anyhow::Result<Self> {
        let mut bytes = [0; KEY_BYTES];
        aws_lc_rs::rand::fill(&mut bytes).context("no random bytes for a key")?;
        Ok(Self::from_bytes(bytes))
    }

    /// Lends the bytes to a cipher.
    pub fn expose(&self) -> &[u8; KEY_BYTES] {
        self.0.expose()
    }

    const fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(Secret(bytes))
    }
}

fn from_hex(text: &str) -> Option<[u8; KEY_BYTES]> {
    let mut bytes = [0; KEY_BYTES];
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != KEY_BYTES || !rest.is_empty() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
        *byte = u8::try_from(high? << 4 | low?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_64_hexadecimal_digits_or_the_base64_of_32_bytes() {
        let hex = "00ff".repeat(16);
        let base64 = STANDARD.encode(SecretKey::parse(&hex).unwrap().expose());
        assert_eq!(SecretKey::parse(&base64), SecretKey::parse(&hex));
        assert_eq!(SecretKey::parse(&hex.to_uppercase()), SecretKey::parse(&hex));
        for text in [
            "",
            "secret",
            &hex[1..],
            &hex[2..],
            &format!("{hex}0"),
            &"+1".repeat(32),
            &"é".repeat(32),
            &base64[1..],
        ] {
            assert_eq!(SecretKey::parse(text), Err(BadKey), "{text}");
        }
        assert!(BadKey.to_string().contains("`openssl rand -hex 32`"));
    }

    #[test]
    fn random_keys_differ_and_do_not_print() {
        let key = SecretKey::random().unwrap();
        assert_ne!(key, SecretKey::random().unwrap());
        assert_eq!(format!("{key:?}"), "SecretKey(…)");
    }
}
