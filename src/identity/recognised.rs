//! Whether a credential was believed before, or is believed without checking a signature.
//!
//! Decides nothing about who is asking: `Identity::identify` does, and may still refuse what is recognised here. This is
//! for telling known callers from strangers at an address where many requests fail, and costs one hash.

use std::net::IpAddr;

use http::request::Parts;
use sha2::{Digest, Sha256};

use super::{Face, Identity, Verdict, presented::Presented};

impl Identity {
    /// Whether a request shows a credential that was believed before; `from` is the address it came from.
    pub fn recognises(&self, request: &Parts, face: Face, from: Option<IpAddr>) -> bool {
        let Ok(presented) = Presented::read(request, face) else { return false };
        let by_gateway = self.gateway_headers.as_ref().map(|gateway| gateway.judge(&request.headers, from));
        if matches!(by_gateway, Some(Verdict::Known(_))) {
            return true;
        }
        let Ok(Some(token)) = presented.token else { return false };
        let sha256: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        self.service_keys.get(&sha256).is_some()
            || self.verified_sessions.contains_key(&sha256)
            || self.api_keys.as_ref().is_some_and(|keys| keys.peek(&sha256).is_some())
            || self.entra.as_ref().is_some_and(|entra| entra.remembers(&sha256))
    }
}
