//! How an MCP client without a token learns where to get one: the metadata of an endpoint (RFC 9728) and the
//! challenge that leads there (RFC 6750 section 3).
//!
//! Decides by the path's form alone, so that it shows to nobody which servers exist. Never asks for a wider scope
//! because of a missing grant: no scope cures that.

use http::request::Parts;

use super::{Settings, origin};
use crate::{
    endpoints::{Answer, protected_resource},
    refusal::{Code, Refusal},
    route::PROTECTED_RESOURCE,
};

/// The metadata of the resource whose path follows `/.well-known/oauth-protected-resource`.
pub fn metadata(request: &Parts, settings: &Settings) -> Result<Answer, Refusal> {
    let Some(oauth) = &settings.oauth else {
        return Err(Refusal::new(Code::NotFound, "no authorization server is configured"));
    };
    let path = match request.uri.path().strip_prefix(PROTECTED_RESOURCE) {
        None | Some("") => "/mcp",
        Some(path) => path,
    };
    let resource = format!("{}{path}", base_url(request, settings)?);
    // What the client itself called the gateway is nothing for others to read.
    let is_for_all = settings.public_url.is_some();
    protected_resource::answer(oauth, &resource, is_for_all, request)
}

/// What a challenge on an MCP endpoint says beside the error: where its metadata is and which scopes to ask for.
pub fn sign_in(request: &Parts, settings: &Settings) -> Option<String> {
    let oauth = settings.oauth.as_ref()?;
    let base = base_url(request, settings).ok()?;
    let metadata = format!(r#", resource_metadata="{base}{PROTECTED_RESOURCE}{}""#, request.uri.path());
    if oauth.scopes.is_empty() {
        return Some(metadata);
    }
    Some(format!(r#"{metadata}, scope="{}""#, oauth.scopes.join(" ")))
}

/// `WWW-Authenticate` of a 401, or of a 403 that wants another token, with what `sign_in` said.
pub fn challenge(code: Code, sign_in: Option<&str>) -> String {
    // RFC 6750 section 3: the error code stands only where a credential was sent.
    let error = match code {
        Code::NoCredential => "",
        // The one 403 that another token can cure (RFC 6750 section 3.1).
        Code::InsufficientScope => r#", error="insufficient_scope""#,
        _ => r#", error="invalid_token""#,
    };
    format!(r#"Bearer realm="portcullis"{error}{}"#, sign_in.unwrap_or_default())
}

/// What clients call the gateway: as the operator says, or else what this request calls it and what is spoken here.
fn base_url(request: &Parts, settings: &Settings) -> Result<String, Refusal> {
    if let Some(url) = &settings.public_url {
        return Ok(url.clone());
    }
    let (name, _) = origin::own_name(request, &settings.hosts)?;
    let scheme = if settings.tls.is_some() { "https" } else { "http" };
    Ok(format!("{scheme}://{name}"))
}

#[cfg(test)]
mod tests {
    use http::Request;
    use serde_json::{Value, json};

    use super::*;
    use crate::{endpoints::protected_resource::OAuth, gateway::tests::settings};

    const ISSUER: &str = "https://login.example.com/t/";

    fn settings_with(public_url: Option<&str>, scopes: &[&str]) -> Settings {
        let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        let oauth = OAuth { authorization_servers: vec![ISSUER.into()], scopes, facade: None };
        Settings { public_url: public_url.map(str::to_owned), oauth: Some(oauth), ..settings() }
    }

    fn request(host: &str, path: &str) -> Parts {
        Request::builder().uri(path).header("host", host).body(()).unwrap().into_parts().0
    }

    /// The document's `resource`, or the refusal.
    #[track_caller]
    fn check(public_url: Option<&str>, host: &str, path: &str, expected: Result<&str, Code>) {
        let found = metadata(&request(host, path), &settings_with(public_url, &[]));
        let resource =
            found.map(|answer| serde_json::from_slice::<Value>(&answer.body).unwrap()["resource"].clone());
        assert_eq!(
            resource.map_err(|refusal| refusal.code()),
            expected.map(|url| json!(url)),
            "{host} {path}"
        );
    }

    #[test]
    fn a_resource_is_called_as_its_clients_call_it() {
        let well_known = "/.well-known/oauth-protected-resource";
        let of_github = &format!("{well_known}/github/mcp");
        let public = Some("https://gw.example.com");
        check(public, "10.0.0.1:8000", of_github, Ok("https://gw.example.com/github/mcp"));
        check(public, "evil.example.com", well_known, Ok("https://gw.example.com/mcp"));
        check(public, "h", &format!("{well_known}/mcp"), Ok("https://gw.example.com/mcp"));
        check(None, "LocalHost:8000", of_github, Ok("http://LocalHost:8000/github/mcp"));
        check(None, "evil.example.com", of_github, Err(Code::ForeignHost));
    }

    #[test]
    fn the_metadata_says_who_issues_tokens_to_any_page() {
        let path = "/.well-known/oauth-protected-resource/github/mcp";
        let document = |scopes: &[&str]| {
            let answer = metadata(&request("gw", path), &settings_with(None, scopes)).unwrap();
            let headers: Vec<_> =
                answer.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
            assert_eq!(headers, ["cache-control: no-store", "access-control-allow-origin: *"]);
            serde_json::from_slice::<Value>(&answer.body).unwrap()
        };
        let mut expected = json!({"resource": "http://gw/github/mcp", "authorization_servers": [ISSUER],
            "bearer_methods_supported": ["header"], "resource_name": "Portcullis"});
        assert_eq!(document(&[]), expected);
        expected["scopes_supported"] = json!(["mcp", "x"]);
        assert_eq!(document(&["mcp", "x"]), expected);
        let without = Settings { oauth: None, ..settings() };
        assert_eq!(metadata(&request("gw", path), &without).unwrap_err().code(), Code::NotFound);
    }

    #[test]
    fn a_challenge_leads_to_the_metadata_where_there_is_some() {
        let asked = request("gw:8000", "/github/mcp");
        let without = Settings { oauth: None, ..settings() };
        assert_eq!(sign_in(&asked, &without), None);
        assert_eq!(sign_in(&request("evil.org", "/github/mcp"), &settings_with(None, &[])), None);
        let bare = sign_in(&asked, &settings_with(None, &[]));
        let scoped = sign_in(&asked, &settings_with(Some("https://gw.example.com"), &["a", "b"]));
        for (code, sign_in, expected) in [
            (Code::NoCredential, &None, r#"Bearer realm="portcullis""#),
            (Code::ExpiredCredential, &None, r#"Bearer realm="portcullis", error="invalid_token""#),
            (
                Code::NoCredential,
                &bare,
                r#"Bearer realm="portcullis", resource_metadata="http://gw:8000/.well-known/oauth-protected-resource/github/mcp""#,
            ),
            (
                Code::InvalidCredential,
                &scoped,
                r#"Bearer realm="portcullis", error="invalid_token", resource_metadata="https://gw.example.com/.well-known/oauth-protected-resource/github/mcp", scope="a b""#,
            ),
            (
                Code::InsufficientScope,
                &scoped,
                r#"Bearer realm="portcullis", error="insufficient_scope", resource_metadata="https://gw.example.com/.well-known/oauth-protected-resource/github/mcp", scope="a b""#,
            ),
        ] {
            assert_eq!(challenge(code, sign_in.as_deref()), expected);
        }
    }
}
