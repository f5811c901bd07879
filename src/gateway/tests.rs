use std::time::Duration;

use http::request::Parts;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{configured::Judge, phase::caught, *};
use crate::{
    access, catalog::Catalog, identity, names::GroupName, record::access_log::AccessLog,
    record::audit::Audit, record::metrics::Metrics, refusal::Code,
};

/// The header that makes `decide` panic in these tests: nothing from outside can.
const PANIC: &str = "x-test-panic";

/// What `decide` calls in test builds.
pub(super) fn panic_when_asked(request: &Parts) {
    assert!(!request.headers.contains_key(PANIC), "a test asked for a panic");
}

/// Settings that allow nothing beyond their defaults.
pub(super) fn settings() -> Settings {
    let address = "127.0.0.1:1".parse().unwrap();
    Settings {
        http: address,
        ops: address,
        threads: 1,
        max_connections: 1,
        header_timeout: Duration::from_secs(1),
        keepalive_timeout: Duration::from_secs(1),
        body_timeout: Duration::from_secs(1),
        write_timeout: Duration::from_secs(1),
        max_header_bytes: 4096,
        max_wrapped_body_bytes: 4096,
        max_body_bytes: 1 << 20,
        min_body_rate: 0,
        min_answer_rate: 0,
        shutdown_delay: Duration::ZERO,
        shutdown_grace: Duration::from_secs(1),
        upgrade_timeout: Duration::from_secs(1),
        tls: None,
        max_h2_streams: 100,
        cors_origins: Vec::new(),
        hosts: Vec::new(),
        public_url: None,
        oauth: None,
        shows_meta_tools_only: false,
        addresses: told_address::Settings::default(),
        mcp: native::Settings {
            session_keys: Vec::new(),
            session_ttl: Duration::from_secs(60),
            max_message_bytes: 4096,
            max_list_bytes: 4096,
            list_refresh: Duration::from_secs(300),
            page_size: 1000,
        },
    }
}

pub(super) fn gateway() -> Configured {
    let max_stale = Duration::from_secs(3600);
    let admin_group = GroupName::parse("MCP-Admin").unwrap();
    let identity = Arc::new(Identity::new(&identity::Settings::default(), identity::Sources::default()));
    let rules = access::Settings { admin_group, max_stale, is_concealing: false, tenant_order: Vec::new() };
    let access = Arc::new(Access::new(rules));
    let current = Current::new(Catalog::default(), max_stale);
    let metrics = Arc::new(Metrics::new().unwrap());
    Configured::new(Gateway {
        limiting: Limiting::new(crate::limit::Settings::default(), metrics.clone()),
        settings: settings(),
        catalog: current.load().catalog.clone(),
        bench: Arc::new(Bench::from_pointee(Judge { identity: identity.clone(), access: access.clone() })),
        identity,
        access,
        current,
        refresher: Refresher::new().0,
        documents: Documents::new(1024),
        client: Client::new(crate::client::Settings { max_answer_bytes: 4096 }),
        desk: Desk::new(Duration::from_secs(60)),
        sign_in: None,
        session_keys: settings().mcp.keys(&crate::names::SecretKey::random().unwrap()),
        live: Arc::default(),
        leaving: Arc::new(Leaving::new(Duration::ZERO)),
        recorder: Recorder {
            metrics,
            access_log: AccessLog::new(false).unwrap().0,
            audit: Audit::default(),
            tracer: None,
        },
    })
}

/// The answer to a request with these header lines, as the framework would have it made.
async fn answer(gateway: &Configured, lines: &str) -> String {
    let (mut client, server) = tokio::io::duplex(64 * 1024);
    let request = format!("POST /health HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n{lines}\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let mut session = Session::new_h1(Box::new(server));
    assert!(session.read_request().await.unwrap());
    let mut journey = gateway.new_ctx();
    gateway.early_request_filter(&mut session, &mut journey).await.unwrap();
    assert!(gateway.request_filter(&mut session, &mut journey).await.unwrap(), "it was answered");
    gateway.logging(&mut session, None, &mut journey).await;
    drop((session, journey));
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_panic_while_deciding_is_answered_with_500_and_recorded() {
    let gateway = gateway();
    let usual = answer(&gateway, "").await;
    assert!(usual.starts_with("HTTP/1.1 401 "), "{usual}");

    let answer = answer(&gateway, "x-test-panic: 1\r\nx-request-id: mine\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    assert!(answer.to_lowercase().contains("x-request-id: mine\r\n"), "{answer}");
    assert!(!answer.to_lowercase().contains("connection: close"), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!((&body["code"], &body["request_id"]), (&"internal".into(), &"mine".into()));
    assert!(!answer.contains("test asked"), "internals: {answer}");

    let metrics = &gateway.now().recorder.metrics;
    assert_eq!(metrics.refusals.with_label_values(&["internal"]).get(), 1);
    assert_eq!(metrics.requests_in_flight.get(), 0);
}

#[test]
fn a_panic_in_a_later_phase_is_an_internal_refusal() {
    let error = caught::<()>(|| panic!("a test asked for a panic")).unwrap_err();
    assert_eq!(failure::refusal_for(&error).unwrap().code(), Code::Internal);
    assert!(caught(|| Ok(())).is_ok());
}
