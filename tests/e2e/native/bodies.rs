//! Bodies: read whole and bounded before a byte of them goes on, and then sent as they came.

use std::{io::Write, time::Duration};

use serde_json::json;

use super::{Scene, call, refusal};
use crate::harness::{
    certificates::Authority,
    h2::H2Client,
    request::head,
    wire::{answer, chunk},
};

#[tokio::test]
async fn a_body_that_two_parsers_could_read_differently_never_reaches_the_server() {
    let scene = Scene::start().await;
    let utf16: Vec<u8> = call("echo").to_string().encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(call("echo").to_string().as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    let deep = format!(
        r#"{{"id":1,"method":"tools/call","params":{{"name":"a","arguments":{}1{}}}}}"#,
        "[".repeat(500),
        "]".repeat(500)
    );
    type Case<'a> = (&'a [&'a str], Vec<u8>, (u16, i64, &'a str));
    let cases: Vec<Case<'_>> = vec![
        (&["content-encoding: gzip"], gzip.clone(), (415, 415, "body_encoded")),
        (&["content-encoding: identity, gzip"], gzip.clone(), (415, 415, "body_encoded")),
        (&[], gzip, (415, 415, "body_encoded")),
        (&[], utf16, (400, -32700, "body_not_json")),
        (&[], b"\xff\xfe{}".to_vec(), (415, 415, "body_encoded")),
        (&[], b"\xef\xbb\xbf{}".to_vec(), (400, -32700, "body_not_json")),
        (&[], Vec::new(), (400, -32700, "body_not_json")),
        (&[], b"{\"id\":1,\"method\":\"ping\"".to_vec(), (400, -32700, "body_not_json")),
        (&[], deep.into_bytes(), (400, -32700, "body_not_json")),
        (
            &[],
            br#"{"id":1,"method":"tools/call","params":{"name":"a","name":"b"}}"#.to_vec(),
            (400, -32600, "bad_message"),
        ),
        (&[], br#"{"id":1,"method":"ping","method":"tools/call"}"#.to_vec(), (400, -32600, "bad_message")),
        (
            &[],
            br#"{"id":1,"method":"tools/call","params":{"name":"a"},"params":{"name":"b"}}"#.to_vec(),
            (400, -32600, "bad_message"),
        ),
        (
            &[],
            br#"{"id":1,"method":"tools/call","params":{"Name":"b"}}"#.to_vec(),
            (400, -32600, "bad_message"),
        ),
        (
            &[],
            br#"{"id":1,"method":"tools/call","params":{"name":["b"]}}"#.to_vec(),
            (400, -32600, "bad_message"),
        ),
        (
            &["mcp-protocol-version: 2025-06-18"],
            br#"[{"id":1,"method":"ping"}]"#.to_vec(),
            (400, -32600, "bad_message"),
        ),
        (&["mcp-method: tools/list"], call("a").to_string().into_bytes(), (400, -32020, "header_mismatch")),
        (&["mcp-name: b"], call("a").to_string().into_bytes(), (400, -32020, "header_mismatch")),
        (
            &["mcp-name: =?base64?Yg==?="],
            call("a").to_string().into_bytes(),
            (400, -32020, "header_mismatch"),
        ),
        (&["mcp-name: a", "mcp-name: a"], call("a").to_string().into_bytes(), (400, 400, "repeated_header")),
    ];
    for (lines, body, expected) in cases {
        let shown = String::from_utf8_lossy(&body).chars().take(60).collect::<String>();
        let answer = scene.client().await.exchange(scene.post(lines, &body)).await;
        let (status, code, word) = refusal(&answer);
        assert_eq!((status, code, word.as_str()), expected, "{lines:?} {shown}");
        // The same in chunks, the last byte on its own: then it is judged on its way.
        let Some((last, rest)) = body.split_last() else { continue };
        let mut client = scene.client().await;
        let usual = ["content-type: application/json", "transfer-encoding: chunked"];
        let all: Vec<_> = usual.iter().chain(lines).copied().collect();
        client.send(head("POST", "/alpha/mcp", &scene.token, &all)).await;
        client.send(chunk(rest)).await;
        if expected.0 != 415
            || expected.2 != "body_encoded"
            || !lines.iter().any(|line| line.contains("gzip"))
        {
            // The server may have been given a head, never a body.
            client.send([chunk(&[*last]), chunk(b"")].concat()).await;
        }
        let (status, _, word) = refusal(&client.read_answer().await);
        assert_eq!((status, word.as_str()), (expected.0, expected.2), "in chunks: {lines:?} {shown}");
        while scene.peer.was_called().await {
            let mut call = scene.peer.call().await;
            let rest = call.rest_within(std::time::Duration::from_secs(10)).await;
            assert_eq!(rest.as_deref(), Some(&b""[..]), "not a byte of the body");
        }
    }
    scene.is_unharmed().await;
}

