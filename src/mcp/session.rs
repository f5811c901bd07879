//! Sealed session ids: all that is to be known of a session travels with its client, who can neither read nor change
//! it. There is no table: any process with the same key opens what another one sealed.
//!
//! Decides what an id says, to whom, and how long. Never says why one does not open, because its bearer has no right
//! to know, and never reads a clock. `README.md` has the wire form.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::names::{SecretKey, ServerId};

/// First byte of every sealed id: another form gets another number.
const VERSION: u8 = 1;
/// Longest sealed id, in characters. It travels in a header.
const LONGEST: usize = 4096;
/// Bytes of a sealed text that are not the text: version, nonce, end and tag.
const VERSION_AND_END: usize = 1 + NONCE_LEN + 8 + 16;

/// What a sealed id is for: one kind never opens as the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// `Mcp-Session-Id` of Streamable HTTP.
    Session,
    /// The message endpoint of legacy HTTP+SSE.
    Endpoint,
    /// `Mcp-Session-Id` of what the gateway itself serves.
    Aggregate,
    /// Where the next page of a list begins.
    Cursor,
    /// What a client brings back with the input it was asked for (`requestState`).
    State,
    /// The id of a request that the gateway passes on from a server to a client.
    Request,
}

/// What a sealed id is bound to: it opens only for the same.
#[derive(Debug, Clone, Copy)]
pub struct Binding<'a> {
    /// What it is for.
    pub purpose: Purpose,
    /// The server the session is with; none where it is with all of them.
    pub server: Option<&'a ServerId>,
    /// The caller whose session it is: a text that no other caller has.
    pub caller: &'a str,
    /// As whom the caller is called for at the server, where that is a group of theirs with a key of its own.
    pub standing: Option<[u8; 16]>,
}

impl Purpose {
    /// The longest text, in bytes, that is sealed for this.
    pub fn longest_text(self) -> usize {
        match self {
            // It travels in a body, and holds what a server gave.
            Self::State => 32 * 1024,
            Self::Session | Self::Endpoint | Self::Aggregate | Self::Cursor | Self::Request => 2048,
        }
    }
}

