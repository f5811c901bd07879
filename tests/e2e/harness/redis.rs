//! Open WebUI's Redis: a real server of one test's own, which can die and come back.

use std::{path::Path, process::Stdio};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::process::{Child, Command};

use super::{
    deadline::{until, within},
    port::Port,
};

/// A Redis server. It is killed when this is dropped.
pub struct Redis {
    port: Port,
    folder: tempfile::TempDir,
    password: &'static str,
    tls: Option<Tls>,
    process: Option<Child>,
}

/// A second door behind TLS, for `localhost`.
struct Tls {
    port: Port,
    /// The authority that signed its certificate, in PEM.
    authority: String,
}

impl Redis {
    /// Starts one that wants no password.
    pub async fn start() -> Self {
        Self::start_with_password("").await
    }

    /// Starts one that wants this password.
    pub async fn start_with_password(password: &'static str) -> Self {
        Self::start_as(password, None).await
    }

    /// Starts one that can also be asked through TLS.
    pub async fn start_with_tls() -> Self {
        let tls = Tls { port: Port::take(), authority: String::new() };
        Self::start_as("", Some(tls)).await
    }

    async fn start_as(password: &'static str, mut tls: Option<Tls>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        if let Some(tls) = &mut tls {
            tls.authority = write_certificate(folder.path());
        }
        let mut redis = Self { port: Port::take(), folder, password, tls, process: None };
        redis.start_again().await;
        redis
    }

    /// `rediss://…`, and the authority that signed the certificate there.
    pub fn tls(&self) -> (String, &str) {
        let tls = self.tls.as_ref().expect("it was started with TLS");
        (format!("rediss://localhost:{}/0", tls.port.number()), &tls.authority)
    }

    /// Starts it after [`Self::kill`], on the same port. It has forgotten everything.
    pub async fn start_again(&mut self) {
        let port = self.port.number().to_string();
        let mut command = Command::new("redis-server");
        command.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        command.args(["--requirepass", self.password]).arg("--dir").arg(self.folder.path());
        if let Some(tls) = &self.tls {
            let port = tls.port.number().to_string();
            command.args(["--tls-port", &port, "--tls-auth-clients", "no"]).current_dir(self.folder.path());
            command.args(["--tls-cert-file", "leaf.pem", "--tls-key-file", "key.pem"]);
            command.args(["--tls-ca-cert-file", "root.pem"]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let process = command.spawn().unwrap_or_else(|error| {
            panic!("redis-server cannot be run ({error}): `scripts/prepare redis` installs it")
        });
        self.process = Some(process);
        until("a Redis that answers", || async { self.ask(&["PING"]).await.ok() }).await;
    }

    /// Ends it at once, as a crash would.
    pub async fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill().await.unwrap();
    }

    /// Sends `STOP` or `CONT` to it.
    pub fn signal(&self, name: &str) {
        let id = self.process.as_ref().and_then(Child::id).expect("it runs").to_string();
        let sent = std::process::Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &id]).status();
        assert!(sent.unwrap().success(), "SIG{name} could not be sent");
    }

    /// All its keys.
    pub async fn keys(&self) -> Vec<String> {
        redis::from_redis_value(self.ask(&["KEYS", "*"]).await.unwrap()).unwrap()
    }

    /// Seconds until a key is forgotten; negative where it never is.
    pub async fn seconds_left(&self, key: &str) -> i64 {
        redis::from_redis_value(self.ask(&["TTL", key]).await.unwrap()).unwrap()
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        self.port.address()
    }

    /// `redis://…`, with the password where there is one.
    pub fn url(&self) -> String {
        self.url_through(&self.address())
    }

    /// The same through a proxy at `127.0.0.1:PORT`.
    pub fn url_through(&self, address: &str) -> String {
        let password = if self.password.is_empty() { String::new() } else { format!(":{}@", self.password) };
        format!("redis://{password}{address}/0")
    }

    /// Does what Open WebUI does when a session is signed out of.
    pub async fn sign_out(&self, jti: &str) {
        self.run(&["SET", &format!("open-webui:auth:token:{jti}:revoked"), "1", "EX", "3600"]).await;
    }

    /// Runs a command.
    pub async fn run(&self, words: &[&str]) {
        self.ask(words).await.unwrap();
    }

    async fn ask(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        let client = redis::Client::open(self.url())?;
        let mut connection =
            within("a connection to Redis", client.get_multiplexed_async_connection()).await?;
        let mut command = redis::cmd(words[0]);
        within("a Redis command", command.arg(&words[1..]).query_async(&mut connection)).await
    }
}

/// Writes a certificate for `localhost` with its key and the authority that signed it, which it gives back.
fn write_certificate(folder: &Path) -> String {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let root = authority.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let leaf =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    for (name, text) in [("root.pem", root.pem()), ("leaf.pem", leaf.pem()), ("key.pem", key.serialize_pem())]
    {
        std::fs::write(folder.join(name), text).unwrap();
    }
    root.pem()
}
