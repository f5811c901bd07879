//! Microsoft Graph's word on who is in which group, page by page.

use serde_json::json;

use super::{
    Asked, Page, State,
    answers::{Reply, parameter},
};

fn refuse(status: u16, code: &str) -> Reply {
    Reply::json(status, &json!({"error": {"code": code, "message": "refused", "innerError": {}}}))
}

/// A page of a user's groups. The first is asked for with POST; what follows is at the address it named.
pub fn groups(state: &State, base: &str, asked: &Asked) -> Reply {
    let token = asked.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    let Some(owner) = token.and_then(|token| state.sign_in.graph_tokens.get(token)) else {
        return refuse(401, "InvalidAuthenticationToken");
    };
    let oid = match (asked.page, owner) {
        (Page::MyGroups, Some(oid)) => oid.as_str(),
        (Page::UserGroups, None) => asked.bare_path().split('/').nth(3).unwrap_or_default(),
        _ => return refuse(403, "Authorization_RequestDenied"),
    };
    let query = asked.query();
    let from: usize = match parameter(&query, "$skiptoken") {
        Some(token) => token.parse().unwrap_or(usize::MAX),
        None if asked.method != "POST" => return refuse(405, "Request_BadRequest"),
        None => match serde_json::from_str::<serde_json::Value>(&asked.body) {
            Ok(body) if body["securityEnabledOnly"].is_boolean() => 0,
            _ => return refuse(400, "Request_BadRequest"),
        },
    };
    let Some(user) = state.users.iter().find(|user| user.oid == oid) else {
        return refuse(404, "Request_ResourceNotFound");
    };
    let page: Vec<_> = user.groups.iter().skip(from).take(state.page_size).collect();
    let mut answer =
        json!({"@odata.context": format!("{base}/v1.0/$metadata#Collection(Edm.String)"), "value": page});
    let next = from.saturating_add(page.len());
    if next < user.groups.len() {
        answer["@odata.nextLink"] = format!("{base}{}?$skiptoken={next}", asked.bare_path()).into();
    }
    Reply::json(200, &answer)
}
