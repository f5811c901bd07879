//! What is read from servers that do as they should, and from those that do not: peers of a few lines, over real sockets.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{
    catalog::server::{CredentialHeader, Dialect, PeerUrl, ProtocolVersion, tests_support::server},
    client,
    names::Secret,
};

/// A server that answers each request, told its credential and its message, with a result or an error.
async fn peer(script: impl Fn(&str, &Value) -> Result<Value, i32> + Send + Sync + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = Arc::new(script);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let script = script.clone();
            tokio::spawn(async move { serve(stream, &*script).await });
        }
    });
    let url = PeerUrl { is_tls: false, host: "127.0.0.1".into(), port, base_path: "/mcp".into() };
    Server {
        dialect: Dialect::Mcp,
        mcp_versions: Some([ProtocolVersion::V2026_07_28].into()),
        peers: [url].into(),
        ..Server::clone(&server("s"))
    }
}

async fn serve(
    stream: TcpStream,
    script: &(impl Fn(&str, &Value) -> Result<Value, i32> + ?Sized),
) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut length, mut credential) = (0, String::new());
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.ok()? == 0 {
                return None;
            }
            let line = line.trim().to_ascii_lowercase();
            match line.split_once(": ") {
                Some(("content-length", value)) => length = value.parse().ok()?,
                Some(("authorization", value)) => credential = value.to_owned(),
                _ if line.is_empty() => break,
                _ => {}
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.ok()?;
        let message: Value = serde_json::from_slice(&body).ok()?;
        let mut answer = json!({"jsonrpc": "2.0", "id": message["id"]});
        match script(&credential, &message) {
            Ok(result) => answer["result"] = result,
            Err(code) => answer["error"] = json!({"code": code, "message": "no"}),
        }
        let (answer, status) = (answer.to_string(), "HTTP/1.1 200 OK\r\ncontent-type: application/json");
        let head = format!("{status}\r\ncontent-length: {}\r\n\r\n", answer.len());
        stream.write_all(format!("{head}{answer}").as_bytes()).await.ok()?;
    }
}

fn introduction(scope: &str) -> Value {
    json!({"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}, "prompts": {}},
        "serverInfo": {"name": "s", "version": "1"}, "ttlMs": 0, "cacheScope": scope})
}

fn tools(names: &[&str]) -> Value {
    let tools = names.iter().map(|name| json!({"name": name, "inputSchema": {"type": "object"}}));
    json!({"resultType": "complete", "tools": tools.collect::<Value>(), "ttlMs": 5000, "cacheScope": "public"})
}

fn prompts(name: &str, scope: &str) -> Value {
    json!({"resultType": "complete", "prompts": [{"name": name}], "ttlMs": 70, "cacheScope": scope})
}

async fn found(server: Server, known: Option<&Offers>) -> anyhow::Result<Found> {
    crate::app::install_crypto();
    let settings =
        Settings { refresh: Duration::from_secs(1), deadline: Duration::from_secs(5), max_bytes: 4096 };
    read(&Client::new(client::Settings { max_answer_bytes: 4096 }), &Arc::new(server), &settings, known).await
}

fn names(found: &Found) -> (Vec<&str>, Vec<&str>) {
    let prompts = found.offers.prompts.iter().map(|prompt| prompt.key.as_str());
    (found.tools.iter().map(|tool| tool.name.as_str()).collect(), prompts.collect())
}

#[tokio::test]
async fn every_page_is_read_and_the_shortest_time_holds() {
    let server = peer(|_, message| match message["method"].as_str().unwrap() {
        "server/discover" => Ok(introduction("public")),
        "prompts/list" => Ok(prompts("p", "public")),
        _ => match message["params"]["cursor"].as_str() {
            None => Ok(json!({"nextCursor": "", "tools": tools(&["b"])["tools"], "ttlMs": 9, "cacheScope": "public"})),
            Some("") => Ok(json!({"nextCursor": "2", "tools": [], "ttlMs": 9, "cacheScope": "public"})),
            Some(_) => Ok(tools(&["a"])),
        },
    })
    .await;
    let found = found(server, None).await.unwrap();
    assert_eq!(names(&found), (vec!["a", "b"], vec!["p"]));
    let about = &found.offers.about;
    assert_eq!((about.ttl_ms, about.is_public, about.is_stale, about.is_modern), (9, true, false, true));
    assert_eq!(about.versions, ["2026-07-28"]);
}

