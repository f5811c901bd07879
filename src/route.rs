//! What is asked for: a method and a path become a `Route`, or are refused as ill-formed.
//!
//! Decides only by form and by the fixed words of the gateway; whether a server or tool exists and
//! who may use it comes later, so that an unauthenticated sender learns nothing here. Paths are
//! refused before they are compared: nothing here needs an encoded, doubled or dotted segment, so
//! none is ever decoded, and no other parser can read the path differently.

use http::Method;

use crate::refusal::{Code, Refusal};

/// Something the gateway answers itself, without a server in its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Page {
    /// `GET /` and `GET /servers`.
    Servers,
    /// `GET /tools`.
    Tools,
    /// `GET /tenants`.
    Tenants,
    /// `GET /openapi.json`.
    OpenApi,
    /// `GET /health`.
    Health,
    /// `GET /.well-known/oauth-protected-resource` and below it the path of an MCP endpoint.
    ProtectedResource,
    /// `GET /.well-known/oauth-authorization-server`.
    AuthorizationServer,
    /// `GET /.well-known/openid-configuration`.
    OpenIdConfiguration,
    /// `GET /oauth/authorize`.
    OAuthAuthorize,
    /// `POST /oauth/token`.
    OAuthToken,
    /// `POST /oauth/register`.
    OAuthRegister,
    /// `POST /refresh`.
    Refresh,
    /// `GET /{server}`.
    Server,
    /// `GET /{server}/openapi.json`.
    ServerOpenApi,
    /// `POST /meta/search_tools`.
    MetaSearch,
    /// `POST /meta/describe_tools`.
    MetaDescribe,
    /// `POST /meta/call_tool`.
    MetaCall,
    /// `GET /meta/stats`.
    MetaStats,
}

/// What a request asks for. Names are as sent: well-formed, not yet known to exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route<'p> {
    /// An answer of the gateway itself.
    Page(Page),
    /// An answer of the gateway about one server.
    ServerPage(Page, &'p str),
    /// `POST /{server}/{tool}`.
    Call {
        /// The first segment.
        server: &'p str,
        /// The second segment.
        tool: &'p str,
    },
    /// `POST`, `GET` or `DELETE /{server}/mcp`: MCP of one server.
    Native(&'p str),
    /// `POST`, `GET` or `DELETE /mcp`: MCP of all the caller's servers at once.
    Aggregate,
    /// `POST /{server}_{tool}`, the predecessor's form.
    LegacyCall(&'p str),
    /// The path exists, for these methods.
    OtherMethod(&'static str),
    /// Nothing is here.
    Nothing,
}

impl Route<'_> {
    /// The route's name in logs and metrics: one of a closed set.
    pub fn label(&self) -> &'static str {
        match self {
            Route::Page(page) | Route::ServerPage(page, _) => page.label(),
            Route::Call { .. } => "call",
            Route::LegacyCall(_) => "legacy_call",
            Route::Native(_) => "mcp",
            Route::Aggregate => "mcp_all",
            Route::OtherMethod(_) | Route::Nothing => "none",
        }
    }
}

/// The paths of the route that is called so, as one pattern; empty for none.
pub fn template(label: &str) -> &'static str {
    match label {
        "servers" => "/servers",
        "tools" => "/tools",
        "tenants" => "/tenants",
        "openapi" => "/openapi.json",
        "health" => "/health",
        "protected_resource" => PROTECTED_RESOURCE,
        "authorization_server" => AUTHORIZATION_SERVER,
        "openid_configuration" => OPENID_CONFIGURATION,
        "oauth_authorize" => "/oauth/authorize",
        "oauth_token" => "/oauth/token",
        "oauth_register" => "/oauth/register",
        "refresh" => "/refresh",
        "server" => "/{server}",
        "server_openapi" => "/{server}/openapi.json",
        "meta_search_tools" => "/meta/search_tools",
        "meta_describe_tools" => "/meta/describe_tools",
        "meta_call_tool" => "/meta/call_tool",
        "meta_stats" => "/meta/stats",
        "call" => "/{server}/{tool}",
        "legacy_call" => "/{server}_{tool}",
        "mcp" => "/{server}/mcp",
        "mcp_all" => "/mcp",
        _ => "",
    }
}

