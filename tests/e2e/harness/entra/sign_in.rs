//! Signing in: codes, refresh tokens, apps for themselves, and assertions on a user's behalf.
//!
//! Checks what Entra checks. Whoever comes is approved at once: the user that `login_hint` names, or the first one.

use std::collections::HashMap;

use aws_lc_rs::digest;
use serde_json::{Value, json};

use super::{
    API, Asked, HOME, Provider, State, User,
    answers::{Reply, parameter},
    keys::base64url,
    lock,
};

/// What was given out and may come back.
#[derive(Default)]
pub struct Memory {
    codes: HashMap<String, Code>,
    refresh_tokens: HashMap<String, (String, String)>,
    /// Tokens for Graph, and whose groups they may ask for: nobody's in particular is everybody's.
    pub graph_tokens: HashMap<String, Option<String>>,
}

struct Code {
    client: String,
    redirect_uri: String,
    challenge: Option<String>,
    scope: String,
    nonce: Option<String>,
    oid: String,
}

fn secret(kind: &str) -> String {
    format!("{kind}.{}", uuid::Uuid::now_v7().simple())
}

/// Whether a client may ask to be sent back there.
fn may_return_to(listed: &[String], asked: &str) -> bool {
    listed.iter().any(|listed| listed == asked || same_loopback(listed, asked))
}

fn same_loopback(listed: &str, asked: &str) -> bool {
    let parse = |text: &str| url::Url::parse(text).ok().filter(|url| url.scheme() == "http");
    let (Some(listed), Some(asked)) = (parse(listed), parse(asked)) else { return false };
    let host = listed.host_str();
    matches!(host, Some("localhost" | "127.0.0.1"))
        && host == asked.host_str()
        && listed.path() == asked.path()
}

/// The way back of a code, or the page that a browser stays on.
pub fn authorize(state: &mut State, asked: &Asked) -> Reply {
    let query = if asked.method == "POST" { asked.form() } else { asked.query() };
    let get = |name| parameter(&query, name);
    let client = state.clients.iter().find(|client| get("client_id") == Some(&client.id));
    let Some(client) = client else {
        return Reply::error("unauthorized_client", 700016, "Application was not found in the directory.");
    };
    let Some(redirect_uri) = get("redirect_uri").filter(|uri| may_return_to(&client.redirect_uris, uri))
    else {
        return Reply::error("invalid_request", 50011, "The redirect URI does not match those configured.");
    };
    let back = |answer: &[(&str, &str)]| {
        let mut location = url::Url::parse(redirect_uri).unwrap();
        location.query_pairs_mut().extend_pairs(answer);
        if let Some(state) = get("state") {
            location.query_pairs_mut().append_pair("state", state);
        }
        Reply::redirect(location.into())
    };
    let refuse =
        |error: &str, description: &str| back(&[("error", error), ("error_description", description)]);
    if state.gaps.rejects_resource && query.iter().any(|(name, _)| name == "resource") {
        let sentence = "AADSTS9010010: The resource parameter provided in the request doesn't match with the \
            requested scopes.";
        return refuse("invalid_target", sentence);
    }
    if get("response_type") != Some("code") {
        return refuse("unsupported_response_type", "AADSTS700054: response_type must be code.");
    }
    let Some(scope) = get("scope").filter(|scope| !scope.trim().is_empty()) else {
        return refuse("invalid_request", "AADSTS900144: The request must contain 'scope'.");
    };
    let challenge = get("code_challenge").map(str::to_owned);
    if challenge.is_some() && get("code_challenge_method") != Some("S256") {
        return refuse("invalid_request", "AADSTS501491: Invalid code challenge method.");
    }
    let user = match get("login_hint") {
        Some(hint) => state.users.iter().find(|user| user.email == hint),
        None => state.users.first(),
    };
    let Some(user) = user else { return refuse("access_denied", "AADSTS50105: nobody signed in.") };
    let code = secret("1.code");
    let given = Code {
        client: client.id.clone(),
        redirect_uri: redirect_uri.to_owned(),
        challenge,
        scope: scope.to_owned(),
        nonce: get("nonce").map(str::to_owned),
        oid: user.oid.clone(),
    };
    let reply = back(&[("code", &code), ("session_state", "0")]);
    state.sign_in.codes.insert(code, given);
    reply
}

