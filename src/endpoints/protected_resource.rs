//! What the gateway tells OAuth clients about its MCP endpoints (RFC 9728): who issues tokens for them.
//!
//! Decides the document alone. It is the same for every name, so nobody learns from it which servers exist.

use http::{Method, request::Parts};
use serde::Serialize;

use super::{Answer, authorization::Facade};
use crate::refusal::Refusal;

/// Where tokens for the gateway come from.
#[derive(Debug, Clone)]
pub struct OAuth {
    /// Issuers, each as it calls itself; never empty.
    pub authorization_servers: Vec<String>,
    /// Scopes to ask for there.
    pub scopes: Vec<String>,
    /// The gateway as such an issuer, in front of Entra ID; then it is the only one.
    pub facade: Option<Facade>,
}

/// Protected resource metadata (RFC 9728 section 2).
#[derive(Serialize)]
struct Metadata<'a> {
    resource: &'a str,
    authorization_servers: &'a [String],
    bearer_methods_supported: [&'static str; 1],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    scopes_supported: &'a [String],
    resource_name: &'static str,
}

/// The document about this resource, which must be the URL clients use, byte for byte (RFC 9728 section 3.3).
///
/// Caches may keep what is for all. Any page may read it: it is no secret, and whoever reads it has no credential yet.
pub fn answer(oauth: &OAuth, resource: &str, is_for_all: bool, request: &Parts) -> Result<Answer, Refusal> {
    if request.method == Method::OPTIONS {
        let preflight = Answer::new(204, "", Default::default())
            .with("access-control-allow-methods", "GET".into())
            // Browsers ask first, because clients send the revision of MCP they speak.
            .with("access-control-allow-headers", "mcp-protocol-version".into())
            .with("access-control-max-age", "600".into());
        return Ok(readable_by_all(preflight));
    }
    let metadata = Metadata {
        resource,
        authorization_servers: &oauth.authorization_servers,
        bearer_methods_supported: ["header"],
        scopes_supported: &oauth.scopes,
        resource_name: "Portcullis",
    };
    let body = serde_json::to_vec(&metadata).map_err(Refusal::internal)?;
    let lasting = if is_for_all { "public, max-age=300" } else { "no-store" };
    let answer = Answer::new(200, "application/json", body.into());
    Ok(readable_by_all(answer.with("cache-control", lasting.into())))
}

/// Lets a page of any site read the answer.
pub fn readable_by_all(answer: Answer) -> Answer {
    answer.with("access-control-allow-origin", "*".into())
}
