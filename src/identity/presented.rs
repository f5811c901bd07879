//! What a request presents about its sender, read once and not yet believed.
//!
//! Decides only what is well-formed: a header that may stand once and stands twice is refused.
//! Whether any of it is true is for the schemes.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, header, request::Parts};

use super::reason::Reason;
use crate::refusal::{Code, Refusal};

/// Longest credential that is looked at: an access token of Entra ID with 200 groups has about 10 KiB.
const MAX_CREDENTIAL_BYTES: usize = 16 * 1024;

/// Where the credential may stand, by what is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    /// Something that acts: the `Authorization` header alone, so that no foreign page can make a browser act.
    Call,
    /// Something that only shows: the `token` cookie too.
    Page,
    /// An OpenAPI document: `?key=` too, for clients that can send no header there.
    Spec,
}

/// Prefixes of headers that claim an identity. They are claims, never facts, and never travel on.
pub const CLAIM_PREFIXES: [&str; 5] = ["x-user-", "x-openwebui-", "x-entra-", "x-gateway-", "x-tenant-"];

/// A header's name as servers read it that fold underscores and case.
fn folded(name: &str) -> impl Iterator<Item = u8> + Clone {
    // Without a copy: every header of every call comes by here.
    name.bytes().map(|byte| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() })
}

fn is_folded(name: &str, like: &str) -> bool {
    folded(name).eq(like.bytes())
}

fn begins_folded(name: &str, prefix: &str) -> bool {
    name.len() >= prefix.len() && folded(name).take(prefix.len()).eq(prefix.bytes())
}

/// Whether this header claims an identity. Underscores count as dashes: some servers fold them.
pub fn is_claim(name: &str) -> bool {
    is_folded(name, "x-auth-source") || CLAIM_PREFIXES.iter().any(|prefix| begins_folded(name, prefix))
}

/// Whether this is one of Open WebUI's unsigned headers about a user, however it is spelled.
fn claims_a_user(name: &str) -> bool {
    // The signed token counts where it is read, under its very name: renamed on its way it is a claim like the others.
    begins_folded(name, "x-openwebui-user-") && name != "x-openwebui-user-jwt"
}

/// The presented credentials, as text.
#[derive(Debug)]
pub struct Presented<'a> {
    /// The token of `Authorization: Bearer`, or where the face allows it of the cookie or the query. A refusal is for
    /// those whom nobody else knows: a gateway in front may have taken its user's password there.
    pub token: Result<Option<Cow<'a, str>>, Refusal>,
    /// Whether it stood in the query, where it gets into logs and histories: good for service keys alone.
    pub is_in_query: bool,
    /// Open WebUI's signed user token.
    pub user_jwt: Option<&'a str>,
    /// The user Open WebUI says it acts for, unsigned.
    pub claimed_email: Option<&'a str>,
    /// Whether any unsigned header claims to name a user.
    pub claims_a_user: bool,
}

impl<'a> Presented<'a> {
    /// Reads the headers and, where the face allows it, cookie and query.
    pub fn read(request: &'a Parts, face: Face) -> Result<Self, Refusal> {
        let headers = &request.headers;
        refuse_repeated(headers)?;
        let (token, is_in_query) = match token(request, face) {
            Ok(Some((token, is_in_query))) => (Ok(Some(token)), is_in_query),
            Ok(None) => (Ok(None), false),
            Err(refusal) => (Err(refusal), false),
        };
        Ok(Self {
            token,
            is_in_query,
            user_jwt: text(headers, "x-openwebui-user-jwt")?,
            claimed_email: text(headers, "x-openwebui-user-email")?,
            claims_a_user: headers.keys().any(|name| claims_a_user(name.as_str())),
        })
    }
}

/// The token, and whether it stood in the query.
fn token(request: &Parts, face: Face) -> Result<Option<(Cow<'_, str>, bool)>, Refusal> {
    let headers = &request.headers;
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        return Ok(Some((bearer(value.to_str().ok())?.into(), false)));
    }
    if face == Face::Spec
        && let Some(key) = query_key(request.uri.query().unwrap_or_default())?
    {
        return Ok(Some((key, true)));
    }
    match face {
        Face::Call => Ok(None),
        Face::Page | Face::Spec => Ok(cookie_token(headers)?.map(|token| (token.into(), false))),
    }
}

/// Refuses what may stand once and stands twice, under whatever spelling.
fn refuse_repeated(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut claims: Vec<&HeaderName> = Vec::new();
    for name in headers.keys() {
        let is_claim = is_claim(name.as_str());
        if !is_claim && *name != header::AUTHORIZATION {
            continue;
        }
        let is_alike = |other: &&HeaderName| folded(other.as_str()).eq(folded(name.as_str()));
        if headers.get_all(name).iter().nth(1).is_some() || is_claim && claims.iter().any(is_alike) {
            return Err(Refusal::new(Code::RepeatedHeader, format!("header `{name}` may stand only once")));
        }
        if is_claim {
            claims.push(name);
        }
    }
    Ok(())
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Refusal> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    let text =
        value.to_str().map_err(|_| Reason::Unreadable.because(format!("`{name}` is not readable text")))?;
    fits(text).map(Some)
}

