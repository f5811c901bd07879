//! A token taken apart (RFC 7515): which parts it has and what its header says, before anything of it is believed.
//!
//! Decides whether a token is one of this scheme and whether its header may stand as it is. Keys and places that a
//! header brings along (`jwk`, `jku`, `x5c`, `x5u`) are not even read: a token that said which key proves it would
//! prove itself.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::Value;

use crate::{identity::reason::Reason, refusal::Refusal};

/// The one algorithm Entra ID signs with. A list of one, because whoever widens it should have to think.
const ALGORITHM: &str = "RS256";

/// A token's parts.
pub struct Token<'t> {
    header: Header,
    signed: &'t str,
    payload: Vec<u8>,
    signature: &'t str,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<Value>,
    typ: Option<Value>,
    cty: Option<Value>,
    crit: Option<Value>,
}

impl<'t> Token<'t> {
    /// The parts, where the text is a token that is not signed with a shared secret. Which algorithm it names instead
    /// does not matter here: `none` and words unknown are this scheme's to refuse.
    pub fn read(text: &'t str) -> Option<Self> {
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.')?;
        if payload.contains('.') {
            return None;
        }
        let header: Header = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        if matches!(header.alg.as_str(), "HS256" | "HS384" | "HS512") {
            return None;
        }
        // What cannot be decoded is empty, and refused as soon as it is read.
        let payload = URL_SAFE_NO_PAD.decode(payload).unwrap_or_default();
        Some(Self { header, signed, payload, signature })
    }

    /// The id of the key that signed it, where the header is one that may be believed at all.
    pub fn kid(&self) -> Result<&str, Refusal> {
        if self.header.alg != ALGORITHM {
            return Err(Reason::WrongAlgorithm.refuse());
        }
        let is_labelled = match &self.header.typ {
            None => true,
            Some(Value::String(typ)) => {
                // RFC 9068 has the second for access tokens.
                typ.eq_ignore_ascii_case("jwt") || typ.eq_ignore_ascii_case("at+jwt")
            }
            Some(_) => false,
        };
        // RFC 7515 section 4.1.11: an extension marked critical that is not understood refuses the token.
        if !is_labelled || self.header.cty.is_some() || self.header.crit.is_some() {
            return Err(Reason::WrongLabel.refuse());
        }
        match &self.header.kid {
            Some(Value::String(kid)) if !kid.is_empty() => Ok(kid),
            _ => Err(Reason::UnknownKey.because("the token names no key")),
        }
    }

    /// The claims, as JSON.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The bytes that were signed.
    pub fn signed(&self) -> &[u8] {
        self.signed.as_bytes()
    }

    /// The signature, as it stands.
    pub fn signature(&self) -> &'t str {
        self.signature
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(header: &str) -> String {
        let encode = |part: &str| URL_SAFE_NO_PAD.encode(part);
        format!("{}.{}.{}", encode(header), encode("{}"), encode("signature"))
    }

    #[track_caller]
    fn check(header: &str, expected: Option<Result<&str, Option<&'static str>>>) {
        let text = token(header);
        let token = Token::read(&text);
        let read = token.as_ref().map(|token| token.kid().map_err(|refusal| refusal.why()));
        assert_eq!(read, expected, "{header}");
    }

    #[test]
    fn only_rs256_under_a_plain_label_names_a_key() {
        check(r#"{"alg":"RS256","kid":"k","typ":"JWT","x5t":"k"}"#, Some(Ok("k")));
        check(r#"{"alg":"RS256","kid":"k"}"#, Some(Ok("k")));
        check(r#"{"alg":"RS256","kid":"k","typ":"at+jwt"}"#, Some(Ok("k")));
        check(r#"{"alg":"RS256","kid":"../../dev/null"}"#, Some(Ok("../../dev/null")));
        for alg in ["none", "None", "RS384", "RS512", "PS256", "ES256", "EdDSA", "rs256", "hs256", ""] {
            let header = serde_json::json!({"alg": alg, "kid": "k"}).to_string();
            check(&header, Some(Err(Some("wrong_algorithm"))));
        }
        for label in [r#""typ":"JWE""#, r#""typ":1"#, r#""cty":"JWT""#, r#""crit":["exp"]"#, r#""crit":[]"#] {
            check(&format!(r#"{{"alg":"RS256","kid":"k",{label}}}"#), Some(Err(Some("wrong_label"))));
        }
        for kid in ["", r#","kid":"""#, r#","kid":1"#, r#","kid":null"#, r#","kid":["k"]"#] {
            check(&format!(r#"{{"alg":"RS256"{kid}}}"#), Some(Err(Some("unknown_key"))));
        }
    }

    #[test]
    fn what_is_no_token_or_one_of_a_shared_secret_belongs_to_others() {
        for alg in ["HS256", "HS384", "HS512"] {
            check(&serde_json::json!({"alg": alg, "kid": "k"}).to_string(), None);
        }
        for header in ["", "[]", "{}", r#"{"alg":1}"#, r#"{"alg":"RS256","alg":"HS256"}"#, "\u{feff}{}"] {
            check(header, None);
        }
        let good = token(r#"{"alg":"RS256","kid":"k"}"#);
        for text in ["", ".", "..", "...", "sk-0123", &format!("{good}.x"), &format!("{good}.x.y")] {
            assert!(Token::read(text).is_none(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[ -~]{0,80}(\\.[ -~]{0,80}){0,5}", json in ".{0,60}") {
            for text in [text, token(&json)] {
                if let Some(token) = Token::read(&text) {
                    drop(token.kid());
                }
            }
        }
    }
}
