//! The same trace on every face: who asked is the parent, and servers have the try that reached them for theirs.

use serde_json::{Value, json};

use super::{Scene, logged};
use crate::{
    harness::{
        collector::{ASKING, Collector, carried, parent},
        fake_peer::FakePeer,
        grants::CALLER,
        mcp::Fixture,
    },
    mcp::wire::End,
    served::{World, client::Era},
};

#[tokio::test]
async fn a_call_is_one_trace_from_the_client_to_the_server() {
    let scene = Scene::with(|setup| {
        setup.environment("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test%2C1")
    })
    .await;
    let (id, said) = parent(1, "01");
    let headers = [("traceparent", &*said), ("tracestate", "a=1, b=2"), ("baggage", "k=v")];
    let answer = scene.call(&headers).await;
    assert_eq!(answer.status, 200);

    let trace = scene.collector.trace(&id).await;
    let (request, tried) = (trace.request(), trace.one_try());
    assert_eq!((&request["parent"], &request["name"]), (&json!(ASKING), &json!("POST /{server}/{tool}")));
    assert_eq!(trace.steps(), ["identify", "authorize", "find", "limit", "plan", "body", "limit"]);
    for child in trace.0.iter().filter(|span| span["kind"] != "SERVER") {
        assert_eq!(child["parent"], request["id"], "{child}");
        assert!(child["start"].as_u64() >= request["start"].as_u64(), "{child} begins before {request}");
        assert!(child["end"].as_u64() <= request["end"].as_u64(), "{child} ends after {request}");
    }
    let request_id = answer.header("x-request-id").unwrap();
    let expected = json!({"http.request.method": "POST", "http.route": "/{server}/{tool}", "url.path": "/alpha/search",
        "http.response.status_code": 200, "portcullis.server": "alpha", "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "search", "portcullis.scheme": "session", "portcullis.outcome": "tool_answered",
        "portcullis.request_id": request_id});
    assert_eq!(request["attributes"], expected);
    let port: u16 = scene.peer.address().rsplit_once(':').unwrap().1.parse().unwrap();
    let expected = json!({"http.request.method": "POST", "server.address": "127.0.0.1", "server.port": port,
        "network.peer.address": "127.0.0.1", "network.peer.port": port, "http.response.status_code": 200,
        "portcullis.server": "alpha", "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search"});
    assert_eq!(tried["attributes"], expected);
    assert!(tried["events"]["connected"].is_object() && tried["events"]["answered"].is_object(), "{tried}");
    assert_eq!((&tried["status"], &request["status"]), (&json!("UNSET"), &json!("UNSET")));
    let resource = &request["resource"];
    assert_eq!(
        (&resource["service.name"], &resource["deployment.environment.name"]),
        (&json!("portcullis"), &json!("test,1"))
    );
    assert!(resource["service.version"].is_string() && resource["service.instance.id"].is_string());
    assert_eq!(request["state"], "a=1,b=2");

    let sent = scene.sent();
    assert_eq!(sent.head.all("traceparent"), [carried(tried, "01")]);
    assert_eq!((sent.head.header("tracestate"), sent.head.header("baggage")), (Some("a=1,b=2"), Some("k=v")));
    assert_eq!(logged(&scene.gateway, &answer).await["trace_id"], id);
    let told = scene.collector.told().await.to_string();
    assert!(!told.contains(CALLER) && !told.contains(&scene.token), "{told}");
}

/// What a server of MCP was sent last by this method: its headers, and its `_meta`.
async fn last(fixture: &Fixture, method: &str) -> (Value, Value) {
    let log = fixture.log().await;
    let is_it = |entry: &&Value| {
        let body = &entry["body"];
        body["method"] == method || body[0]["method"] == method
    };
    let entry = log.iter().rev().find(is_it).unwrap_or_else(|| panic!("no {method} in {log:#?}"));
    (entry["headers"].clone(), entry["body"]["params"]["_meta"].clone())
}

async fn world() -> (World, Fixture, FakePeer, Collector) {
    let (fixture, peer) =
        (Fixture::start().await, FakePeer::start().await.with_json("search", json!({"n": 1})));
    let collector = Collector::start().await;
    let servers = [("native", "mcp", fixture.url("/mcp")), ("alpha", "openapi", peer.url())];
    let world = World::with(&servers, |setup| setup.traced(&collector)).await;
    (world, fixture, peer, collector)
}