impl Binding<'_> {
    /// Another binding than that of a session: a text never opens as one, nor one as a text.
    fn to_text_bytes(self) -> Vec<u8> {
        let mut bytes = self.to_bytes();
        bytes[1].make_ascii_lowercase();
        bytes
    }

    /// Unambiguous, because no server id is empty or holds a NUL.
    fn to_bytes(self) -> Vec<u8> {
        let purpose = match self.purpose {
            Purpose::Session => b'S',
            Purpose::Endpoint => b'E',
            Purpose::Aggregate => b'A',
            Purpose::Cursor => b'C',
            Purpose::State => b'T',
            Purpose::Request => b'R',
        };
        let server = self.server.map_or("", ServerId::as_str).as_bytes();
        // No caller's name holds a NUL.
        let standing = self.standing.map(|standing| [&[0], &standing[..]].concat()).unwrap_or_default();
        [&[VERSION, purpose], server, &[0], self.caller.as_bytes(), &standing].concat()
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
    pub fn new(keys: &[SecretKey]) -> Self {
        // With random nonces this mode takes far more ids under one key than a gateway sees, and should a nonce come
        // twice, it shows only that two ids are equal (RFC 8452, section 9).
        let key = |key: &SecretKey| {
            RandomizedNonceKey::new(&AES_256_GCM_SIV, key.expose())
                .expect("the key has the length of the cipher's")
        };
        Self(keys.iter().map(key).collect())
    }

    /// The id for the client; none where the server's own is not 1 or more visible ASCII characters
    /// (MCP 2025-11-25, Transports, Session Management), or is too long.
    pub fn seal(&self, binding: &Binding<'_>, sealed: &Sealed) -> Option<String> {
        if sealed.upstream.is_empty() || !sealed.upstream.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let text = self.enclose(binding.to_bytes(), &mut sealed.to_bytes())?;
        (text.len() <= LONGEST).then_some(text)
    }

    fn enclose(&self, binding: Vec<u8>, secret: &mut Vec<u8>) -> Option<String> {
        let nonce = self.0.first()?.seal_in_place_append_tag(Aad::from(binding), secret).ok()?;
        Some(URL_SAFE_NO_PAD.encode([&[VERSION], &nonce.as_ref()[..], secret].concat()))
    }

    /// What an id says; none where it is not, to the last bit, one that was sealed for the same binding and has not
    /// expired.
    pub fn open(&self, binding: &Binding<'_>, text: &str, now: u64) -> Option<Sealed> {
        let sealed = self.disclose(binding.to_bytes(), text, LONGEST, Sealed::from_bytes)?;
        (now < sealed.expires_at).then_some(sealed)
    }

    fn disclose<T>(
        &self,
        binding: Vec<u8>,
        text: &str,
        longest: usize,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Option<T> {
        if text.len() > longest {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (&[version], rest) = bytes.split_first_chunk()?;
        let (nonce, secret) = rest.split_first_chunk::<NONCE_LEN>()?;
        if version != VERSION {
            return None;
        }
        self.0.iter().find_map(|key| {
            // Where it fails to open, its bytes are spoilt for the next key.
            let mut secret = secret.to_vec();
            read(key.open_in_place(Nonce::from(nonce), Aad::from(&binding), &mut secret).ok()?)
        })
    }

    /// Seals any text for its caller to bring back, up to [`Purpose::longest_text`] bytes; it opens until `expires_at`,
    /// in seconds since 1970.
    pub fn seal_text(&self, binding: &Binding<'_>, text: &str, expires_at: u64) -> Option<String> {
        if text.len() > binding.purpose.longest_text() {
            return None;
        }
        let mut secret = [&expires_at.to_be_bytes(), text.as_bytes()].concat();
        self.enclose(binding.to_text_bytes(), &mut secret)
    }

    /// The text that was sealed for the same binding, where it has not expired.
    pub fn open_text(&self, binding: &Binding<'_>, sealed: &str, now: u64) -> Option<String> {
        let longest = binding.purpose.longest_text() + VERSION_AND_END;
        self.disclose(binding.to_text_bytes(), sealed, longest.div_ceil(3) * 4, |bytes| {
            let (expires_at, text) = bytes.split_first_chunk()?;
            let is_open = now < u64::from_be_bytes(*expires_at);
            is_open.then(|| Some(std::str::from_utf8(text).ok()?.to_owned()))
        })?
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn key(byte: u8) -> SecretKey {
        SecretKey::parse(&format!("{byte:02x}").repeat(32)).unwrap()
    }

    fn server(id: &str) -> ServerId {
        ServerId::parse(id).unwrap()
    }

    fn binding(server: &ServerId) -> Binding<'_> {
        Binding { purpose: Purpose::Session, server: Some(server), caller: "ana@example.org", standing: None }
    }

    fn sealed(upstream: &str) -> Sealed {
        let place = Place { peer: 7, address: u32::MAX };
        Sealed { upstream: upstream.to_owned(), place, expires_at: NOW + 60 }
    }

    #[test]
    fn neither_a_key_nor_the_servers_own_id_prints() {
        let (key, sealed) = (SecretKey::parse(&"ab".repeat(32)).unwrap(), sealed("0a1b"));
        let printed = format!("{key:?} {:?} {sealed:?}", SessionKeys::new(std::slice::from_ref(&key)));
        assert!(
            !printed.contains("171") && !printed.contains("abab") && !printed.contains("0a1b"),
            "{printed}"
        );
    }

    #[test]
    fn an_id_opens_for_nothing_but_what_it_is_bound_to() {
        let (keys, github, gitlab) = (SessionKeys::new(&[key(1)]), server("github"), server("gitlab"));
        let own = binding(&github);
        let id = keys.seal(&own, &sealed("abc")).unwrap();
        assert_eq!(keys.open(&own, &id, NOW), Some(sealed("abc")));
        for other in [
            Binding { purpose: Purpose::Endpoint, ..own },
            Binding { server: Some(&gitlab), ..own },
            Binding { caller: "eve@example.org", ..own },
            Binding { caller: "", ..own },
            // The border between server and caller counts.
            Binding { server: Some(&server("git")), caller: "hub\0ana@example.org", ..own },
        ] {
            assert_eq!(keys.open(&other, &id, NOW), None, "{other:?}");
        }
    }

    #[test]
    fn an_id_expires() {
        let (keys, github) = (SessionKeys::new(&[key(1)]), server("github"));
        let id = keys.seal(&binding(&github), &sealed("abc")).unwrap();
        for (now, is_open) in [(0, true), (NOW + 59, true), (NOW + 60, false), (u64::MAX, false)] {
            assert_eq!(keys.open(&binding(&github), &id, now).is_some(), is_open, "{now}");
        }
    }

    #[test]
    fn keys_rotate() {
        let github = server("github");
        let own = binding(&github);
        let [old, both, new] =
            [vec![key(1)], vec![key(2), key(1)], vec![key(2)]].map(|keys| SessionKeys::new(&keys));
        let (before, after) =
            (old.seal(&own, &sealed("abc")).unwrap(), both.seal(&own, &sealed("abc")).unwrap());
        assert!(both.open(&own, &before, NOW).is_some() && both.open(&own, &after, NOW).is_some());
        assert!(new.open(&own, &before, NOW).is_none() && new.open(&own, &after, NOW).is_some());
        assert!(old.open(&own, &after, NOW).is_none());
        let none = SessionKeys::new(&[]);
        assert!(none.seal(&own, &sealed("abc")).is_none() && none.open(&own, &after, NOW).is_none());
    }

    #[test]
    fn the_same_session_is_never_sealed_alike() {
        let (keys, github) = (SessionKeys::new(&[key(1)]), server("github"));
        let seal = || keys.seal(&binding(&github), &sealed("abc")).unwrap();
        assert_ne!(seal(), seal());
    }

    #[test]
    fn what_is_no_session_id_is_not_sealed() {
        let (keys, github) = (SessionKeys::new(&[key(1)]), server("github"));
        for upstream in ["", "a b", "a\n", "\u{7f}", "é", "a\0", &"x".repeat(LONGEST)] {
            assert_eq!(keys.seal(&binding(&github), &sealed(upstream)), None, "{upstream:?}");
        }
        // What is sealed also opens, up to the longest.
        let longest = (0..LONGEST).rev().map(|length| sealed(&"x".repeat(length)));
        let (id, sealed) = longest
            .filter_map(|sealed| Some((keys.seal(&binding(&github), &sealed)?, sealed)))
            .next()
            .unwrap();
        assert!(id.len() > LONGEST - 4);
        assert_eq!(keys.open(&binding(&github), &id, NOW), Some(sealed));
    }

    #[test]
    fn what_was_never_sealed_does_not_open() {
        let (keys, github) = (SessionKeys::new(&[key(1)]), server("github"));
        for bytes in 0..64 {
            let text = URL_SAFE_NO_PAD.encode(vec![VERSION; bytes]);
            assert_eq!(keys.open(&binding(&github), &text, NOW), None, "{text}");
        }
        for text in ["", "A", "AQ==", "é", "AQ\n", " AQ", &"A".repeat(5000)] {
            assert_eq!(keys.open(&binding(&github), text, NOW), None, "{text}");
        }
    }

    const PURPOSES: [Purpose; 6] = [
        Purpose::Session,
        Purpose::Endpoint,
        Purpose::Aggregate,
        Purpose::Cursor,
        Purpose::State,
        Purpose::Request,
    ];

    #[test]
    fn a_sealed_text_opens_for_nothing_but_what_it_is_bound_to() {
        let (keys, github) = (SessionKeys::new(&[key(2), key(1)]), server("github"));
        let own =
            Binding { purpose: Purpose::Cursor, server: None, caller: "ana@example.org", standing: None };
        let text = keys.seal_text(&own, "é\n", NOW + 60).unwrap();
        assert_eq!(keys.open_text(&own, &text, NOW + 59).as_deref(), Some("é\n"));
        assert_eq!(keys.open_text(&own, &text, NOW + 60), None);
        for purpose in PURPOSES {
            let other = Binding { purpose, ..own };
            assert_eq!(keys.open_text(&other, &text, NOW).is_some(), purpose == Purpose::Cursor);
            // A text is no session, nor a session a text.
            assert_eq!(keys.open(&other, &text, NOW), None);
            let session = keys.seal(&other, &sealed("0123456789")).unwrap();
            assert_eq!(keys.open_text(&other, &session, NOW), None);
        }
        for other in [Binding { server: Some(&github), ..own }, Binding { caller: "", ..own }] {
            assert_eq!(keys.open_text(&other, &text, NOW), None, "{other:?}");
        }
    }

    #[test]
    fn a_text_is_sealed_up_to_its_longest() {
        let keys = SessionKeys::new(&[key(1)]);
        for purpose in PURPOSES {
            let binding = Binding { purpose, server: None, caller: "", standing: None };
            let longest = "x".repeat(purpose.longest_text());
            let text = keys.seal_text(&binding, &longest, 2).unwrap();
            assert_eq!(keys.open_text(&binding, &text, 1), Some(longest.clone()));
            assert_eq!(keys.seal_text(&binding, &(longest + "x"), 2), None);
            assert_eq!(keys.open_text(&binding, &(text + "AAAA"), 1), None);
        }
        assert!(
            PURPOSES
                .iter()
                .all(|purpose| *purpose == Purpose::State || purpose.longest_text() < LONGEST / 2 + 1)
        );
    }

    proptest! {
        #[test]
        fn every_text_comes_back_and_no_changed_one(
            text in ".{0,200}", caller in ".{0,20}", at in any::<prop::sample::Index>(), to in any::<char>(), purpose in prop::sample::select(&PURPOSES[..]),
        ) {
            let keys = SessionKeys::new(&[key(1)]);
            let binding = Binding { purpose, server: None, caller: &caller, standing: None };
            let sealed = keys.seal_text(&binding, &text, 2).unwrap();
            let opened = keys.open_text(&binding, &sealed, 1);
            prop_assert_eq!(opened, Some(text));
            let at = at.index(sealed.len());
            let changed: String = sealed.chars().enumerate().map(|(i, c)| if i == at { to } else { c }).collect();
            prop_assert_eq!(keys.open_text(&binding, &changed, 1).is_some(), changed == sealed);
        }

        #[test]
        fn every_session_comes_back(
            upstream in "[!-~]{1,200}", caller in ".{0,40}", id in "[a-z][a-z0-9_-]{0,62}", expires_at in 1_u64.., peer in any::<u32>(),
            address in any::<u32>(), is_endpoint in any::<bool>(),
        ) {
            let Ok(server) = ServerId::parse(&id) else { return Ok(()) };
            let purpose = if is_endpoint { Purpose::Endpoint } else { Purpose::Session };
            let binding = Binding { purpose, server: Some(&server), caller: &caller, standing: None };
            let (keys, sealed) = (SessionKeys::new(&[key(1)]), Sealed { upstream, place: Place { peer, address }, expires_at });
            let id = keys.seal(&binding, &sealed).unwrap();
            prop_assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'), "{}", id);
            prop_assert_eq!(keys.open(&binding, &id, expires_at - 1), Some(sealed));
        }

        #[test]
        fn no_changed_id_opens(upstream in "[!-~]{1,60}", at in any::<prop::sample::Index>(), to in any::<char>(), cut in 1_usize..40) {
            let (keys, github) = (SessionKeys::new(&[key(1)]), server("github"));
            let id = keys.seal(&binding(&github), &sealed(&upstream)).unwrap();
            let at = at.index(id.len());
            let changed: String = id.chars().enumerate().map(|(i, c)| if i == at { to } else { c }).collect();
            prop_assert_eq!(keys.open(&binding(&github), &changed, NOW).is_some(), changed == id);
            // Every bit of every character, those behind the last byte among them.
            for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=+/".chars() {
                let changed = format!("{}{letter}{}", &id[..at], &id[at + 1..]);
                prop_assert_eq!(keys.open(&binding(&github), &changed, NOW).is_some(), changed == id);
                let longer = format!("{id}{letter}");
                prop_assert!(keys.open(&binding(&github), &longer, NOW).is_none());
                let changed = format!("{}{letter}", &id[..id.len() - 1]);
                prop_assert_eq!(keys.open(&binding(&github), &changed, NOW).is_some(), changed == id);
            }
            prop_assert!(keys.open(&binding(&github), &id[..id.len().saturating_sub(cut)], NOW).is_none());
        }
    }
}
