//! The specification a caller is given: theirs alone, valid, and cheap to ask for again.

use std::{collections::BTreeMap, io::Read};

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{
    fake_peer::{Behaviour, FakePeer},
    gateway::Gateway,
    grants::{CALLER, Grants, STRANGER},
    tokens::email_token,
    wire::answer,
};

/// A document as mcpo writes them: every server names the schema of its `search` alike.
fn document(argument: &str, description: &str) -> Behaviour {
    let form = json!({"$ref": "#/components/schemas/search_form_model"});
    let operation = json!({
        "operationId": "tool_search_post", "summary": "Search", "description": description,
        "requestBody": {"required": true, "content": {"application/json": {"schema": form}}},
        "responses": {"200": {"description": "Successful Response",
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Answer"}}}}},
    });
    let mut fields = json!({"within": {"$ref": "#/components/schemas/search_form_model"}});
    fields[argument] = json!({"type": "string"});
    let schemas = json!({
        "search_form_model": {"type": "object", "properties": fields, "required": [argument]},
        "Answer": {"type": "array", "items": {"$ref": "#/components/schemas/Hit"}},
        "Hit": {"type": "object", "properties": {argument: {"type": "integer"}}},
        "Unused": {"type": "string", "description": "never referred to"},
    });
    let long = "a_name_that_is_far_too_long_for_a_model_to_be_given_as_the_name_of_a_tool";
    let document = json!({"openapi": "3.1.0", "info": {"title": "t", "version": "1"},
        "paths": {"/search": {"post": operation}, "/dot.name": {"post": operation}, format!("/{long}"): {"post": operation}},
        "components": {"schemas": schemas}});
    Behaviour::Answer(answer("200 OK", "application/json", document.to_string().as_bytes()))
}

/// `alpha` and `beta` are the caller's, `gamma` is not.
async fn start() -> (Gateway, Vec<FakePeer>, Grants) {
    let grants = Grants::of(&["alpha", "beta"]).await;
    let mut setup = grants.setup();
    let mut peers = Vec::new();
    for (id, argument) in [("alpha", "query"), ("beta", "topic"), ("gamma", "secret_argument")] {
        let peer = FakePeer::start().await;
        peer.set("/openapi.json", document(argument, &format!("Searches {id}.")));
        setup = setup.server(id, &peer.url());
        peers.push(peer);
    }
    let gateway = setup.start().await;
    for id in ["alpha", "beta", "gamma"] {
        gateway.knows_tools(id, 3).await;
    }
    (gateway, peers, grants)
}

/// Every `$ref` in `value`, wherever it stands.
fn references(value: &Value) -> Vec<&str> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(key, value)| match (key.as_str(), value) {
                ("$ref", Value::String(target)) => vec![target.as_str()],
                _ => references(value),
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}

/// Operations by path, with all that must hold for any specification checked on the way.
#[track_caller]
pub fn checked_operations(specification: &Value) -> BTreeMap<String, Value> {
    assert_eq!(specification["openapi"], "3.1.0");
    let references = references(specification);
    for reference in references {
        let pointer =
            reference.strip_prefix('#').unwrap_or_else(|| panic!("`{reference}` leads out of the document"));
        assert!(specification.pointer(pointer).is_some(), "`{reference}` leads nowhere");
    }
    let paths = specification["paths"].as_object().unwrap();
    let mut ids = Vec::new();
    for (path, item) in paths {
        assert_eq!(item.as_object().unwrap().keys().collect::<Vec<_>>(), ["post"], "{path}");
        let id = item["post"]["operationId"].as_str().unwrap();
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        assert!((1..=64).contains(&id.len()) && id.bytes().all(is_plain), "operationId `{id}` of {path}");
        ids.push(id);
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), paths.len(), "two operations share an id");
    paths.iter().map(|(path, item)| (path.clone(), item["post"].clone())).collect()
}

#[tokio::test]
async fn the_specification_has_exactly_the_caller_s_tools_with_their_own_schemas() {
    let (gateway, _peers, _grants) = start().await;
    let specification = gateway.get("/openapi.json", &email_token(CALLER)).await.json();
    let operations = checked_operations(&specification);
    assert_eq!(operations.len(), 6, "{:?}", operations.keys());
    for (id, argument) in [("alpha", "query"), ("beta", "topic")] {
        let search = &operations[&format!("/{id}/search")];
        assert_eq!(search["operationId"], format!("{id}_search"));
        assert_eq!(search["description"], format!("Searches {id}."));
        let reference =
            search["requestBody"]["content"]["application/json"]["schema"]["$ref"].as_str().unwrap();
        let schema = specification.pointer(&reference[1..]).unwrap();
        assert_eq!(schema["required"], json!([argument]), "the schema of {id} is another server's");
    }
    let text = specification.to_string();
    assert!(!text.contains("gamma") && !text.contains("secret_argument"), "{text}");

    let none = gateway.get("/openapi.json", &email_token(STRANGER)).await.json();
    assert_eq!(none["paths"], json!({}));
}

#[tokio::test]
async fn one_server_s_specification_is_called_below_its_own_address() {
    let (gateway, peers, _grants) = start().await;
    peers[1].set("/search", Behaviour::Answer(answer("200 OK", "application/json", b"[]")));
    let specification = gateway.get("/beta/openapi.json", &email_token(CALLER)).await.json();
    let operations = checked_operations(&specification);
    assert_eq!(operations.len(), 3);
    assert_eq!(operations["/search"]["operationId"], "beta_search");
    let base = specification["servers"][0]["url"].as_str().unwrap();
    let called = gateway.call(&format!("{base}/search"), &email_token(CALLER), &json!({})).await;
    assert_eq!(called.status.as_u16(), 200, "the documented address {base} is not one");
    assert!(!specification.to_string().contains("alpha"));
}

#[tokio::test]
async fn a_specification_seen_before_is_not_sent_again() {
    let (gateway, peers, _grants) = start().await;
    let token = email_token(CALLER);
    let first = gateway.get("/openapi.json", &token).await;
    let etag = first.header("etag").unwrap().to_owned();
    let again = async |value: &str| {
        let request = gateway.request(Method::GET, "/openapi.json").bearer_auth(&token);
        gateway.send(request.header("if-none-match", value)).await
    };
    for value in [
        etag.clone(),
        format!("\"other\", {etag}"),
        format!("W/{}", etag.trim_start_matches("W/")),
        "*".into(),
    ] {
        let unchanged = again(&value).await;
        assert_eq!((unchanged.status.as_u16(), unchanged.body.len()), (304, 0), "If-None-Match: {value}");
        assert_eq!(unchanged.header("etag"), Some(etag.as_str()));
    }
    assert_eq!(again("\"other\"").await.status.as_u16(), 200);

    let strangers = gateway.request(Method::GET, "/openapi.json").bearer_auth(email_token(STRANGER));
    let strangers = gateway.send(strangers.header("if-none-match", &etag)).await;
    assert_eq!(strangers.status.as_u16(), 200, "the same tag for other tools");

    peers[0].set("/openapi.json", document("other_argument", "Has changed."));
    let admin = email_token(crate::harness::grants::ADMIN);
    assert_eq!(gateway.call("/refresh", &admin, &json!({})).await.status.as_u16(), 202);
    crate::harness::deadline::until("the changed specification", || async {
        (again(&etag).await.status.as_u16() == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_packed_specification_unpacks_to_the_plain_one() {
    let (gateway, _peers, _grants) = start().await;
    let token = email_token(CALLER);
    let ask = async |accepted: &str| {
        let request = gateway.request(Method::GET, "/openapi.json").bearer_auth(&token);
        gateway.send(request.header("accept-encoding", accepted)).await
    };
    let plain = ask("identity").await;
    assert_eq!(plain.header("content-encoding"), None);
    let gzip = ask("gzip, deflate").await;
    assert_eq!(gzip.header("content-encoding"), Some("gzip"));
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(&*gzip.body).read_to_end(&mut unpacked).unwrap();
    assert_eq!(unpacked, plain.body);
    let brotli = ask("gzip, deflate, br").await;
    assert_eq!(brotli.header("content-encoding"), Some("br"));
    let mut unpacked = Vec::new();
    brotli::Decompressor::new(&*brotli.body, 4096).read_to_end(&mut unpacked).unwrap();
    assert_eq!(unpacked, plain.body);
    assert!(brotli.body.len() < plain.body.len() && gzip.body.len() < plain.body.len());
    let vary = plain.header("vary").unwrap().to_lowercase();
    assert!(vary.contains("accept-encoding") && vary.contains("authorization"), "{vary}");
}