fn fits(credential: &str) -> Result<&str, Refusal> {
    if credential.len() > MAX_CREDENTIAL_BYTES { Err(Reason::Oversize.refuse()) } else { Ok(credential) }
}

fn bearer(value: Option<&str>) -> Result<&str, Refusal> {
    let (scheme, token) = value.and_then(|value| value.trim().split_once(' ')).unwrap_or_default();
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.contains(' ') {
        return Err(Reason::NotBearer.refuse());
    }
    fits(token)
}

fn cookie_token(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut tokens = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().strip_prefix("token="))
        .filter(|token| !token.is_empty());
    only_one(&mut tokens, "cookie `token` may stand only once")?.map(fits).transpose()
}

fn query_key(query: &str) -> Result<Option<Cow<'_, str>>, Refusal> {
    let mut keys = form_urlencoded::parse(query.as_bytes())
        .filter_map(|(name, value)| (name == "key" && !value.is_empty()).then_some(value));
    let key = only_one(&mut keys, "query parameter `key` may stand only once")?;
    if let Some(key) = &key {
        fits(key)?;
    }
    Ok(key)
}

fn only_one<T>(values: &mut impl Iterator<Item = T>, sentence: &'static str) -> Result<Option<T>, Refusal> {
    let first = values.next();
    match values.next() {
        Some(_) => Err(Refusal::new(Code::RepeatedHeader, sentence)),
        None => Ok(first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[track_caller]
    fn check(uri: &str, headers: &[(&str, &str)], face: Face, expected: Result<Option<&str>, Code>) {
        let request = request(uri, headers);
        let read = Presented::read(&request, face);
        let read = read.and_then(|presented| presented.token).map_err(|refusal| refusal.code());
        assert_eq!(read, expected.map(|token| token.map(Cow::from)));
    }

    #[test]
    fn a_credential_is_read_only_where_the_face_allows_it() {
        let cookie = ("cookie", "foo=bar; token=zzz");
        check("/", &[], Face::Call, Ok(None));
        check("/", &[("authorization", "Bearer abc")], Face::Call, Ok(Some("abc")));
        check("/", &[("authorization", "bearer  abc ")], Face::Call, Ok(Some("abc")));
        check("/", &[cookie], Face::Call, Ok(None));
        check("/", &[cookie], Face::Page, Ok(Some("zzz")));
        check("/", &[cookie, ("authorization", "Bearer abc")], Face::Page, Ok(Some("abc")));
        check("/?key=k1", &[], Face::Call, Ok(None));
        check("/?key=k1", &[], Face::Page, Ok(None));
        check("/?a=b&key=k1", &[], Face::Spec, Ok(Some("k1")));
        check("/?key=a%2Bb%3D%3D", &[], Face::Spec, Ok(Some("a+b==")));
    }

    #[test]
    fn a_user_is_claimed_by_unsigned_headers_however_they_are_spelled() {
        let claims = |name| Presented::read(&request("/", &[(name, "x")]), Face::Call).unwrap().claims_a_user;
        for name in [
            "x-openwebui-user-email",
            "X-OpenWebUI-User-Id",
            "x_openwebui_user_name",
            "x-openwebui-user-",
            "x_openwebui_user_jwt",
        ] {
            assert!(claims(name), "{name}");
        }
        for name in ["x-openwebui-user-jwt", "x-openwebui-user", "x-openwebui-chat-id", "accept"] {
            assert!(!claims(name), "{name}");
        }
    }

    #[test]
    fn a_malformed_or_repeated_credential_is_refused() {
        for bad in ["Basic YTpi", "Bearer", "Bearer ", "abc", "Bearer a b", ""] {
            check("/", &[("authorization", bad)], Face::Call, Err(Code::InvalidCredential));
        }
        let twice = |name| [(name, "a@x"), (name, "b@x")];
        for name in
            ["authorization", "x-openwebui-user-email", "X-User-Groups", "x_user_admin", "x-auth-source"]
        {
            check("/", &twice(name), Face::Call, Err(Code::RepeatedHeader));
        }
        let folded = [("x-user-email", "a@x"), ("X_User-Email", "a@x")];
        check("/", &folded, Face::Call, Err(Code::RepeatedHeader));
        check("/", &[("x-user-email", "a@x"), ("x-user-e", "b")], Face::Call, Ok(None));
        let long = format!("Bearer {}", "a".repeat(MAX_CREDENTIAL_BYTES + 1));
        check("/", &[("authorization", &long)], Face::Call, Err(Code::InvalidCredential));
        check("/", &twice("accept"), Face::Call, Ok(None));
        check("/", &[("cookie", "token=a"), ("cookie", "token=b")], Face::Page, Err(Code::RepeatedHeader));
        check("/?key=a&key=b", &[], Face::Spec, Err(Code::RepeatedHeader));
    }
}
