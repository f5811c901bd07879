//! Gateways that know the user, in front of ours: real nginx and haproxy with the samples of `conf/front`.
//!
//! What one of them says of a user counts, what a client says of itself does not, whatever it is called and whichever way
//! it comes.

use std::{net::IpAddr, sync::Arc};

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::harness::{
    commands::portcullis,
    entra::keys::{self, Padding, SigningKey, base64url},
    fake_peer::{Behaviour, FakePeer},
    gateway::{Answer, Gateway, Setup},
    grants::{CALLER, Grants},
    proxies::Proxy,
    tokens::now,
    wire::answer,
};

mod balancer;
mod headers;
mod samples;
mod streams;

/// What nginx and haproxy prove themselves with.
const SECRET: &str = "a-secret-between-proxy-and-gateway";
/// Is in [`GROUP`] and has no grant of her own.
const JANE: &str = "jane.doe@example.com";
/// May use `github`.
const GROUP: &str = "MCP-GitHub, QA";
/// The same, for a proxy that writes groups between commas.
const PLAIN_GROUP: &str = "MCP-GitHub";

/// Which of the two is in front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Nginx,
    Haproxy,
}

const BOTH: [Kind; 2] = [Kind::Nginx, Kind::Haproxy];

/// A gateway behind a proxy: Jane may use `github` by her group, [`CALLER`] `private` by a grant.
struct Scene {
    kind: Kind,
    proxy: Proxy,
    gateway: Gateway,
    peer: FakePeer,
    /// Says who is signed in at nginx.
    sign_in: FakePeer,
    /// Signs the tokens that haproxy looks at.
    issuer: Arc<SigningKey>,
    _grants: Grants,
}

impl Scene {
    async fn start(kind: Kind) -> Self {
        let peer = FakePeer::start().await.with_json("search", json!({"found": []}));
        let peer = peer.with_tool("events", Behaviour::Hold);
        let grants = Grants::of(&["private"]).await;
        let setup = trusting(grants.setup()).server("github", &peer.url()).server("private", &peer.url());
        let setup = match kind {
            Kind::Nginx => setup,
            Kind::Haproxy => setup.set("auth.gateway.groups_format", "json"),
        };
        let gateway = setup.start().await;
        gateway.knows_tools("private", 2).await;
        for group in [GROUP, PLAIN_GROUP] {
            let granted = portcullis(gateway.folder.path(), &["grant", "--group", group, "github"]).await;
            assert_eq!(granted.code, 0, "{}", granted.stderr);
        }
        gateway.await_grants(4).await;
        gateway.knows_tools("github", 2).await;
        let (sign_in, issuer) = (FakePeer::start().await, keys::spare(0));
        let proxy = match kind {
            Kind::Nginx => nginx(&gateway, &sign_in).await,
            Kind::Haproxy => haproxy(&gateway, &issuer).await,
        };
        let scene = Self { kind, proxy, gateway, peer, sign_in, issuer, _grants: grants };
        scene.sign_in_says(&[("X-Auth-Request-Email", JANE), ("X-Auth-Request-Groups", PLAIN_GROUP)]);
        scene
    }

    /// Whom the service beside nginx tells it of from now on.
    fn sign_in_says(&self, lines: &[(&str, &str)]) {
        let lines: String = lines.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let accepted = format!("HTTP/1.1 202 Accepted\r\n{lines}content-length: 0\r\n\r\n");
        self.sign_in.set("/oauth2/auth", Behaviour::Answer(accepted.into_bytes()));
    }

    /// From now on nobody is signed in at nginx.
    fn signed_out(&self) {
        self.sign_in.set("/oauth2/auth", Behaviour::Answer(answer("401 Unauthorized", "text/plain", b"")));
    }