/// A token, or why not.
pub fn token(provider: &Provider, asked: &Asked) -> Reply {
    let form = asked.form();
    let is_form = asked
        .header("content-type")
        .is_some_and(|value| value.starts_with("application/x-www-form-urlencoded"));
    if asked.method != "POST" || !is_form {
        return Reply::error("invalid_request", 900144, "The request body must be a form.");
    }
    if asked.header("origin").is_some() {
        let sentence = "Cross-origin token redemption is permitted only for 'Single-Page Application'.";
        return Reply::error("invalid_request", 9002326, sentence);
    }
    let state = lock(&provider.state);
    if state.gaps.rejects_resource && form.iter().any(|(name, _)| name == "resource") {
        let sentence =
            "The resource parameter provided in the request doesn't match with the requested scopes.";
        return Reply::error("invalid_target", 9010010, sentence);
    }
    let client = state.clients.iter().find(|client| parameter(&form, "client_id") == Some(&client.id));
    let Some(client) = client.cloned() else {
        return Reply::error("unauthorized_client", 700016, "Application was not found in the directory.");
    };
    if client.secret.as_deref() != parameter(&form, "client_secret") {
        return Reply::error("invalid_client", 7000215, "Invalid client secret provided.").unauthorized();
    }
    drop(state);
    let reply = match parameter(&form, "grant_type") {
        Some("authorization_code") => redeem(provider, &client.id, &form),
        Some("refresh_token") => renew(provider, &client.id, &form),
        Some("client_credentials") => for_itself(provider, &form),
        Some("urn:ietf:params:oauth:grant-type:jwt-bearer") => on_behalf(provider, &form),
        _ => Reply::error("unsupported_grant_type", 70003, "The grant type is not supported."),
    };
    reply.with("cache-control", "no-store, no-cache").with("pragma", "no-cache")
}

impl Reply {
    fn unauthorized(self) -> Self {
        Self { status: 401, ..self }
    }
}

type Form = [(String, String)];

fn redeem(provider: &Provider, client: &str, form: &Form) -> Reply {
    let code = parameter(form, "code").and_then(|code| lock(&provider.state).sign_in.codes.remove(code));
    let Some(code) = code.filter(|code| code.client == client) else {
        return Reply::error(
            "invalid_grant",
            70008,
            "The provided authorization code is expired or unknown.",
        );
    };
    if parameter(form, "redirect_uri") != Some(&code.redirect_uri) {
        return Reply::error("invalid_grant", 500112, "The reply address does not match.");
    }
    let shown = parameter(form, "code_verifier")
        .map(|verifier| base64url(digest::digest(&digest::SHA256, verifier.as_bytes())));
    if shown != code.challenge {
        return Reply::error("invalid_grant", 501481, "The Code_Verifier does not match the code_challenge.");
    }
    tokens(provider, client, &code.oid, &code.scope, code.nonce)
}

fn renew(provider: &Provider, client: &str, form: &Form) -> Reply {
    let known = parameter(form, "refresh_token")
        .and_then(|token| lock(&provider.state).sign_in.refresh_tokens.remove(token));
    let Some((oid, scope)) = known else {
        return Reply::error("invalid_grant", 70000, "The refresh token is not valid.");
    };
    tokens(provider, client, &oid, &scope, None)
}

