//! Real nginx and haproxy in front of a gateway, run with the samples of `conf/front`.
//!
//! A sample runs exactly as it stands but for what belongs to a machine: each replacement names a piece of its text, and
//! one that is not there fails the test.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::{Child, Command};

use super::{deadline::until, gateway::Lines, port::Port};

/// Where the samples listen and where they look for the gateway.
const LISTENS: &str = "8080";
const GATEWAY: &str = "127.0.0.1:8000";

/// A proxy. It ends when this is dropped.
pub struct Proxy {
    process: Child,
    port: Port,
    said: Lines,
    folder: tempfile::TempDir,
}

impl Proxy {
    /// nginx with a sample, in front of this gateway (`127.0.0.1:PORT`). Replacements may name files of the folder by
    /// `FOLDER/…`.
    pub async fn nginx(
        sample: &str,
        gateway: &str,
        files: &[(&str, &str)],
        replaced: &[(&str, &str)],
    ) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/front").join(sample);
        Self::nginx_of(&std::fs::read_to_string(path).unwrap(), gateway, files, replaced).await
    }

    /// nginx with this configuration, written as the samples are.
    pub async fn nginx_as(text: &str, gateway: &str) -> Self {
        Self::nginx_of(text, gateway, &[], &[("FOLDER/", "FOLDER/")]).await
    }

    async fn nginx_of(text: &str, gateway: &str, files: &[(&str, &str)], replaced: &[(&str, &str)]) -> Self {
        let (folder, port) = (folder_with(files), Port::take());
        // Where Debian's nginx keeps its own only root may write.
        let own = "http {\n    access_log off; client_body_temp_path a; proxy_temp_path b; fastcgi_temp_path c; \
                   uwsgi_temp_path d; scgi_temp_path e;\n";
        let listens = format!("listen 127.0.0.1:{};", port.number());
        let always = [("http {\n", own), ("listen 8080;", listens.as_str()), (GATEWAY, gateway)];
        let file = write(&folder, "nginx.conf", text, &[&always, replaced].concat());
        let mut command = command("nginx");
        command.args(["-e", "stderr", "-g", "daemon off; master_process off; pid nginx.pid;"]);
        command.arg("-p").arg(folder.path()).arg("-c").arg(file);
        Self::start(command, port, folder).await
    }

    /// nginx that gives each request to the next of these gateways.
    pub async fn nginx_in_turn(gateways: &[&str]) -> Self {
        let port = Port::take();
        let servers: String = gateways.iter().map(|gateway| format!("server {gateway}; ")).collect();
        let text = format!(
            "events {{}}\nhttp {{\n    access_log off; client_body_temp_path a; proxy_temp_path b; fastcgi_temp_path c;\n    \
             uwsgi_temp_path d; scgi_temp_path e;\n    upstream portcullis {{ {servers} keepalive 32; }}\n    server {{\n        \
             listen 127.0.0.1:{};\n        keepalive_requests 1000000;\n        location / {{\n            \
             proxy_pass http://portcullis;\n            proxy_http_version 1.1;\n            \
             proxy_set_header Connection \"\";\n            proxy_set_header Host $http_host;\n        }}\n    }}\n}}\n",
            port.number()
        );
        let folder = folder_with(&[("nginx.conf", &text)]);
        let mut command = command("nginx");
        command.args(["-e", "stderr", "-g", "daemon off; master_process off; pid nginx.pid;"]);
        command.arg("-p").arg(folder.path()).arg("-c").arg(folder.path().join("nginx.conf"));
        Self::start(command, port, folder).await
    }

    /// haproxy with a sample, in front of this gateway.
    pub async fn haproxy(
        sample: &str,
        gateway: &str,
        files: &[(&str, &str)],
        replaced: &[(&str, &str)],
        environment: &[(&str, &str)],
    ) -> Self {
        let (folder, port) = (folder_with(files), Port::take());
        let (bind, binds) = (format!("bind :{LISTENS}\n"), format!("bind {}\n", port.address()));
        let always = [(bind.as_str(), binds.as_str()), (GATEWAY, gateway)];
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/front").join(sample);
        let text = std::fs::read_to_string(path).unwrap();
        let file = write(&folder, sample, &text, &[&always, replaced].concat());
        let mut command = command("haproxy");
        // In one process, in the foreground.
        command.arg("-db").arg("-f").arg(file).envs(environment.iter().copied());
        Self::start(command, port, folder).await
    }

    async fn start(mut command: Command, port: Port, folder: tempfile::TempDir) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let said = Lines::of(process.stderr.take().unwrap());
        let (address, told) = (port.address(), said.clone());
        let listens = until("a proxy that listens", || {
            let ended = process.try_wait().unwrap();
            assert!(ended.is_none(), "the proxy ended with {}: {}", ended.unwrap(), told.text());
            std::future::ready(std::net::TcpStream::connect(&address).ok())
        });
        drop(listens.await);
        Self { process, port, said, folder }
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        self.port.address()
    }

    /// A path of it.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.port.address())
    }

    /// What it has written to a file of its folder.
    pub fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap()
    }

    /// What it said of its troubles.
    pub fn said(&self) -> String {
        self.said.text()
    }
}

/// The program of Debian's package, which is not in the path of ordinary users.
fn command(name: &str) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let program = folders.map(|folder| folder.join(name)).find(|program| program.is_file());
    Command::new(program.unwrap_or_else(|| panic!("{name} is missing: run `scripts/prepare proxies`")))
}

fn folder_with(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

/// The text with its replacements, in a file of the folder.
fn write(folder: &tempfile::TempDir, name: &str, text: &str, replaced: &[(&str, &str)]) -> PathBuf {
    let mut text = text.to_owned();
    for (from, to) in replaced {
        assert!(text.contains(from), "{name} has no {from:?}");
        text = text.replace(from, &to.replace("FOLDER", &folder.path().display().to_string()));
    }
    let file = folder.path().join(name);
    std::fs::write(&file, text).unwrap();
    file
}