#[tokio::test]
async fn a_tool_of_mcp_that_is_called_over_rest_has_the_trace_in_its_header_and_in_its_message() {
    let (world, fixture, _peer, collector) = world().await;
    let (id, said) = parent(1, "01");
    let request = world.gateway.call_request("/native/echo", &world.token, &json!({"message": "hi"}));
    let request = request.header("traceparent", &said).header("tracestate", "a=1").header("baggage", "k=v");
    assert_eq!(world.gateway.send(request).await.status, 200);
    let trace = collector.trace(&id).await;
    let tried = trace.one_try();
    assert_eq!(
        (&tried["name"], &tried["attributes"]["mcp.method.name"]),
        (&json!("tools/call"), &json!("tools/call"))
    );
    assert_eq!(tried["parent"], trace.request()["id"]);
    assert!(tried["events"]["connected"].is_object() && tried["events"]["answered"].is_object(), "{tried}");
    let (headers, meta) = last(&fixture, "tools/call").await;
    assert_eq!(
        (&headers["traceparent"], &meta["traceparent"]),
        (&json!(carried(tried, "01")), &json!(carried(tried, "01")))
    );
    assert_eq!((&meta["tracestate"], &meta["baggage"]), (&json!("a=1"), &json!("k=v")));
}

#[tokio::test]
async fn messages_of_both_eras_are_in_the_trace_that_they_say_on_both_faces_of_mcp() {
    let (world, fixture, peer, collector) = world().await;
    let mut number = 0;
    for era in [Era::Legacy, Era::Modern] {
        for (path, tool) in [("/native/mcp", "echo"), ("/mcp", "native_echo"), ("/mcp", "alpha_search")] {
            number += 1;
            let (id, said) = parent(number, "01");
            let what = format!("{tool} at {path} in {era:?}");
            let client = world.mcp(path, era).await;
            let meta = json!({"traceparent": said, "tracestate": "a=1", "x": 1});
            let params = json!({"name": tool, "arguments": {"message": "hi"}, "_meta": meta});
            client.result("tools/call", params).await;
            let trace = collector.trace(&id).await;
            let (request, tried) = (trace.request(), trace.one_try());
            assert_eq!(request["parent"], ASKING, "{what}");
            assert_eq!(request["attributes"]["mcp.method.name"], "tools/call", "{what}");
            assert_eq!(tried["parent"], request["id"], "{what}");
            let expected = carried(tried, "01");
            if tool == "alpha_search" {
                assert_eq!(peer.requests().pop().unwrap().head.all("traceparent"), [expected], "{what}");
                continue;
            }
            let (headers, meta) = last(&fixture, "tools/call").await;
            assert_eq!(
                (&headers["traceparent"], &meta["traceparent"]),
                (&json!(expected), &json!(expected)),
                "{what}"
            );
            assert_eq!(
                (&headers["tracestate"], &meta["tracestate"]),
                (&json!("a=1"), &json!("a=1")),
                "{what}"
            );
        }
    }
}

#[tokio::test]
async fn the_header_wins_where_the_message_is_of_another_trace_and_the_message_passes_as_it_is() {
    let (world, fixture, _peer, collector) = world().await;
    let ((id, said), (_, other)) = (parent(1, "01"), parent(2, "01"));
    let client = world.mcp("/native/mcp", Era::Modern).await;
    let params = json!({"name": "echo", "arguments": {"message": "hi"}, "_meta": {"traceparent": other}});
    let message = client.request(1, "tools/call", params);
    let headers = [
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "echo"),
        ("traceparent", &*said),
    ];
    let end = End::through(world.gateway.url("/native/mcp"), &world.token);
    assert_eq!(end.post(&headers, &message).await.status(), 200);
    let trace = collector.trace(&id).await;
    let (headers, meta) = last(&fixture, "tools/call").await;
    assert_eq!(headers["traceparent"], carried(trace.one_try(), "01"));
    assert_eq!(meta["traceparent"], other);
}

#[tokio::test]
async fn each_call_of_a_batch_has_a_span() {
    let (world, _fixture, _peer, collector) = world().await;
    let (id, said) = parent(1, "01");
    let client = world.mcp("/native/mcp", Era::Legacy).await;
    let call = |id: u32, tool: &str| json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool, "arguments": {"message": "hi"}, "_meta": {"traceparent": said}}});
    let batch = json!([call(1, "echo"), call(2, "whoami"), call(3, "echo"), call(4, &"x".repeat(10_000))]);
    let session = client.session.clone().unwrap();
    let headers = [("mcp-protocol-version", "2025-03-26"), ("mcp-session-id", &*session)];
    let end = End::through(world.gateway.url("/native/mcp"), &world.token);
    // Whatever the server makes of it: some take no batches.
    end.post(&headers, &batch).await;
    let trace = collector.trace(&id).await;
    let calls = trace.of_kind("INTERNAL").into_iter().filter(|span| span["name"] == "tools/call");
    let tools: Vec<_> = calls.map(|span| span["attributes"]["gen_ai.tool.name"].as_str().unwrap()).collect();
    assert_eq!(tools, ["echo", "echo", "whoami", "_OTHER"]);
}