fn tokens(provider: &Provider, client: &str, oid: &str, scope: &str, nonce: Option<String>) -> Reply {
    let user = lock(&provider.state).users.iter().find(|user| user.oid == oid).cloned();
    let Some(user) = user else {
        return Reply::error("invalid_grant", 50034, "The user account does not exist.");
    };
    let scopes: Vec<_> = scope.split_whitespace().collect();
    let own = format!("api://{API}/");
    let asked: Vec<_> = scopes.iter().filter_map(|scope| scope.strip_prefix(&own)).collect();
    let mut answer =
        json!({"token_type": "Bearer", "scope": scope, "expires_in": 3599, "ext_expires_in": 3599});
    // Without a scope of the API the token is for Graph, which nobody else can read.
    answer["access_token"] = if asked.is_empty() {
        format!("opaque-graph-token-of-{oid}").into()
    } else {
        let version = lock(&provider.state).token_version;
        let minted = if version == 1 { provider.token_v1(&user) } else { provider.token(&user) };
        let scp = if asked.contains(&".default") { "Tools.Call".to_owned() } else { asked.join(" ") };
        let azp = if minted.claims.contains_key("appid") { "appid" } else { "azp" };
        minted.claim("scp", scp).claim(azp, client).sign().into()
    };
    if scopes.contains(&"openid") {
        let id_token = provider.id_token(&user).claim("aud", client);
        answer["id_token"] =
            nonce.into_iter().fold(id_token, |token, nonce| token.claim("nonce", nonce)).sign().into();
    }
    if scopes.contains(&"offline_access") {
        let refresh_token = secret("1.refresh");
        answer["refresh_token"] = refresh_token.as_str().into();
        let state = &mut lock(&provider.state).sign_in;
        state.refresh_tokens.insert(refresh_token, (oid.to_owned(), scope.to_owned()));
    }
    Reply::json(200, &answer)
}

fn graph_token(provider: &Provider, oid: Option<String>) -> Reply {
    let token = secret("graph");
    lock(&provider.state).sign_in.graph_tokens.insert(token.clone(), oid);
    Reply::json(200, &json!({"token_type": "Bearer", "expires_in": 3599, "access_token": token}))
}

/// Scopes of Graph stand at its own address here.
fn is_for_graph(form: &Form) -> bool {
    parameter(form, "scope").is_some_and(|scope| {
        scope.split(' ').any(|scope| scope.ends_with("/.default") || scope.contains("GroupMember.Read.All"))
    })
}

fn for_itself(provider: &Provider, form: &Form) -> Reply {
    if !is_for_graph(form) {
        return Reply::error("invalid_scope", 1002012, "The scope must end in /.default.");
    }
    graph_token(provider, None)
}

fn on_behalf(provider: &Provider, form: &Form) -> Reply {
    if parameter(form, "requested_token_use") != Some("on_behalf_of") || !is_for_graph(form) {
        return Reply::error("invalid_request", 900144, "The request lacks a parameter of on_behalf_of.");
    }
    let claims = parameter(form, "assertion").and_then(|token| believed(provider, token));
    let Some(user) = claims.and_then(|claims| whose(provider, &claims)) else {
        return Reply::error("invalid_grant", 50013, "Assertion failed signature validation.");
    };
    graph_token(provider, Some(user.oid))
}

fn whose(provider: &Provider, claims: &Value) -> Option<User> {
    let oid = claims["oid"].as_str()?;
    lock(&provider.state).users.iter().find(|user| user.oid == oid).cloned()
}

/// The claims of a token that was signed here for the gateway.
fn believed(provider: &Provider, token: &str) -> Option<Value> {
    let header = jsonwebtoken::decode_header(token).ok()?;
    let published = lock(&provider.state).published.clone();
    let key = published.into_iter().find(|key| key["kid"].as_str() == header.kid.as_deref())?;
    let key = jsonwebtoken::DecodingKey::from_jwk(&serde_json::from_value(key).ok()?).ok()?;
    let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::RS256);
    validation.set_audience(&[API.to_owned(), format!("api://{API}")]);
    validation.set_issuer(&[provider.issuer(HOME), super::minted::issuer_v1(HOME)]);
    Some(jsonwebtoken::decode::<Value>(token, &key, &validation).ok()?.claims)
}