    /// A request through the proxy, of nobody in particular at haproxy and of whoever is signed in at nginx.
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.gateway.client.request(method, self.proxy.url(path))
    }

    /// The same, of Jane.
    fn of_jane(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.request(method, path);
        match self.kind {
            Kind::Nginx => request.header("cookie", "_oauth2_proxy=janes-session"),
            Kind::Haproxy => request.bearer_auth(self.token(&[])),
        }
    }

    /// A token of haproxy's issuer for Jane, with these claims instead of the usual ones (`null`: without).
    fn token(&self, claims: &[(&str, Value)]) -> String {
        let mut all = json!({"iss": "https://login.example.com/", "aud": "portcullis", "sub": "jane", "email": JANE,
            "groups": [GROUP, "Everybody"], "iat": now(0), "exp": now(3600)});
        for (name, value) in claims {
            match value {
                Value::Null => drop(all.as_object_mut().unwrap().remove(*name)),
                value => all[*name] = value.clone(),
            }
        }
        signed(&self.issuer, &json!({"alg": "RS256", "typ": "JWT"}), &all)
    }

    async fn send(&self, request: RequestBuilder) -> Answer {
        self.gateway.send(request).await
    }

    /// The servers that this request sees.
    async fn servers(&self, request: RequestBuilder) -> Vec<String> {
        let answer = self.send(request).await;
        assert_eq!(answer.status, 200, "{:?}: {}", self.kind, answer.text());
        let listing = answer.json();
        let servers = listing["servers"].as_array().unwrap().iter();
        servers.map(|server| server["id"].as_str().unwrap().to_owned()).collect()
    }
}

fn signed(key: &SigningKey, header: &Value, claims: &Value) -> String {
    let signable = format!("{}.{}", base64url(header.to_string()), base64url(claims.to_string()));
    let signature = base64url(key.sign(Padding::Rs256, signable.as_bytes()));
    format!("{signable}.{signature}")
}

/// A gateway that believes a proxy on this machine that knows [`SECRET`].
fn trusting(setup: Setup) -> Setup {
    setup
        .set("auth.gateway.enabled", true)
        .set("auth.gateway.shared_secret", SECRET)
        .set("listen.balancers", vec!["127.0.0.1"])
        .set("log.filter", "debug")
}

async fn nginx(gateway: &Gateway, sign_in: &FakePeer) -> Proxy {
    let secret = format!("proxy_set_header X-Gateway-Secret \"{SECRET}\";\n");
    let files = [("secret.conf", secret.as_str())];
    let replaced = [
        ("127.0.0.1:4180", sign_in.address()),
        ("/etc/nginx/portcullis-secret.conf", "FOLDER/secret.conf".to_owned()),
    ];
    let replaced = replaced.each_ref().map(|(from, to)| (*from, to.as_str()));
    Proxy::nginx("nginx.conf", &gateway.address(), &files, &replaced).await
}

async fn haproxy(gateway: &Gateway, issuer: &SigningKey) -> Proxy {
    let spellings = issuer.public_spellings();
    let key = spellings.iter().find(|spelling| spelling.ends_with(b"-----END PUBLIC KEY-----\n")).unwrap();
    let key = String::from_utf8(key.clone()).unwrap();
    let replaced = [("/etc/haproxy/issuer.pem", "FOLDER/issuer.pem")];
    let environment = [("PORTCULLIS_GATEWAY_SECRET", SECRET)];
    Proxy::haproxy("haproxy.cfg", &gateway.address(), &[("issuer.pem", &key)], &replaced, &environment).await
}

/// A client whose end of its connections has this address.
fn client_at(address: &str) -> reqwest::Client {
    let address: IpAddr = address.parse().unwrap();
    reqwest::Client::builder().no_proxy().local_address(address).build().unwrap()
}

/// The line of the access log about this request, as JSON.
async fn logged(gateway: &Gateway, request_id: &str) -> Value {
    let quoted = format!("{request_id:?}");
    let line = gateway.stdout.find("a line about a request", |line| line.contains(&quoted)).await;
    serde_json::from_str(&line).unwrap()
}
