//! The Python SDK of MCP with OpenTelemetry on both sides of the gateway: one trace of three programs.

use serde_json::Value;

use crate::{
    harness::{
        collector::{Collector, Trace, python},
        deadline::until,
        mcp::{Server, said, script},
    },
    served::World,
};

fn traced(collector: &Collector, service: &str, name: &str) -> tokio::process::Command {
    let mut command = python("traced.py");
    command.arg(collector.url()).arg(service).arg(script(name));
    command
}

/// The trace that the client's call of `echo` began, once all three have told of it.
async fn call_of(collector: &Collector, tool: &str) -> Trace {
    let what = format!("the spans of a call of {tool}");
    until(&what, || async {
        let spans = collector.spans().await;
        let is_call = |span: &&Value| span["name"] == format!("MCP send tools/call {tool}");
        let call = spans.iter().find(is_call)?.clone();
        let trace: Vec<_> = spans.into_iter().filter(|span| span["trace"] == call["trace"]).collect();
        let has = |service: &str| trace.iter().any(|span| span["resource"]["service.name"] == service);
        (has("client") && has("portcullis") && has("server")).then_some(Trace(trace))
    })
    .await
}

#[tokio::test]
async fn client_gateway_and_server_are_one_trace() {
    let collector = Collector::start().await;
    let server = Server::start(|port| {
        let mut command = traced(&collector, "server", "servers/python_v2.py");
        command.arg(port.number().to_string());
        command
    })
    .await;
    let servers = [("native", "mcp", server.url("/mcp"))];
    for (path, prefix, mode) in [
        ("/native/mcp", "", "legacy"),
        ("/native/mcp", "", "2026-07-28"),
        ("/mcp", "native_", "legacy"),
        ("/mcp", "native_", "2026-07-28"),
    ] {
        // The collector is another one each time, so that there is one call in it.
        let collector = &collector;
        let world = World::with(&servers, |setup| setup.traced(collector)).await;
        let mut client = traced(collector, "client", "clients/python_v2.py");
        client
            .arg(world.gateway.url(path))
            .arg(&world.token)
            .arg(mode)
            .arg("echo")
            .env("TOOL_PREFIX", prefix);
        assert_eq!(said(client).await["echo"], "hi", "{path} {mode}");
        let trace = call_of(collector, &format!("{prefix}echo")).await;
        let of = |service: &str, kind: &str| -> Value {
            let is_it = |span: &&Value| span["resource"]["service.name"] == service && span["kind"] == kind;
            trace
                .0
                .iter()
                .find(is_it)
                .unwrap_or_else(|| panic!("{path} {mode}: no {kind} of {service}: {:#?}", trace.0))
                .clone()
        };
        let (call, request) = (of("client", "CLIENT"), of("portcullis", "SERVER"));
        let (tried, served) = (of("portcullis", "CLIENT"), of("server", "SERVER"));
        assert_eq!(request["parent"], call["id"], "{path} {mode}");
        assert_eq!(tried["parent"], request["id"], "{path} {mode}");
        assert_eq!(served["parent"], tried["id"], "{path} {mode}");
        assert_eq!(served["name"], "tools/call echo", "{path} {mode}");
        collector.forget().await;
    }
}
