//! What the authority says of a tenant: its issuer's name, and where keys and tokens are had (OpenID Connect Discovery).
//!
//! Decides where documents are looked for and which of their addresses may be used. Pure.

use serde::Deserialize;
use url::Url;
use uuid::Uuid;

/// Which kind of token: the two have issuers, audiences and claims of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// `ver` is `1.0`: what applications get that have not asked for more.
    V1,
    /// `ver` is `2.0`.
    V2,
}

impl Version {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V1, Self::V2];

    /// The word in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "1.0",
            Self::V2 => "2.0",
        }
    }
}

/// A tenant's endpoints, as its document has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoints {
    /// What its tokens have for `iss`.
    pub issuer: String,
    /// Where its keys are.
    pub keys: String,
    /// Where a browser is sent to sign in.
    pub authorization: String,
    /// Where tokens are had.
    pub token: String,
}

#[derive(Deserialize)]
struct Document {
    issuer: String,
    jwks_uri: String,
    authorization_endpoint: String,
    token_endpoint: String,
}

/// Where the document of a tenant is; the authority is an origin.
pub fn address(authority: &str, tenant: Uuid, version: Version) -> String {
    match version {
        Version::V1 => format!("{authority}/{tenant}/.well-known/openid-configuration"),
        Version::V2 => format!("{authority}/{tenant}/v2.0/.well-known/openid-configuration"),
    }
}

/// What the authority calls a tenant in version 2.
pub fn modern_issuer(authority: &str, tenant: Uuid) -> String {
    format!("{authority}/{tenant}/v2.0")
}

impl Endpoints {
    /// Reads a document of this tenant.
    ///
    /// Every address must be at the authority itself: Entra ID has them there, in every cloud, and so a document cannot
    /// send the gateway's secret or its trust elsewhere. The issuer is a name that nobody calls, and version 1 has it
    /// elsewhere; it must be one tenant's own, so `common` and its template are none.
    pub fn read(document: &[u8], authority: &str, tenant: Uuid) -> Result<Self, &'static str> {
        let document: Document =
            serde_json::from_slice(document).map_err(|_| "the document is no OpenID configuration")?;
        let issuer = Url::parse(&document.issuer).map_err(|_| "the issuer is no URL")?;
        let tenant = tenant.to_string();
        if !issuer.path_segments().is_some_and(|mut segments| segments.any(|segment| segment == tenant)) {
            return Err("the issuer is not the tenant's");
        }
        let origin = Url::parse(authority).map_err(|_| "the authority is no URL")?.origin();
        let is_at_home = |address: &str| {
            Url::parse(address).is_ok_and(|url| {
                url.origin() == origin && url.username().is_empty() && url.password().is_none()
            })
        };
        let Document { issuer, jwks_uri, authorization_endpoint, token_endpoint } = document;
        if ![&jwks_uri, &authorization_endpoint, &token_endpoint].into_iter().all(|url| is_at_home(url)) {
            return Err("an address is not at the authority");
        }
        Ok(Self { issuer, keys: jwks_uri, authorization: authorization_endpoint, token: token_endpoint })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const TENANT: Uuid = Uuid::from_u128(0x11111111_2222_3333_4444_555555555555);
    const AUTHORITY: &str = "https://login.microsoftonline.com";

    fn document(changes: Value) -> Vec<u8> {
        let mut document = json!({
            "issuer": format!("{AUTHORITY}/{TENANT}/v2.0"),
            "jwks_uri": format!("{AUTHORITY}/{TENANT}/discovery/v2.0/keys"),
            "authorization_endpoint": format!("{AUTHORITY}/{TENANT}/oauth2/v2.0/authorize"),
            "token_endpoint": format!("{AUTHORITY}/{TENANT}/oauth2/v2.0/token"),
            "cloud_instance_name": "microsoftonline.com"});
        for (name, value) in changes.as_object().unwrap() {
            document[name] = value.clone();
        }
        document.to_string().into_bytes()
    }

    #[track_caller]
    fn check(changes: Value, expected: Result<(), &str>) {
        let read = Endpoints::read(&document(changes.clone()), AUTHORITY, TENANT);
        assert_eq!(read.map(drop), expected, "{changes}");
    }

    #[test]
    fn a_document_speaks_for_its_tenant_and_names_addresses_of_the_authority() {
        check(json!({}), Ok(()));
        check(json!({"issuer": format!("https://sts.windows.net/{TENANT}/")}), Ok(()));
        for issuer in [
            "https://login.microsoftonline.com/{tenantid}/v2.0".to_owned(),
            format!("{AUTHORITY}/99999999-2222-3333-4444-555555555555/v2.0"),
            format!("{AUTHORITY}/x{TENANT}/v2.0"),
            format!("{AUTHORITY}/common?{TENANT}"),
            format!("{AUTHORITY}/common#/{TENANT}/"),
        ] {
            check(json!({"issuer": issuer}), Err("the issuer is not the tenant's"));
        }
        check(json!({"issuer": TENANT.to_string()}), Err("the issuer is no URL"));
        for name in ["jwks_uri", "token_endpoint", "authorization_endpoint"] {
            for address in [
                "http://login.microsoftonline.com/keys",
                "https://login.microsoftonline.com:444/keys",
                "https://login.microsoftonline.com@evil.example/keys",
                "https://u:p@login.microsoftonline.com/keys",
                "https://login.microsoftonline.com.evil.example/keys",
                "//login.microsoftonline.com/keys",
                "file:///etc/passwd",
                "",
            ] {
                check(json!({name: address}), Err("an address is not at the authority"));
            }
            check(json!({name: null}), Err("the document is no OpenID configuration"));
        }
    }

    proptest! {
        #[test]
        fn no_document_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), issuer in ".*") {
            drop(Endpoints::read(&bytes, AUTHORITY, TENANT));
            drop(Endpoints::read(&document(json!({"issuer": issuer})), AUTHORITY, TENANT));
        }
    }
}