#[tokio::test]
async fn a_body_not_labelled_as_json_in_utf8_is_refused() {
    let scene = Scene::start().await;
    for label in ["", "content-type: text/plain", "content-type: application/json; charset=utf-16le"] {
        let body = call("echo").to_string();
        let lines = [label].into_iter().filter(|label| !label.is_empty());
        let lines: Vec<_> = lines.chain(["accept: */*"]).collect();
        let request = crate::harness::request::post_with("/alpha/mcp", &scene.token, &lines, body);
        let answer = scene.client().await.exchange(request).await;
        assert_eq!(refusal(&answer), (415, 415, "unsupported_media_type".to_owned()), "{label}");
    }
    scene.is_unharmed().await;
}

#[tokio::test]
async fn the_id_of_a_refused_request_is_echoed_as_it_was() {
    let scene = Scene::start().await;
    for id in ["7", "-1.5", "\"a\\u0062\"", "12345678901234567890"] {
        let body = format!(r#"{{"id":{id},"method":"tools/call","params":{{"name":"a"}}}}"#);
        let answer = scene.client().await.exchange(scene.post(&["mcp-name: b"], body)).await;
        assert!(answer.text().contains(&format!("\"id\":{id},")), "{}", answer.text());
    }
}

/// Sends a body in pieces, and expects it at the peer byte for byte.
async fn arrives(scene: &Scene, is_chunked: bool, body: &[u8], piece: usize) {
    let mut client = scene.client().await;
    let length = format!("content-length: {}", body.len());
    let framing = if is_chunked { "transfer-encoding: chunked" } else { &length };
    client.send(head("POST", "/alpha/mcp", &scene.token, &["content-type: application/json", framing])).await;
    let sending = async {
        for piece in body.chunks(piece) {
            client.send(if is_chunked { chunk(piece) } else { piece.to_vec() }).await;
        }
        if is_chunked {
            client.send(chunk(b"")).await;
        }
        client
    };
    let receiving = async {
        let mut call = scene.peer.call().await;
        assert_eq!(call.read_body().await, body, "{} bytes in pieces of {piece}", body.len());
        call.send(answer("200 OK", "application/json", b"{}")).await;
    };
    let (mut client, ()) = tokio::join!(sending, receiving);
    assert_eq!(client.read_answer().await.status, 200);
}

#[tokio::test]
async fn a_body_of_any_size_within_the_bound_arrives_as_it_was_sent() {
    let scene = Scene::start().await;
    for size in [10, 1000, 65_400, 65_536, 65_600, 131_072, 960_000, 4_000_000] {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": {"name": "echo", "arguments": {"text": "x".repeat(size)}}});
        let body = body.to_string().into_bytes();
        for is_chunked in [false, true] {
            for piece in [body.len(), 10_000, 65_536] {
                arrives(&scene, is_chunked, &body, piece).await;
            }
        }
    }
}

#[tokio::test]
async fn a_body_over_the_bound_is_refused_before_a_byte_of_it_goes_on() {
    let scene = Scene::start_with("mcp", |setup| setup.set("mcp.max_message_bytes", 100_000)).await;
    let body = json!({"id": 1, "method": "x", "params": {"arguments": "x".repeat(100_000)}}).to_string();
    let answer = scene.client().await.exchange(scene.post(&[], &body)).await;
    assert_eq!(refusal(&answer), (413, 413, "body_too_large".to_owned()));
    scene.is_unharmed().await;

    let mut client = scene.client().await;
    let lines = ["content-type: application/json", "transfer-encoding: chunked"];
    client.send(head("POST", "/alpha/mcp", &scene.token, &lines)).await;
    for piece in body.as_bytes().chunks(20_000) {
        // The gateway may have hung up on the rest.
        let _ = client.try_send(chunk(piece)).await;
    }
    assert_eq!(refusal(&client.read_answer().await).0, 413);
    let mut call = scene.peer.call().await;
    assert_eq!(call.rest_within(std::time::Duration::from_secs(10)).await.as_deref(), Some(&b""[..]));
}

#[tokio::test]
async fn a_client_that_waits_to_be_asked_for_its_body_is_asked_once() {
    let scene = Scene::start().await;
    for size in [10, 200_000] {
        let body = json!({"id": 1, "method": "x", "params": {"arguments": "x".repeat(size)}}).to_string();
        let mut client = scene.client().await;
        let length = format!("content-length: {}", body.len());
        let lines = ["content-type: application/json", &length, "expect: 100-continue"];
        client.send(head("POST", "/alpha/mcp", &scene.token, &lines)).await;
        assert_eq!(client.read_head().await.0, 100);
        client.send(&body).await;
        let mut call = scene.peer.call().await;
        assert_eq!(call.read_body().await, body.as_bytes());
        call.send(answer("200 OK", "application/json", b"{}")).await;
        assert_eq!(client.read_answer().await.status, 200, "{size}");
    }
}

#[tokio::test]
async fn a_body_that_comes_in_drops_is_not_waited_for_beyond_its_time() {
    let scene = Scene::start_with("mcp", |setup| {
        setup.set("listen.body_timeout_secs", 1).set("upstream.read_timeout_secs", 1)
    })
    .await;
    for framing in ["content-length: 100000", "transfer-encoding: chunked"] {
        let mut client = scene.client().await;
        client
            .send(head("POST", "/alpha/mcp", &scene.token, &["content-type: application/json", framing]))
            .await;
        let dripping = async {
            let mut drops = tokio::time::interval(Duration::from_millis(200));
            let drop = if framing.starts_with("content") { b" ".to_vec() } else { chunk(b" ") };
            for _ in 0..50 {
                drops.tick().await;
                if client.try_send(&drop).await.is_err() {
                    break;
                }
            }
            client
        };
        let refused = dripping.await.read_answer().await;
        assert_eq!(refusal(&refused), (400, 400, "bad_request".to_owned()), "{framing}");
    }
    let logged = |line: &str| line.contains("\"code\":\"bad_request\"");
    let line = scene.gateway.stdout.find("the record", logged).await;
    let millis =
        serde_json::from_str::<serde_json::Value>(&line).unwrap()["gateway_millis"].as_f64().unwrap();
    assert!(millis < 5_000.0, "it took {millis} ms to refuse");
}

#[tokio::test]
async fn a_body_in_chunks_takes_nothing_of_its_server_s_until_it_is_whole_or_long() {
    let scene = Scene::start_with("mcp", |setup| {
        setup.set("listen.body_timeout_secs", 2).set("limits.running_per_server", 1)
    })
    .await;
    let lines = ["content-type: application/json", "transfer-encoding: chunked"];
    let request = head("POST", "/alpha/mcp", &scene.token, &lines);
    let mut dripping = Vec::new();
    for _ in 0..3 {
        let mut client = scene.client().await;
        client.send(&request).await;
        client.send(chunk(b"{")).await;
        client.send(chunk(b" ")).await;
        dripping.push(client);
    }
    for mut client in dripping {
        assert_eq!(refusal(&client.read_answer().await), (400, 400, "bad_request".to_owned()));
    }
    assert!(!scene.peer.was_called().await, "nothing of them has departed");

    // A long one departs before its end, and then counts as running, for as long as a body may take.
    let mut long = scene.client().await;
    long.send(&request).await;
    for _ in 0..7 {
        long.send(chunk(&[b' '; 10_000])).await;
    }
    let mut call_of_long = scene.peer.call().await;
    let body = call("echo").to_string();
    let refused = scene.client().await.exchange(scene.post(&[], &body)).await;
    assert_eq!(refusal(&refused), (503, 503, "server_busy".to_owned()));
    let began = std::time::Instant::now();
    assert_eq!(refusal(&long.read_answer().await), (400, 400, "bad_request".to_owned()));
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert_eq!(call_of_long.rest_within(Duration::from_secs(10)).await.as_deref(), Some(&b""[..]));
    scene.is_unharmed().await;
}

#[tokio::test]
async fn a_body_over_http_2_arrives_whole_whatever_its_size_and_however_its_end_is_told() {
    let authority = Authority::new();
    let scene = Scene::start_with("mcp", |setup| setup.tls(&authority)).await;
    let client = H2Client::connect(&authority, &scene.gateway.address()).await;
    for size in [10, 16_384, 65_400, 65_536, 66_000, 100_000, 200_000] {
        for tells_length in [false, true] {
            let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
                "params": {"name": "echo", "arguments": {"text": "x".repeat(size)}}});
            let body = body.to_string();
            let mut request = http::Request::post("https://localhost/alpha/mcp")
                .header("authorization", format!("Bearer {}", scene.token))
                .header("content-type", "application/json");
            if tells_length {
                request = request.header("content-length", body.len());
            }
            let pending = client.begin_as(request.body(()).unwrap(), Some(&body)).await;
            let mut call = scene.peer.call().await;
            assert!(call.read_body().await == body.as_bytes(), "{size} bytes, {tells_length}");
            call.send(answer("200 OK", "application/json", b"{}")).await;
            assert_eq!(pending.answer().await.unwrap().status, 200, "{size} bytes, {tells_length}");
        }
    }
}
