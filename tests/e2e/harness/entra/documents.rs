//! Discovery documents and keys, as Entra writes them.

use serde_json::{Value, json};

use super::{Asked, CONSUMERS, HOME, PARTNER, Page, STRANGER, State, answers::Reply, minted::issuer_v1};

/// What stands at a path.
pub fn page(path: &str) -> Page {
    let segments: Vec<_> = path.trim_start_matches('/').split('/').collect();
    match &segments[..] {
        [_, "v2.0", ".well-known", "openid-configuration"] => Page::Configuration,
        [_, ".well-known", "openid-configuration"] => Page::ConfigurationV1,
        [_, "discovery", "v2.0", "keys"] => Page::Keys,
        [_, "discovery", "keys"] => Page::KeysV1,
        [_, "oauth2", "v2.0", "authorize"] | [_, "oauth2", "authorize"] => Page::Authorize,
        [_, "oauth2", "v2.0", "token"] | [_, "oauth2", "token"] => Page::Token,
        ["v1.0", "me", "getMemberObjects"] => Page::MyGroups,
        ["v1.0", "users", _, "getMemberObjects"] => Page::UserGroups,
        _ => Page::Elsewhere,
    }
}

fn tenant(asked: &Asked) -> Option<&str> {
    let tenant = asked.bare_path().trim_start_matches('/').split('/').next()?;
    [HOME, PARTNER, STRANGER, CONSUMERS, "common", "organizations"].contains(&tenant).then_some(tenant)
}

/// How the issuer is spelled for a tenant; documents for any tenant have a place to fill in.
fn tenant_of_issuer(tenant: &str) -> &str {
    if tenant == "common" || tenant == "organizations" { "{tenantid}" } else { tenant }
}

pub fn configuration(state: &State, base: &str, asked: &Asked) -> Reply {
    let Some(tenant) = tenant(asked) else { return unknown_tenant() };
    if asked.page == Page::ConfigurationV1 {
        return cached(state, Reply::json(200, &configuration_v1(base, tenant)));
    }
    let of = tenant_of_issuer(tenant);
    let mut document = json!({
        "token_endpoint": format!("{base}/{tenant}/oauth2/v2.0/token"),
        "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt", "client_secret_basic"],
        "jwks_uri": format!("{base}/{tenant}/discovery/v2.0/keys"),
        "response_modes_supported": ["query", "fragment", "form_post"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
        "scopes_supported": ["openid", "profile", "email", "offline_access"],
        "issuer": format!("{base}/{of}/v2.0"),
        "request_uri_parameter_supported": false,
        "userinfo_endpoint": format!("{base}/oidc/userinfo"),
        "authorization_endpoint": format!("{base}/{tenant}/oauth2/v2.0/authorize"),
        "device_authorization_endpoint": format!("{base}/{tenant}/oauth2/v2.0/devicecode"),
        "http_logout_supported": true,
        "frontchannel_logout_supported": true,
        "end_session_endpoint": format!("{base}/{tenant}/oauth2/v2.0/logout"),
        "claims_supported": ["sub", "iss", "aud", "exp", "iat", "auth_time", "acr", "nonce",
            "preferred_username", "name", "tid", "ver", "at_hash", "c_hash", "email"],
        "kerberos_endpoint": format!("{base}/{tenant}/kerberos"),
        "tenant_region_scope": "EU",
        "cloud_instance_name": "microsoftonline.com",
        "cloud_graph_host_name": "graph.windows.net",
        "msgraph_host": "graph.microsoft.com",
        "rbac_url": "https://pas.windows.net",
    });
    if !state.gaps.hides_s256 {
        document["code_challenge_methods_supported"] = json!(["plain", "S256"]);
    }
    if !state.gaps.lacks_registration {
        document["registration_endpoint"] = format!("{base}/{tenant}/register").into();
    }
    cached(state, Reply::json(200, &document))
}

fn configuration_v1(base: &str, tenant: &str) -> Value {
    json!({
        "token_endpoint": format!("{base}/{tenant}/oauth2/token"),
        "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt", "client_secret_basic"],
        "jwks_uri": format!("{base}/{tenant}/discovery/keys"),
        "response_modes_supported": ["query", "fragment", "form_post"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "response_types_supported": ["code", "id_token", "code id_token", "token id_token", "token"],
        "scopes_supported": ["openid"],
        "issuer": issuer_v1(tenant_of_issuer(tenant)),
        "microsoft_multi_refresh_token": true,
        "authorization_endpoint": format!("{base}/{tenant}/oauth2/authorize"),
        "device_authorization_endpoint": format!("{base}/{tenant}/oauth2/devicecode"),
        "end_session_endpoint": format!("{base}/{tenant}/oauth2/logout"),
        "claims_supported": ["sub", "iss", "aud", "exp", "iat", "auth_time", "acr", "amr", "nonce", "email",
            "given_name", "family_name", "nickname"],
        "check_session_iframe": format!("{base}/{tenant}/oauth2/checksession"),
        "userinfo_endpoint": format!("{base}/{tenant}/openid/userinfo"),
        "tenant_region_scope": "EU",
        "cloud_instance_name": "microsoftonline.com",
        "cloud_graph_host_name": "graph.windows.net",
        "msgraph_host": "graph.microsoft.com",
    })
}

pub fn keys(state: &State, base: &str, asked: &Asked) -> Reply {
    let Some(tenant) = tenant(asked) else { return unknown_tenant() };
    let mut published = state.published.clone();
    if asked.page == Page::Keys {
        let issuer = format!("{base}/{}/v2.0", tenant_of_issuer(tenant));
        for key in published.iter_mut().filter_map(Value::as_object_mut) {
            key.entry("issuer").or_insert_with(|| issuer.clone().into());
        }
    }
    cached(state, Reply::json(200, &json!({"keys": published})))
}

fn cached(state: &State, reply: Reply) -> Reply {
    let reply = reply.with("access-control-allow-origin", "*");
    state.cache_control.iter().fold(reply, |reply, value| reply.with("cache-control", value.as_str()))
}

fn unknown_tenant() -> Reply {
    Reply::error("invalid_tenant", 90002, "Tenant not found.")
}

/// What other providers have and Entra has not.
pub fn elsewhere(state: &State, base: &str, asked: &Asked) -> Reply {
    let path = asked.bare_path();
    if !state.gaps.lacks_registration && path.starts_with("/.well-known/oauth-authorization-server/") {
        let configuration = Asked {
            page: Page::Configuration,
            path: path.replace("/.well-known/oauth-authorization-server", ""),
            ..asked.clone()
        };
        return self::configuration(state, base, &configuration);
    }
    if !state.gaps.lacks_registration && path.ends_with("/register") && asked.method == "POST" {
        let mut registered: Value = serde_json::from_str(&asked.body).unwrap_or_default();
        registered["client_id"] = super::CLIENT.into();
        return Reply::json(201, &registered);
    }
    Reply { status: 404, headers: Vec::new(), body: Vec::new() }
}