#[tokio::test]
async fn a_stream_is_one_try_until_its_end() {
    let (world, _fixture, _peer, collector) = world().await;
    let (id, said) = parent(1, "01");
    let client = world.mcp("/native/mcp", Era::Modern).await;
    let meta = json!({"traceparent": said, "progressToken": 1});
    let params = json!({"name": "slow", "arguments": {"ms": 300, "step": 100}, "_meta": meta});
    let mut events = client.stream(&client.request(1, "tools/call", params)).await;
    assert!(events.rest().await.len() >= 3);
    let trace = collector.trace(&id).await;
    let tried = trace.one_try();
    let lasted = tried["end"].as_u64().unwrap() - tried["start"].as_u64().unwrap();
    assert!(lasted >= 300_000_000, "{lasted} ns of 300 ms: {tried}");
}

#[tokio::test]
async fn pages_of_the_gateway_are_traced_too() {
    let scene = Scene::start().await;
    for (number, (path, name)) in (1..).zip([
        ("/servers", "GET /servers"),
        ("/alpha", "GET /{server}"),
        ("/openapi.json", "GET /openapi.json"),
        ("/health", "GET /health"),
    ]) {
        let (id, said) = parent(number, "01");
        assert_eq!(scene.get(path, &[("traceparent", &said)]).await.status, 200, "{path}");
        let trace = scene.collector.trace(&id).await;
        assert_eq!(trace.request()["name"], name);
        assert_eq!(trace.of_kind("CLIENT").len(), 0);
    }
    // Balancers ask all the time, and nobody follows them.
    let answer = scene.get("/health", &[]).await;
    assert!(logged(&scene.gateway, &answer).await["trace_id"].is_null());
    let answer = scene.get("/servers", &[]).await;
    assert!(logged(&scene.gateway, &answer).await["trace_id"].is_string());
}

#[tokio::test]
async fn what_is_no_trace_is_neither_refused_nor_passed_on() {
    let scene = Scene::start().await;
    let (_, good) = parent(1, "01");
    let zeros = format!("00-{}-{ASKING}-01", "0".repeat(32));
    let upper = good.to_uppercase();
    let ff = format!("ff{}", &good[2..]);
    for bad in ["", "nonsense", &zeros, &upper, &ff, &good[..54]] {
        let headers = [("traceparent", bad), ("tracestate", "a=1"), ("baggage", "mal formed")];
        let answer = scene.call(&headers).await;
        assert_eq!(answer.status, 200, "{bad}");
        let sent = scene.sent();
        let id = logged(&scene.gateway, &answer).await["trace_id"].as_str().unwrap().to_owned();
        let trace = scene.collector.trace(&id).await;
        assert_eq!(trace.request()["parent"], "", "{bad}");
        assert_eq!(sent.head.all("traceparent"), [carried(trace.one_try(), "01")], "{bad}");
        assert!(sent.head.header("tracestate").is_none() && sent.head.header("baggage").is_none(), "{bad}");
    }
    let twice = [("traceparent", &*good), ("traceparent", &*good), ("tracestate", "a=1")];
    scene.call(&twice).await;
    let sent = scene.sent();
    assert_eq!(sent.head.all("traceparent").len(), 1);
    assert!(
        !sent.head.all("traceparent")[0].contains(&good[3..35]) && sent.head.header("tracestate").is_none()
    );
}

#[tokio::test]
async fn with_traces_off_everything_travels_as_the_client_sent_it() {
    let scene = Scene::with(|setup| setup.set("traces.endpoint", "")).await;
    let (_, said) = parent(1, "01");
    for parent in [&*said, "nonsense"] {
        let headers = [("traceparent", parent), ("tracestate", "A"), ("baggage", "mal formed")];
        let answer = scene.call(&headers).await;
        let sent = scene.sent();
        let travelled =
            ["traceparent", "tracestate", "baggage"].map(|name| sent.head.header(name).unwrap().to_owned());
        assert_eq!(travelled, [parent, "A", "mal formed"]);
        assert!(logged(&scene.gateway, &answer).await["trace_id"].is_null());
    }
    assert_eq!(scene.collector.told().await["posts"], json!([]));
}
