//! Sealed session ids: all that is to be known of a session travels with its client, who can neither read nor change
//! it. There is no table: any process with the same key opens what another one sealed.
//!
//! Decides what an id says, to whom, and how long. Never says why one does not open, because its bearer has no right
//! to know, and never reads a clock. `README.md` has the wire form.

use std::fmt;

use anyhow::Context;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};

use crate::names::{Secret, ServerId};

/// First byte of every sealed id: another form gets another number.
const VERSION: u8 = 1;
/// Longest sealed id, in characters. It travels in a header.
const LONGEST: usize = 4096;
const KEY_BYTES: usize = 32;

/// A key that session ids are sealed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionKey(Secret<[u8; KEY_BYTES]>);

/// Why a text is no session key, and what to do; says nothing of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadKey;

impl fmt::Display for BadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a session key is 64 hexadecimal digits or the base64 of 32 bytes; make one with `openssl rand -hex 32`",
        )
    }
}

impl std::error::Error for BadKey {}

impl SessionKey {
    /// Parses 64 hexadecimal digits or the base64 of 32 bytes.
    pub fn parse(text: &str) -> Result<Self, BadKey> {
        let bytes = from_hex(text).or_else(|| STANDARD.decode(text).ok()?.try_into().ok());
        bytes.map(Self::from_bytes).ok_or(BadKey)
    }

    /// A new key that nobody else has: what it seals ends with this process.
    pub fn random() -> anyhow::Result<Self> {
        let mut bytes = [0; KEY_BYTES];
        aws_lc_rs::rand::fill(&mut bytes).context("no random bytes for a session key")?;
        Ok(Self::from_bytes(bytes))
    }

    fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(Secret::new(bytes))
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

/// What a sealed id is for: one kind never opens as the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// `Mcp-Session-Id` of Streamable HTTP.
    Session,
    /// The message endpoint of legacy HTTP+SSE.
    Endpoint,
}

/// What a sealed id is bound to: it opens only for the same.
#[derive(Debug, Clone, Copy)]
pub struct Binding<'a> {
    /// What it is for.
    pub purpose: Purpose,
    /// The server the session is with.
    pub server: &'a ServerId,
    /// The caller whose session it is: a text that no other caller has.
    pub caller: &'a str,
}

impl Binding<'_> {
    /// Unambiguous, because no server id holds a NUL.
    fn to_bytes(self) -> Vec<u8> {
        let purpose = match self.purpose {
            Purpose::Session => b'S',
            Purpose::Endpoint => b'E',
        };
        let server = self.server.as_str().as_bytes();
        [&[VERSION, purpose], server, &[0], self.caller.as_bytes()].concat()
    }
}

/// Which of a server's peers holds the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The peer, as the configuration knows it.
    pub peer: u32,
    /// Its address, where its name has several.
    pub address: u32,
}

/// What a sealed id says.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The server's own id of the session, or path and query of its message endpoint.
    pub upstream: String,
    /// Which of the server's peers holds it.
    pub place: Place,
    /// When it ends, in seconds since 1970.
    pub expires_at: u64,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Who has the server's own id has the session.
        write!(f, "Sealed {{ upstream: …, place: {:?}, expires_at: {} }}", self.place, self.expires_at)
    }
}

impl Sealed {
    fn to_bytes(&self) -> Vec<u8> {
        let Place { peer, address } = self.place;
        let (expires_at, upstream) = (self.expires_at.to_be_bytes(), self.upstream.as_bytes());
        [&expires_at[..], &peer.to_be_bytes(), &address.to_be_bytes(), upstream].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (expires_at, rest) = bytes.split_first_chunk()?;
        let (peer, rest) = rest.split_first_chunk()?;
        let (address, upstream) = rest.split_first_chunk()?;
        Some(Self {
            upstream: std::str::from_utf8(upstream).ok()?.to_owned(),
            place: Place { peer: u32::from_be_bytes(*peer), address: u32::from_be_bytes(*address) },
            expires_at: u64::from_be_bytes(*expires_at),
        })
    }
}

/// The keys in use: the first one seals, all of them open. Without any, nothing seals and nothing opens.
///
/// A key is changed without ending sessions by putting the new one in front, and taking the old one away when the
/// last id sealed with it has expired.
#[derive(Debug)]
pub struct SessionKeys(Vec<RandomizedNonceKey>);

impl SessionKeys {
    /// The keys of the configuration, the one that seals first.
    pub fn new(keys: &[SessionKey]) -> Self {
        // With random nonces this mode takes far more ids under one key than a gateway sees, and should a nonce come
        // twice, it shows only that two ids are equal (RFC 8452, section 9).
        let key = |key: &SessionKey| {
            RandomizedNonceKey::new(&AES_256_GCM_SIV, key.0.expose())
                .expect("the key has the length of the cipher's")
        };
        Self(keys.iter().map(key).collect())
    }

    /// The id for the client; none where the server's own is not 1 or more visible ASCII characters
    /// (MCP 2025-11-25, Transports, Session Management), or is too long.
    pub fn seal(&self, binding: &Binding<'_>, sealed: &Sealed) -> Option<String> {
        let key = self.0.first()?;
        if sealed.upstream.is_empty() || !sealed.upstream.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let mut secret = sealed.to_bytes();
        let nonce = key.seal_in_place_append_tag(Aad::from(binding.to_bytes()), &mut secret).ok()?;
        let text = URL_SAFE_NO_PAD.encode([&[VERSION], &nonce.as_ref()[..], &secret].concat());
        (text.len() <= LONGEST).then_some(text)
    }

    /// What an id says; none where it is not, to the last bit, one that was sealed for the same binding and has not
    /// expired.
    pub fn open(&self, binding: &Binding<'_>, text: &str, now: u64) -> Option<Sealed> {
        if text.len() > LONGEST {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (&[version], rest) = bytes.split_first_chunk()?;
        let (nonce, secret) = rest.split_first_chunk::<NONCE_LEN>()?;
        if version != VERSION {
            return None;
        }
        let binding = binding.to_bytes();
        let sealed = self.0.iter().find_map(|key| {
            // Where it fails to open, its bytes are spoilt for the next key.
            let mut secret = secret.to_vec();
            let opened = key.open_in_place(Nonce::from(nonce), Aad::from(&binding), &mut secret).ok()?;
            Sealed::from_bytes(opened)
        })?;
        (now < sealed.expires_at).then_some(sealed)
    }
}
