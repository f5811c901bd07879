//! What is delivered, tried: the unit and the package under a real systemd, the files for containers by their schemas and
//! by the gateway itself, the bill of materials, the guides.

mod containers;
mod guides;
mod hanging;
mod operating;
mod package;
mod unit;

use std::path::Path;

use reqwest::StatusCode;
use serde_json::json;

use crate::harness::{
    deadline::until,
    fake_peer::{Behaviour, FakePeer},
    gateway::{Answer, client},
    grants::CALLER,
    machine::Machine,
    port::Port,
    raw::RawClient,
    request::post,
    tokens::{SESSION_SECRET, email_token},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const PROGRAM: &str = env!("CARGO_BIN_EXE_portcullis");

/// A gateway under systemd, and a server behind it.
struct Scene {
    machine: Machine,
    http: Port,
    ops: Port,
    peer: FakePeer,
}

impl Scene {
    /// A machine without the gateway; none where there can be no machine.
    async fn bare() -> Option<Self> {
        let machine = Machine::boot().await?;
        let peer = FakePeer::start().await.with_json("search", json!(1)).with_tool("watch", Behaviour::Hold);
        Some(Self { machine, http: Port::take(), ops: Port::take(), peer })
    }

    /// The shipped configuration, on the ports of this test and with a server `alpha`.
    fn configuration(&self) -> [(&'static str, String); 2] {
        let read = |name: &str| std::fs::read_to_string(Path::new(ROOT).join("conf").join(name)).unwrap();
        let gateway = read("gateway.toml").replace(":8000\"", &format!(":{}\"", self.http.number()));
        let gateway = gateway.replace(":9090\"", &format!(":{}\"", self.ops.number()));
        let alpha =
            format!("\n[servers.alpha]\nname = \"Alpha\"\ntier = \"local\"\nurl = \"{}\"\n", self.peer.url());
        [("gateway.toml", gateway), ("servers.toml", read("servers.toml") + &alpha)]
    }

    /// What the operator writes into `/etc/portcullis/environment`.
    fn write_secrets(&self) {
        let path = self.machine.path("/etc/portcullis/environment");
        std::fs::write(path, format!("WEBUI_SECRET_KEY={SESSION_SECRET}\n")).unwrap();
    }

    /// Lets the caller of the tests use `alpha`, and waits until they may.
    async fn grant(&self) {
        // As the gateway's user, in its folder and with its environment, as somebody at work there would.
        self.machine.must(&as_gateway(&format!("grant --user {CALLER} alpha")));
        self.becomes_well().await;
    }

    /// Waits for a process that has just started: systemd is told that it listens before it has read the grants.
    async fn becomes_well(&self) {
        until("a granted call", || async { (self.call().await.status == StatusCode::OK).then_some(()) })
            .await;
    }

    async fn call(&self) -> Answer {
        let url = format!("http://{}/alpha/search", self.http.address());
        let request = client().post(url).bearer_auth(email_token(CALLER));
        Answer::read(request.header("content-type", "application/json").body("{}").send().await.unwrap())
            .await
    }

    async fn is_well(&self) {
        let answer = self.call().await;
        assert_eq!(answer.status, StatusCode::OK, "{}\n{}", answer.text(), self.machine.journal());
    }

    /// A stream that stands, as client and server see it.
    async fn stream(&self) -> (RawClient, crate::harness::fake_peer::Held) {
        let mut client = RawClient::connect(&self.http.address()).await;
        client.send(post("/alpha/watch", &email_token(CALLER), "{}")).await;
        let held = self.peer.held().await;
        held.send("data: first\n\n");
        assert_eq!(client.read_head().await.0, 200);
        assert_eq!(client.read_chunk().await.unwrap(), b"data: first\n\n");
        (client, held)
    }
}

/// A command of the program, as the gateway's user with its environment.
fn as_gateway(arguments: &str) -> String {
    format!(
        "cd /var/lib/portcullis && set -a && . /etc/portcullis/environment && \
         setpriv --reuid portcullis --regid portcullis --clear-groups \
         portcullis {arguments} --config /etc/portcullis"
    )
}
