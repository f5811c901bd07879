//! `portcullis dev`: the whole gateway from the binary alone, to be called a minute later.
//!
//! A scratch SQLite database, the sample tool server inside the process, two users (one with a grant,
//! one without) and lines to paste. Nothing is left behind, and nobody else can reach it.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
};

use anyhow::Context;
use clap::Args;

use super::{data, logs, talk, token, wait_for};
use crate::{
    app,
    config::{self, Config, Environment, Named},
    names::{Email, Secret, ServerId},
    sample,
    store::Store,
};

const GRANTED: &str = "alice@example.com";
const STRANGER: &str = "bob@example.com";
const LIFETIME: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// Where it listens.
#[derive(Args)]
pub struct DevArguments {
    /// Port of the gateway, on 127.0.0.1.
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// Port of metrics and readiness, on 127.0.0.1.
    #[arg(long, default_value_t = 9090)]
    ops_port: u16,
}

/// Runs until interrupted.
pub fn dev(arguments: &DevArguments) -> anyhow::Result<()> {
    let scratch = tempfile::tempdir().context("cannot make a scratch folder")?;
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
        .context("no port for the sample server")?;
    listener.set_nonblocking(true)?;
    let secret = Secret::new(format!("dev-{}", crate::names::RequestId::new()));
    let config = settings(arguments, scratch.path(), &listener, &secret)?;
    wait_for(prepare(&config))?;
    let last_things = app::LastThings::default();
    last_things.keep(scratch);
    let (log, levels) = logs::start(&config.record)?;
    last_things.keep(log);
    let lines = lines(arguments, &secret)?;
    let begin: app::Begin = Box::new(move || {
        Box::pin(async move {
            for line in &lines {
                drop(data(line));
            }
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => drop(sample::serve(listener, std::future::pending()).await),
                Err(error) => talk(&format!("error: the sample server cannot start: {error}")),
            }
        })
    });
    let start = app::Start {
        config,
        origin: None,
        levels,
        inherited: app::Inherited::default(),
        command_line: None,
        begin: Some(begin),
        last_things,
    };
    app::run(start)
}

fn settings(
    arguments: &DevArguments,
    scratch: &Path,
    listener: &TcpListener,
    secret: &Secret<String>,
) -> anyhow::Result<Config> {
    let gateway = format!(
        "[listen]\nhttp = \"127.0.0.1:{}\"\nops = \"127.0.0.1:{}\"\n[log]\nfilter = \"warn,portcullis=info\"\naccess = false\n",
        arguments.port, arguments.ops_port
    );
    let servers = "[servers.sample]\nname = \"Sample\"\ntier = \"local\"\nurl = \"${SAMPLE_URL}\"\n\
                   description = \"Bundled tools: quick, slow, streaming, failing\"\n";
    let database = format!("sqlite:{}", scratch.join("dev.db").display());
    let sample = format!("http://{}", listener.local_addr()?);
    let environment = Environment::from_pairs([
        ("DATABASE_URL", database.as_str()),
        ("SAMPLE_URL", sample.as_str()),
        ("WEBUI_SECRET_KEY", secret.expose().as_str()),
    ]);
    let (gateway, servers) =
        (Named { name: "dev gateway", text: &gateway }, Named { name: "dev servers", text: servers });
    config::from_texts(gateway, servers, &environment).map_err(anyhow::Error::new)
}

async fn prepare(config: &Config) -> anyhow::Result<()> {
    let store = Store::open(&config.store)?;
    store.migrate().await?;
    store.grant_user(&Email::parse(GRANTED)?, &ServerId::parse("sample")?).await?;
    store.close().await;
    Ok(())
}

fn lines(arguments: &DevArguments, secret: &Secret<String>) -> anyhow::Result<Vec<String>> {
    let token = |email: &str| -> anyhow::Result<String> {
        token::sign(secret, email, None, &Email::parse(email)?, LIFETIME)
    };
    let url = format!("http://127.0.0.1:{}", arguments.port);
    let (alice, bob) = (token(GRANTED)?, token(STRANGER)?);
    let post = |path: &str, body: &str| {
        format!("curl -sS -H \"Authorization: Bearer $ALICE\" {url}{path} -d '{body}'")
    };
    Ok(vec![
        format!("# Portcullis runs on {url} with one server, `sample`. Paste into another shell:"),
        format!("export ALICE={alice}   # {GRANTED}, may use `sample`"),
        format!("export BOB={bob}   # {STRANGER}, may not"),
        format!("curl -sS -H \"Authorization: Bearer $ALICE\" {url}/servers"),
        format!("curl -sS -H \"Authorization: Bearer $ALICE\" {url}/sample"),
        post("/sample/echo", r#"{"text":"hello"}"#),
        post("/sample/slow", r#"{"seconds":2}"#),
        format!(
            "{}   # one event at a time",
            post("/sample/stream", r#"{"count":5,"interval_millis":500}"#).replace("curl -sS", "curl -sSN")
        ),
        format!("{}   # 422: the tool says no", post("/sample/fail", "{}")),
        format!("curl -sS -H \"Authorization: Bearer $BOB\" {url}/sample/echo -d '{{}}'   # 403: no grant"),
        format!("curl -sS {url}/sample/echo -d '{{}}'   # 401: nobody"),
        "# Ctrl-C ends it; nothing is left behind.".to_owned(),
    ])
}