#[tokio::test]
async fn pages_without_end_are_no_list() {
    for (page, reason) in [
        (json!({"tools": [], "nextCursor": "again"}), "go round in a circle"),
        (json!({"tools": [], "nextCursor": "x", "x": "y".repeat(3000)}), "larger than 4096 bytes"),
    ] {
        let server = peer(move |_, message| match message["method"].as_str().unwrap() {
            "server/discover" => Ok(introduction("public")),
            _ => {
                let mut page = page.clone();
                // Another cursor each time, where it is not the circle that is looked at.
                if let (Some(before), true) = (message["params"]["cursor"].as_str(), page["x"].is_string()) {
                    page["nextCursor"] = format!("{before}x").into();
                }
                Ok(page)
            }
        })
        .await;
        let error = format!("{:#}", found(server, None).await.unwrap_err());
        assert!(error.contains(reason), "{error}");
    }
}

#[tokio::test]
async fn what_a_server_keeps_private_is_read_with_the_credential_for_calls() {
    let credential = |value: &'static str| {
        let value = Secret::new(http::HeaderValue::from_static(value));
        Some(CredentialHeader { name: http::header::AUTHORIZATION, value })
    };
    let server = peer(|credential, message| match message["method"].as_str().unwrap() {
        "server/discover" => Ok(introduction("public")),
        "prompts/list" => Ok(prompts(credential, "private")),
        _ => Ok(tools(&[credential])),
    })
    .await;
    let server =
        Server { credential: credential("call"), discovery_credential: credential("list"), ..server };
    let apart = found(server.clone(), None).await.unwrap();
    assert_eq!(names(&apart), (vec!["list"], vec!["call"]));
    assert!(!apart.offers.about.is_public);
    let alike = found(Server { discovery_credential: None, ..server }, None).await.unwrap();
    assert_eq!(names(&alike), (vec!["call"], vec!["call"]));
}

#[tokio::test]
async fn a_list_that_cannot_be_read_stays_and_says_so_and_one_that_is_missing_is_empty() {
    let script = |prompts_answer: Result<Value, i32>| {
        move |_: &str, message: &Value| match message["method"].as_str().unwrap() {
            "server/discover" => Ok(introduction("public")),
            "prompts/list" => prompts_answer.clone(),
            _ => Ok(tools(&["t"])),
        }
    };
    let before = found(peer(script(Ok(prompts("p", "public")))).await, None).await.unwrap().offers;
    let failing = found(peer(script(Err(-32603))).await, Some(&before)).await.unwrap();
    assert_eq!(names(&failing), (vec!["t"], vec!["p"]));
    assert!(failing.offers.about.is_stale);
    assert_eq!(failing.troubles, ["`prompts/list`: the server answered with error -32603"]);
    let missing = found(peer(script(Err(-32601))).await, Some(&before)).await.unwrap();
    assert_eq!(names(&missing), (vec!["t"], vec![]));
    assert!(!missing.offers.about.is_stale && missing.troubles.is_empty());
}

#[track_caller]
fn check(pages: &[&str], is_modern: bool, expected: (u64, bool, bool)) {
    let pages: Vec<String> = pages.iter().map(|page| (*page).to_owned()).collect();
    let Hints { ttl_ms, is_public, is_private } = Hints::of(&pages, is_modern);
    assert_eq!((ttl_ms, is_public, is_private), expected, "{pages:?}");
}

#[test]
fn of_several_pages_the_shortest_time_and_the_narrowest_scope_hold() {
    let public = r#"{"ttlMs":500,"cacheScope":"public"}"#;
    check(&[public], true, (500, true, false));
    check(&[public, r#"{"ttlMs":20,"cacheScope":"public"}"#], true, (20, true, false));
    check(&[public, r#"{"ttlMs":900,"cacheScope":"private"}"#], true, (500, false, true));
    check(&[public, "{}"], true, (0, false, true));
    check(&[r#"{"ttlMs":-1,"cacheScope":"PUBLIC"}"#], true, (0, false, true));
    check(&["{}"], false, (0, false, false));
    check(&[], true, (0, false, false));
}

#[test]
fn a_server_is_what_it_says_about_itself() {
    let spoken = |is_modern, result: &str| Spoken { is_modern, version: "v".into(), result: result.into() };
    let said = about(&spoken(
        true,
        r#"{"supportedVersions":["a","b"],"capabilities":{"prompts":{}},"instructions":"Read","serverInfo":{"name":"n"}}"#,
    ))
    .unwrap();
    assert_eq!(
        (said.versions, said.capabilities),
        (vec!["a".to_owned(), "b".to_owned()], r#"{"prompts":{}}"#.to_owned())
    );
    assert_eq!((said.instructions.as_deref(), said.info.as_deref()), (Some("Read"), Some(r#"{"name":"n"}"#)));
    let silent =
        about(&spoken(false, r#"{"capabilities":[],"instructions":7,"supportedVersions":["a"]}"#)).unwrap();
    assert!(silent.instructions.is_none() && silent.info.is_none() && !silent.has_capability("prompts"));
    assert_eq!((silent.versions, silent.capabilities.as_str()), (vec!["v".to_owned()], "{}"));

    assert!(about(&spoken(false, "[]")).is_err());
}
