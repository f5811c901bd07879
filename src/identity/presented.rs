//! What a request presents about its sender, read once and not yet believed.
//!
//! Decides only what is well-formed: a header that may stand once and stands twice is refused.
//! Whether any of it is true is for the schemes.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, header, request::Parts};

use crate::refusal::{Code, Refusal};

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

/// Whether this header claims an identity. Underscores count as dashes: some servers fold them.
pub fn is_claim(name: &str) -> bool {
    let name = name.replace('_', "-").to_ascii_lowercase();
    name == "x-auth-source" || CLAIM_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether this is one of Open WebUI's unsigned headers about a user, however it is spelled.
fn claims_a_user(name: &str) -> bool {
    // Compared without a copy: every header of every call comes by here.
    let folded = name.bytes().map(|byte| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() });
    let prefix = "x-openwebui-user-";
    folded.clone().take(prefix.len()).eq(prefix.bytes()) && !folded.eq("x-openwebui-user-jwt".bytes())
}

/// The presented credentials, as text.
#[derive(Debug, Default)]
pub struct Presented<'a> {
    /// The token of `Authorization: Bearer`, or where the face allows it of the cookie or the query.
    pub token: Option<Cow<'a, str>>,
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
        let token = match headers.get(header::AUTHORIZATION) {
            Some(value) => Some(bearer(value.to_str().ok())?.into()),
            None => match face {
                Face::Call => None,
                Face::Page => cookie_token(headers)?.map(Cow::from),
                Face::Spec => match query_key(request.uri.query().unwrap_or_default())? {
                    Some(key) => Some(key),
                    None => cookie_token(headers)?.map(Cow::from),
                },
            },
        };
        Ok(Self {
            token,
            user_jwt: text(headers, "x-openwebui-user-jwt")?,
            claimed_email: text(headers, "x-openwebui-user-email")?,
            claims_a_user: headers.keys().any(|name| claims_a_user(name.as_str())),
        })
    }
}

fn refuse_repeated(headers: &HeaderMap) -> Result<(), Refusal> {
    let may_stand_once = |name: &HeaderName| *name == header::AUTHORIZATION || is_claim(name.as_str());
    for name in headers.keys() {
        if headers.get_all(name).iter().nth(1).is_some() && may_stand_once(name) {
            return Err(Refusal::new(Code::RepeatedHeader, format!("header `{name}` may stand only once")));
        }
    }
    Ok(())
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Refusal> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    let unreadable =
        || Refusal::new(Code::InvalidCredential, format!("header `{name}` is not readable text"));
    value.to_str().map(Some).map_err(|_| unreadable())
}

fn bearer(value: Option<&str>) -> Result<&str, Refusal> {
    let (scheme, token) = value.and_then(|value| value.trim().split_once(' ')).unwrap_or_default();
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.contains(' ') {
        return Err(Refusal::new(Code::InvalidCredential, "`Authorization` must be `Bearer` and one token"));
    }
    Ok(token)
}

fn cookie_token(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut tokens = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().strip_prefix("token="))
        .filter(|token| !token.is_empty());
    only_one(&mut tokens, "cookie `token` may stand only once")
}

fn query_key(query: &str) -> Result<Option<Cow<'_, str>>, Refusal> {
    let mut keys = form_urlencoded::parse(query.as_bytes())
        .filter_map(|(name, value)| (name == "key" && !value.is_empty()).then_some(value));
    only_one(&mut keys, "query parameter `key` may stand only once")
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
        let read = read.map(|presented| presented.token).map_err(|refusal| refusal.code());
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
        for name in
            ["x-openwebui-user-email", "X-OpenWebUI-User-Id", "x_openwebui_user_name", "x-openwebui-user-"]
        {
            assert!(claims(name), "{name}");
        }
        for name in [
            "x-openwebui-user-jwt",
            "x_openwebui_user_jwt",
            "x-openwebui-user",
            "x-openwebui-chat-id",
            "accept",
        ] {
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
        check("/", &twice("accept"), Face::Call, Ok(None));
        check("/", &[("cookie", "token=a"), ("cookie", "token=b")], Face::Page, Err(Code::RepeatedHeader));
        check("/?key=a&key=b", &[], Face::Spec, Err(Code::RepeatedHeader));
    }
}
