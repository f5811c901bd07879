//! `check --connect`: whether what the configuration points to is there.
//!
//! Decides what keeps callers from being served and what is only worth knowing. Changes nothing anywhere.

use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use serde_json::json;

use crate::{
    catalog::{
        self,
        offers::Offers,
        server::{Dialect, PeerUrl, ProtocolVersion, Server},
    },
    client::{self, Client},
    config::Config,
    dial::Dialer,
    identity::{RedisSettings, TablesSettings},
    mcp::headers,
    names::Secret,
    snapshot::{self, entra::Look, offers::Found, tools::Sources},
    store::{
        self, Store,
        openwebui::OpenWebUi,
        shared_counts::SharedCounts,
        signed_out::{Mark, Redis},
    },
};

/// What `check --connect` found.
#[derive(Debug, Default)]
pub struct Findings {
    /// What servers offer.
    pub notes: Vec<String>,
    /// What `run` will see to by itself.
    pub warnings: Vec<String>,
    /// What keeps callers from being served.
    pub problems: Vec<String>,
}

/// Checks what `check --connect` checks: the databases, Entra ID's documents, and what every server offers.
pub async fn connect_all(config: &Config) -> anyhow::Result<Findings> {
    let Findings { mut notes, mut warnings, mut problems } = Findings::default();
    match connect_store(&config.store).await {
        Ok(warning) => warnings.extend(warning),
        Err(error) => problems.push(format!("the grants database: {error:#}")),
    }
    if let Some(tables) = &config.identity.openwebui_tables
        && let Err(error) = connect_openwebui(tables).await
    {
        problems.push(format!("Open WebUI's database: {error:#}"));
    }
    if let Some(RedisSettings { url, key_prefix, .. }) = &config.identity.openwebui_redis
        && let Err(error) = connect_redis(url, key_prefix).await
    {
        problems.push(format!("Open WebUI's Redis: {error:#}"));
    }
    warnings.extend(connect_counts(config).await);
    if let Some(entra) = &config.identity.entra {
        for Look { tenant, version, keys } in snapshot::entra::look(entra).await? {
            let of = format!("tenant `{tenant}` of Entra ID (tokens of version {})", version.as_str());
            match keys {
                Ok(count) => notes.push(format!("{of} has {count} keys")),
                Err(error) => problems.push(format!("{of}: {error:#}")),
            }
        }
    }
    snapshot::names::ask(&config.nameservers);
    let catalog::Settings { deadline, max_bytes, .. } = config.catalog;
    let dialer = Dialer::new(deadline, max_bytes)?;
    let client = Client::new(client::Settings { max_answer_bytes: max_bytes });
    let sources = Sources::new(config.catalog.clone(), client)?;
    for server in config.servers.iter().filter(|server| server.is_enabled) {
        let id = &server.id;
        let knocked = match server.dialect {
            Dialect::OpenApi => Ok(None),
            Dialect::Mcp | Dialect::McpSse => knock(&dialer, server).await,
        };
        match knocked {
            Ok(warning) => warnings.extend(warning.map(|warning| format!("server `{id}`: {warning}"))),
            Err(error) => {
                problems.push(format!("server `{id}`: {error:#}"));
                continue;
            }
        }
        match sources.read(&Arc::new(server.clone()), None).await {
            Ok(found) => {
                notes.push(format!("server `{id}` offers {}", offered(&found)));
                let troubles = found.troubles.iter();
                warnings.extend(troubles.map(|trouble| format!("server `{id}`: cannot read {trouble}")));
            }
            // It answers, and clients of MCP may reach it as it is.
            Err(error) if server.dialect.is_mcp() => {
                warnings.push(format!("server `{id}`: its tools cannot be read: {error:#}"));
            }
            Err(error) => problems.push(format!("server `{id}`: {error:#}")),
        }
    }
    Ok(Findings { notes, warnings, problems })
}

