//! The same bytes through a real nginx: what it takes for one request is one here, and nothing else is.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::{StreamExt, stream};

use super::{FACES, Scene, cases};
use crate::harness::{deadline::until_so, proxies::Proxy, raw::RawClient, request::post};

/// Passes everything on over kept connections, and notes what it passed on under which id.
const NGINX: &str = r#"
events {}
http {
    log_format passed '$request_id $upstream_status';
    upstream gateway { server 127.0.0.1:8000; keepalive 8; }
    server {
        listen 8080;
        access_log FOLDER/passed passed;
        client_body_timeout 500ms; client_header_timeout 500ms; keepalive_timeout 200ms; lingering_close off;
        location / {
            proxy_pass http://gateway;
            proxy_http_version 1.1;
            proxy_request_buffering BUFFERING;
            proxy_next_upstream off;
            proxy_set_header Connection "";
            proxy_set_header Host gateway;
            proxy_set_header X-Request-Id $request_id;
        }
    }
}
"#;

#[tokio::test]
async fn what_nginx_takes_for_one_request_is_one_here() {
    for buffering in ["off", "on"] {
        let scene = Scene::start().await;
        let nginx = NGINX.replace("BUFFERING", buffering);
        let proxy = Proxy::nginx_as(&nginx, &scene.gateway.address()).await;
        let (scene, proxy) = (&scene, &proxy);
        stream::iter(cases::all())
            .for_each_concurrent(64, |case| async move {
                for face in FACES {
                    let more = format!("authorization: Bearer {}\r\n", scene.token);
                    let behind = post("/alpha/search", &scene.token, "{}");
                    let mut client = RawClient::connect(&proxy.address()).await;
                    drop(client.try_send([case.bytes(&face, &more), behind].concat()).await);
                    client.statuses_to_the_end(Duration::from_secs(10)).await;
                }
            })
            .await;
        compare(scene, proxy, buffering).await;
    }
}

/// nginx's notes against the gateway's records and what the peer got.
async fn compare(scene: &Scene, proxy: &Proxy, buffering: &str) {
    let passed: BTreeMap<String, String> = proxy
        .file("passed")
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(id, status)| (id.to_owned(), status.to_owned()))
        .collect();
    let ids: BTreeSet<&str> = passed.keys().map(String::as_str).collect();
    // What the framework refuses by itself has no record.
    let recorded: Vec<_> =
        passed.iter().filter(|(_, status)| !["-", "400", "405"].contains(&status.as_str())).collect();
    assert!(recorded.len() > 100, "nginx passed on {} requests only", recorded.len());
    let records = || -> Vec<serde_json::Value> {
        scene.gateway.stdout.all().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let has = |id: &str| records().iter().any(|record| record["request_id"] == id);
    until_so("the records of all requests", || recorded.iter().all(|(id, _)| has(id))).await;
    let mut seen = BTreeSet::new();
    for record in records() {
        let id = record["request_id"].as_str().unwrap().to_owned();
        let status = record["status"].to_string();
        let by_nginx =
            passed.get(&id).unwrap_or_else(|| panic!("{buffering}: nginx never sent this: {record}"));
        assert!(*by_nginx == status || by_nginx == "-", "{buffering}: {by_nginx} at nginx: {record}");
        assert!(seen.insert(id), "{buffering}: two requests of one: {record}");
    }
    let mut seen = BTreeSet::new();
    for request in scene.peer.sent() {
        let id = request.all("x-request-id").first().copied().unwrap_or_default().to_owned();
        assert!(ids.contains(id.as_str()), "{buffering}: nginx never sent this: {request:?}");
        assert!(seen.insert(id), "{buffering}: two requests of one: {request:?}");
    }
}