impl Page {
    /// The page's name in logs and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Page::Servers => "servers",
            Page::Tools => "tools",
            Page::Tenants => "tenants",
            Page::OpenApi => "openapi",
            Page::Health => "health",
            Page::ProtectedResource => "protected_resource",
            Page::AuthorizationServer => "authorization_server",
            Page::OpenIdConfiguration => "openid_configuration",
            Page::OAuthAuthorize => "oauth_authorize",
            Page::OAuthToken => "oauth_token",
            Page::OAuthRegister => "oauth_register",
            Page::Refresh => "refresh",
            Page::Server => "server",
            Page::ServerOpenApi => "server_openapi",
            Page::MetaSearch => "meta_search_tools",
            Page::MetaDescribe => "meta_describe_tools",
            Page::MetaCall => "meta_call_tool",
            Page::MetaStats => "meta_stats",
        }
    }
}

/// Where the metadata of `/{path}` is, with `/{path}` after it (RFC 9728 section 3.1).
pub const PROTECTED_RESOURCE: &str = "/.well-known/oauth-protected-resource";
/// Where an authorization server describes itself (RFC 8414 section 3).
const AUTHORIZATION_SERVER: &str = "/.well-known/oauth-authorization-server";
/// Where an OpenID provider does (OpenID Connect Discovery section 4).
const OPENID_CONFIGURATION: &str = "/.well-known/openid-configuration";

/// Reads a method and a path (without its query).
pub fn resolve<'p>(method: &Method, path: &'p str) -> Result<Route<'p>, Refusal> {
    let segments = segments(path)?;
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    let page = |page| if is_read { Route::Page(page) } else { Route::OtherMethod("GET, HEAD") };
    if path.strip_prefix(PROTECTED_RESOURCE).is_some_and(is_mcp_or_root) {
        // Clients in browsers ask before they read, because they send a header of MCP.
        let is_question = *method == Method::OPTIONS;
        return Ok(if is_question {
            Route::Page(Page::ProtectedResource)
        } else {
            page(Page::ProtectedResource)
        });
    }
    if let Some(route) = sign_in(method, path)? {
        return Ok(route);
    }
    Ok(match segments {
        Segments::None => page(Page::Servers),
        Segments::One("servers") => page(Page::Servers),
        Segments::One("tools") => page(Page::Tools),
        Segments::One("tenants") => page(Page::Tenants),
        Segments::One("openapi.json") => page(Page::OpenApi),
        Segments::One("health") => page(Page::Health),
        Segments::One("refresh") if method == Method::POST => Route::Page(Page::Refresh),
        Segments::One("refresh") => Route::OtherMethod("POST"),
        Segments::One("mcp") if is_mcp_method(method) => Route::Aggregate,
        Segments::One("mcp") => Route::OtherMethod("GET, POST, DELETE"),
        Segments::One(server) if is_read => Route::ServerPage(Page::Server, server),
        Segments::One(name) if method == Method::POST && name.contains('_') => Route::LegacyCall(name),
        Segments::One(_) => Route::OtherMethod("GET, HEAD"),
        Segments::Two("meta", "stats") => page(Page::MetaStats),
        Segments::Two("meta", "search_tools") if method == Method::POST => Route::Page(Page::MetaSearch),
        Segments::Two("meta", "describe_tools") if method == Method::POST => Route::Page(Page::MetaDescribe),
        Segments::Two("meta", "call_tool") if method == Method::POST => Route::Page(Page::MetaCall),
        Segments::Two(server, "openapi.json") if is_read => Route::ServerPage(Page::ServerOpenApi, server),
        // A tool of this name cannot be called.
        Segments::Two(server, "mcp") if is_mcp_method(method) => Route::Native(server),
        Segments::Two(_, "mcp") => Route::OtherMethod("GET, POST, DELETE"),
        Segments::Two(server, tool) if method == Method::POST => Route::Call { server, tool },
        Segments::Two(..) => Route::OtherMethod("POST"),
        Segments::More => Route::Nothing,
    })
}