/// What is wrong with the Redis that replicas count in: nothing that keeps a caller from being served.
async fn connect_counts(config: &Config) -> Option<String> {
    let redis = config.limits.redis.as_ref()?;
    let looked = async { SharedCounts::connect(&redis.url, &redis.key_prefix).await?.look().await };
    let error = looked.await.err()?;
    Some(format!("the Redis of `limits.redis_url`: {error:#}; each replica would count alone"))
}

/// How much a server offers, in words.
fn offered(found: &Found) -> String {
    let Offers { prompts, resources, templates, .. } = &found.offers;
    let counts = [
        (found.tools.len(), "tools"),
        (prompts.len(), "prompts"),
        (resources.len(), "resources"),
        (templates.len(), "resource templates"),
        (found.skipped.len(), "things that the gateway cannot offer"),
    ];
    let told = counts.iter().enumerate().filter(|(place, (count, _))| *place == 0 || *count > 0);
    told.map(|(_, (count, what))| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
}

/// Whether every address of a server answers as an endpoint of MCP does. What it says is for its callers.
async fn knock(dialer: &Dialer, server: &Server) -> anyhow::Result<Option<String>> {
    let mut warning = None;
    for peer in server.peers.iter() {
        let asked = dialer.status(question(server, peer)?).await;
        let status = asked.with_context(|| format!("`{peer}` cannot be asked"))?;
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                bail!("`{peer}` answered {status}; look at the `credential` of the server");
            }
            status if status.is_redirection() => {
                bail!(
                    "`{peer}` answered {status}; name the address it leads to, the slash at its end included"
                );
            }
            // Older servers may answer so to a method they do not know.
            StatusCode::NOT_FOUND if server.dialect == Dialect::Mcp => {
                warning = Some(format!("`{peer}` answered {status}; is that the path of its endpoint?"));
            }
            status if status.is_success() => {}
            status if status.is_client_error() && server.dialect == Dialect::Mcp => {}
            status => bail!("`{peer}` answered {status}"),
        }
    }
    Ok(warning)
}

/// A question that changes nothing, and that even a server that cannot answer it refuses in its own way.
fn question(server: &Server, peer: &PeerUrl) -> anyhow::Result<Request<Bytes>> {
    let request = Request::builder().uri(peer.to_string());
    let request = match &server.credential {
        Some(credential) => request.header(&credential.name, credential.value.expose()),
        None => request,
    };
    if server.dialect == Dialect::McpSse {
        return Ok(request.header(header::ACCEPT, "text/event-stream").body(Bytes::new())?);
    }
    let (version, method) = (ProtocolVersion::V2026_07_28.as_str(), "server/discover");
    let about_us = json!({"io.modelcontextprotocol/protocolVersion": version,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "portcullis", "version": env!("CARGO_PKG_VERSION")}});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"_meta": about_us}});
    let request = request
        .method(Method::POST)
        .header(header::ACCEPT, "application/json, text/event-stream")
        .header(header::CONTENT_TYPE, "application/json")
        .header(&headers::PROTOCOL_VERSION, version)
        .header(&headers::METHOD, method);
    Ok(request.body(serde_json::to_vec(&body)?.into())?)
}

async fn connect_store(settings: &store::Settings) -> anyhow::Result<Option<String>> {
    let store = Store::open(settings)?;
    let pending = store.pending_migrations().await?;
    store.close().await;
    if pending > 0 && !settings.auto_migrate {
        bail!("{pending} migrations are pending; run `portcullis migrate`");
    }
    Ok((pending > 0).then(|| format!("{pending} migrations are pending; `run` will apply them")))
}

async fn connect_openwebui(tables: &TablesSettings) -> anyhow::Result<()> {
    let openwebui = OpenWebUi::open(&tables.database, &tables.schema)?;
    openwebui.users(&["-".to_owned()]).await?;
    if tables.has_api_keys {
        openwebui.api_keys(&["-"]).await?;
    }
    Ok(())
}

async fn connect_redis(url: &Secret<String>, key_prefix: &str) -> anyhow::Result<()> {
    Redis::open(url, key_prefix)?.read(&[Mark::User("-".into())]).await.map(drop)
}
