//! HS256 tokens (RFC 7515, RFC 7519): signature, dates and labels, nothing about who they name.

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, errors::ErrorKind};
use serde::{Deserialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use super::reason::Reason;
use crate::{names::Secret, refusal::Refusal};

/// Clock difference forgiven between the issuer and this machine, in seconds.
const LEEWAY_SECS: u64 = 30;

/// Whether a token without `exp` is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// A token must expire.
    Required,
    /// A token may live for ever.
    Optional,
}

/// Which secret it is, as a number that tells nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyId([u8; 16]);

impl KeyId {
    fn of(secret: &Secret<String>) -> Self {
        let digest =
            Sha256::new().chain_update(b"portcullis key id").chain_update(secret.expose()).finalize();
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        Self(id)
    }
}

/// Believes tokens signed with one shared secret.
pub struct Hs256 {
    id: KeyId,
    expiry: Expiry,
    key: DecodingKey,
    validation: Validation,
}

#[derive(Deserialize)]
struct Dates<C> {
    iat: Option<i64>,
    exp: Option<i64>,
    #[serde(flatten)]
    claims: C,
}

/// Claims whose token's signature and labels hold for ever; its expiry is looked at with every use.
#[derive(Debug, Clone)]
pub struct Verified<C> {
    claims: C,
    expires: Option<i64>,
    issued: Option<i64>,
}

impl<C> Verified<C> {
    /// The claims, unless the token has expired meanwhile.
    pub fn claims(&self) -> Result<&C, Refusal> {
        if is_over(self.expires) {
            return Err(Reason::Expired.refuse());
        }
        Ok(&self.claims)
    }

    /// Seconds since 1970 after which the token is not believed.
    pub fn expires(&self) -> Option<i64> {
        self.expires
    }

    /// When the token says it was issued, in seconds since 1970.
    pub fn issued(&self) -> Option<i64> {
        self.issued
    }

    /// The same token with its claims turned into something else.
    pub fn try_map<D>(self, f: impl FnOnce(C) -> Result<D, Refusal>) -> Result<Verified<D>, Refusal> {
        let Self { claims, expires, issued } = self;
        Ok(Verified { claims: f(claims)?, expires, issued })
    }
}

/// Seconds since 1970.
pub fn now() -> i64 {
    jsonwebtoken::get_current_timestamp() as i64
}

/// Whether a token that expires then is not believed any more.
pub fn is_over(expires: Option<i64>) -> bool {
    expires.is_some_and(|expires| expires < now() - LEEWAY_SECS as i64)
}

impl Hs256 {
    /// Tokens signed with this secret.
    pub fn new(secret: &Secret<String>, expiry: Expiry) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY_SECS;
        validation.validate_nbf = true;
        // Open WebUI sets no audience; the secret itself is shared with this gateway alone.
        validation.validate_aud = false;
        if expiry == Expiry::Optional {
            // A token that has `exp` is still held to it.
            validation.required_spec_claims.clear();
        }
        let (id, key) = (KeyId::of(secret), DecodingKey::from_secret(secret.expose().as_bytes()));
        Self { id, expiry, key, validation }
    }

    /// With which secret the tokens are signed.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Whether tokens that expire then, or never, are believed at all.
    pub fn takes_expiry(&self, expires: Option<i64>) -> bool {
        expires.is_some() || self.expiry == Expiry::Optional
    }

    /// Whether both believe the same tokens.
    pub fn is_like(&self, other: &Self) -> bool {
        self.id == other.id && self.expiry == other.expiry
    }

    /// The claims of a token, if signature, dates and labels hold.
    pub fn verify<C: DeserializeOwned>(&self, token: &str) -> Result<Verified<C>, Refusal> {
        let header =
            decode_header(token).map_err(|_| Reason::Malformed.because("token header is not readable"))?;
        let is_labelled_jwt = header.typ.as_deref().is_none_or(|typ| typ.eq_ignore_ascii_case("jwt"));
        // RFC 7515 section 4.1.11: an extension marked critical that is not understood refuses the token.
        if !is_labelled_jwt || header.cty.is_some() || header.crit.is_some() {
            return Err(Reason::WrongLabel.refuse());
        }
        let token =
            decode::<Dates<C>>(token, &self.key, &self.validation).map_err(|error| refused(error.kind()))?;
        let Dates { iat, exp, claims } = token.claims;
        if iat.is_some_and(|issued| issued > now() + LEEWAY_SECS as i64) {
            return Err(Reason::IssuedInFuture.refuse());
        }
        Ok(Verified { claims, expires: exp, issued: iat })
    }
}

/// Whether the text is a token that says it is signed with a shared secret.
pub fn claims_shared_secret(token: &str) -> bool {
    decode_header(token)
        .is_ok_and(|header| matches!(header.alg, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512))
}

/// What is wrong with a token that could not be decoded.
pub fn refused(error: &ErrorKind) -> Refusal {
    match error {
        ErrorKind::ExpiredSignature => Reason::Expired,
        ErrorKind::InvalidSignature => Reason::WrongSignature,
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => Reason::WrongAlgorithm,
        ErrorKind::ImmatureSignature => Reason::NotYetValid,
        ErrorKind::InvalidIssuer => Reason::WrongIssuer,
        ErrorKind::InvalidAudience => Reason::WrongAudience,
        ErrorKind::MissingRequiredClaim(claim) if claim == "exp" => Reason::NoExpiry,
        _ => Reason::Malformed,
    }
    .refuse()
}