/// What MCP clients ask of an authorization server, where the path is one of its.
fn sign_in(method: &Method, path: &str) -> Result<Option<Route<'static>>, Refusal> {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let writes = *method == Method::POST;
    // Clients in browsers ask before they send what pages of other sites may not.
    let asks = *method == Method::OPTIONS;
    let (page, is_method, allow) = match path {
        AUTHORIZATION_SERVER => (Page::AuthorizationServer, reads || asks, "GET, HEAD"),
        OPENID_CONFIGURATION => (Page::OpenIdConfiguration, reads || asks, "GET, HEAD"),
        "/oauth/authorize" => (Page::OAuthAuthorize, reads, "GET, HEAD"),
        "/oauth/token" => (Page::OAuthToken, writes || asks, "POST"),
        "/oauth/register" => (Page::OAuthRegister, writes || asks, "POST"),
        // Where clients look for an issuer with a path. Without a credential, so the answer is no 401.
        _ if is_below(path, AUTHORIZATION_SERVER)
            || is_below(path, OPENID_CONFIGURATION)
            || path.ends_with(OPENID_CONFIGURATION) =>
        {
            return Err(Refusal::new(Code::NotFound, "no authorization server is called so"));
        }
        _ => return Ok(None),
    };
    Ok(Some(if is_method { Route::Page(page) } else { Route::OtherMethod(allow) }))
}

fn is_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

/// The methods of Streamable HTTP.
fn is_mcp_method(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::GET | Method::DELETE)
}

/// Ways to read `{server}_{tool}`, longest server first.
pub fn legacy_readings(name: &str) -> impl Iterator<Item = (&str, &str)> {
    name.rmatch_indices('_')
        .map(|(at, _)| (&name[..at], &name[at + 1..]))
        .filter(|(server, tool)| !server.is_empty() && !tool.is_empty())
}

/// Whether this is the path of an MCP endpoint, or none.
pub fn is_mcp_or_root(path: &str) -> bool {
    matches!(path.split('/').collect::<Vec<_>>()[..], [""] | ["", "mcp"] | ["", _, "mcp"])
}

enum Segments<'p> {
    None,
    One(&'p str),
    Two(&'p str, &'p str),
    More,
}

fn segments(path: &str) -> Result<Segments<'_>, Refusal> {
    let bad = |sentence| Err(Refusal::new(Code::BadPath, sentence));
    let Some(relative) = path.strip_prefix('/') else {
        return bad("the path must begin with `/`");
    };
    // The unreserved characters of RFC 3986 section 2.3, and `/`.
    if !relative.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'/')) {
        return bad("the path may hold only `A-Z`, `a-z`, `0-9`, `-`, `.`, `_`, `~` and `/`, never encoded");
    }
    if relative.is_empty() {
        return Ok(Segments::None);
    }
    let is_dots = |segment: &str| !segment.is_empty() && segment.bytes().all(|b| b == b'.');
    if relative.split('/').any(is_dots) {
        return bad("the path may not hold dot segments");
    }
    if path.contains("//") {
        return bad("the path may not hold empty segments");
    }
    if relative.ends_with('/') {
        return Err(Refusal::new(Code::NotFound, "nothing is here; leave out the slash at the end"));
    }
    let mut parts = relative.split('/');
    Ok(match (parts.next(), parts.next(), parts.next()) {
        (Some(one), None, _) => Segments::One(one),
        (Some(one), Some(two), None) => Segments::Two(one, two),
        _ => Segments::More,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(method: Method, path: &str, expected: Result<Route<'_>, Code>) {
        assert_eq!(resolve(&method, path).map_err(|refusal| refusal.code()), expected, "{method} {path}");
    }

    #[test]
    fn every_route_that_can_be_asked_for_has_a_pattern_of_its_own() {
        let asked = [
            ("GET", "/servers"),
            ("GET", "/tools"),
            ("GET", "/tenants"),
            ("GET", "/openapi.json"),
            ("GET", "/health"),
            ("GET", "/.well-known/oauth-protected-resource"),
            ("GET", "/.well-known/oauth-authorization-server"),
            ("GET", "/.well-known/openid-configuration"),
            ("GET", "/oauth/authorize"),
            ("POST", "/oauth/token"),
            ("POST", "/oauth/register"),
            ("POST", "/refresh"),
            ("GET", "/{server}"),
            ("GET", "/{server}/openapi.json"),
            ("POST", "/meta/search_tools"),
            ("POST", "/meta/describe_tools"),
            ("POST", "/meta/call_tool"),
            ("GET", "/meta/stats"),
            ("POST", "/{server}/{tool}"),
            ("POST", "/{server}_{tool}"),
            ("POST", "/{server}/mcp"),
            ("POST", "/mcp"),
        ];
        for (method, pattern) in asked {
            let path = pattern.replace("{server}", "a").replace("{tool}", "b");
            let route = resolve(&method.parse().unwrap(), &path).unwrap();
            assert_eq!(template(route.label()), pattern);
        }
        assert_eq!(template(Route::Nothing.label()), "");
    }

    #[test]
    fn every_path_of_the_contract_has_its_route() {
        use Route::*;
        check(Method::GET, "/", Ok(Page(super::Page::Servers)));
        check(Method::HEAD, "/servers", Ok(Page(super::Page::Servers)));
        check(Method::GET, "/tools", Ok(Page(super::Page::Tools)));
        check(Method::GET, "/tenants", Ok(Page(super::Page::Tenants)));
        check(Method::GET, "/openapi.json", Ok(Page(super::Page::OpenApi)));
        check(Method::GET, "/health", Ok(Page(super::Page::Health)));
        check(Method::POST, "/refresh", Ok(Page(super::Page::Refresh)));
        check(Method::GET, "/refresh", Ok(OtherMethod("POST")));
        check(Method::GET, "/github", Ok(ServerPage(super::Page::Server, "github")));
        check(Method::GET, "/github/openapi.json", Ok(ServerPage(super::Page::ServerOpenApi, "github")));
        check(Method::POST, "/github/search", Ok(Call { server: "github", tool: "search" }));
        check(Method::POST, "/github/openapi.json", Ok(Call { server: "github", tool: "openapi.json" }));
        check(Method::POST, "/github/dot.name", Ok(Call { server: "github", tool: "dot.name" }));
        check(Method::POST, "/github_search", Ok(LegacyCall("github_search")));
        check(Method::POST, "/github", Ok(OtherMethod("GET, HEAD")));
        check(Method::GET, "/github/search", Ok(OtherMethod("POST")));
        check(Method::POST, "/health", Ok(OtherMethod("GET, HEAD")));
        for method in [Method::POST, Method::GET, Method::DELETE] {
            check(method, "/github/mcp", Ok(Native("github")));
        }
        check(Method::PUT, "/github/mcp", Ok(OtherMethod("GET, POST, DELETE")));
        check(Method::POST, "/meta/search_tools", Ok(Page(super::Page::MetaSearch)));
        check(Method::POST, "/meta/describe_tools", Ok(Page(super::Page::MetaDescribe)));
        check(Method::POST, "/meta/call_tool", Ok(Page(super::Page::MetaCall)));
        check(Method::HEAD, "/meta/stats", Ok(Page(super::Page::MetaStats)));
        check(Method::POST, "/meta/stats", Ok(OtherMethod("GET, HEAD")));
        check(Method::GET, "/meta/call_tool", Ok(OtherMethod("POST")));
        check(Method::POST, "/meta/search", Ok(Call { server: "meta", tool: "search" }));
        for method in [Method::POST, Method::GET, Method::DELETE] {
            check(method, "/mcp", Ok(Aggregate));
        }
        check(Method::PUT, "/mcp", Ok(OtherMethod("GET, POST, DELETE")));
        check(Method::POST, "/a/b/c", Ok(Nothing));
    }

    #[test]
    fn metadata_is_where_the_path_of_an_mcp_endpoint_follows() {
        let metadata = Ok(Route::Page(Page::ProtectedResource));
        for path in ["", "/mcp", "/github/mcp", "/no-such-server/mcp"] {
            let path = &format!("{PROTECTED_RESOURCE}{path}");
            check(Method::GET, path, metadata);
            check(Method::HEAD, path, metadata);
            check(Method::OPTIONS, path, metadata);
            check(Method::POST, path, Ok(Route::OtherMethod("GET, HEAD")));
        }
        check(Method::GET, &format!("{PROTECTED_RESOURCE}/github"), Ok(Route::Nothing));
        check(Method::GET, &format!("{PROTECTED_RESOURCE}/a/b/mcp"), Ok(Route::Nothing));
        check(Method::GET, &format!("{PROTECTED_RESOURCE}x/mcp"), Ok(Route::Nothing));
        check(Method::GET, &format!("{PROTECTED_RESOURCE}/github/mcp/"), Err(Code::NotFound));
        check(Method::GET, &format!("{PROTECTED_RESOURCE}/../mcp"), Err(Code::BadPath));
    }

    #[test]
    fn an_authorization_server_is_asked_where_its_clients_look() {
        let page = |page| Ok(Route::Page(page));
        for (path, found) in [
            ("/.well-known/oauth-authorization-server", Page::AuthorizationServer),
            ("/.well-known/openid-configuration", Page::OpenIdConfiguration),
        ] {
            for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
                check(method, path, page(found));
            }
            check(Method::POST, path, Ok(Route::OtherMethod("GET, HEAD")));
            for method in [Method::GET, Method::POST] {
                check(method, &format!("{path}/github/mcp"), Err(Code::NotFound));
            }
        }
        check(Method::GET, "/github/mcp/.well-known/openid-configuration", Err(Code::NotFound));
        check(Method::GET, "/.well-known/openid-configurations", Ok(Route::OtherMethod("POST")));
        check(Method::GET, "/oauth/authorize", page(Page::OAuthAuthorize));
        check(Method::POST, "/oauth/authorize", Ok(Route::OtherMethod("GET, HEAD")));
        for (path, found) in [("/oauth/token", Page::OAuthToken), ("/oauth/register", Page::OAuthRegister)] {
            check(Method::POST, path, page(found));
            check(Method::OPTIONS, path, page(found));
            check(Method::GET, path, Ok(Route::OtherMethod("POST")));
        }
        check(Method::POST, "/oauth/anything", Ok(Route::Call { server: "oauth", tool: "anything" }));
    }

    #[test]
    fn paths_that_two_parsers_could_read_differently_are_refused() {
        for path in [
            "",
            "x",
            "*",
            "/a/../b",
            "/..",
            "/.",
            "/a/.",
            "//",
            "//a",
            "/a//b",
            "/a/b//",
            "/a%2fb",
            "/%2e%2e/a",
            "/a\\b",
            "/a;b",
            "/a\0b",
            "/a b",
            "/caf\u{e9}",
            "/a/...",
            "/a:b",
            "/a?b",
            "/a#b",
        ] {
            check(Method::POST, path, Err(Code::BadPath));
        }
        check(Method::POST, "/github/search/", Err(Code::NotFound));
        check(Method::GET, "/servers/", Err(Code::NotFound));
    }

    #[test]
    fn a_legacy_name_is_read_with_the_longest_server_first() {
        let readings: Vec<_> = legacy_readings("_a_b_c_").collect();
        assert_eq!(readings, [("_a_b", "c_"), ("_a", "b_c_")]);
    }

    proptest! {
        #[test]
        fn whatever_is_routed_holds_only_plain_segments(path in ".{0,40}", post in any::<bool>()) {
            let method = if post { Method::POST } else { Method::GET };
            if let Ok(Route::Call { server, tool }) = resolve(&method, &path) {
                for segment in [server, tool] {
                    prop_assert!(!segment.is_empty() && !segment.contains(['/', '%', '\\', '\0']));
                    prop_assert!(segment != "." && segment != "..");
                }
                prop_assert_eq!(format!("/{server}/{tool}"), path);
            }
        }

        #[test]
        fn paths_of_plain_segments_are_never_ill_formed(path in "(/[a-z0-9_-][A-Za-z0-9._-]{0,9}){1,4}") {
            prop_assert!(resolve(&Method::POST, &path).is_ok());
        }
    }
}
