//! `check --connect`: whether what the configuration points to is there.
//!
//! Decides what keeps callers from being served and what is only worth knowing. Changes nothing anywhere.

use anyhow::bail;

use crate::{
    catalog,
    config::Config,
    dial::Dialer,
    snapshot,
    store::{self, DatabaseUrl, Store, openwebui::OpenWebUi},
};

/// What `check --connect` found.
#[derive(Debug, Default)]
pub struct Findings {
    /// What `run` will see to by itself.
    pub warnings: Vec<String>,
    /// What keeps callers from being served.
    pub problems: Vec<String>,
}

/// Checks what `check --connect` checks: the databases, and every server's tool list.
pub async fn connect_all(config: &Config) -> anyhow::Result<Findings> {
    let Findings { mut warnings, mut problems } = Findings::default();
    match connect_store(&config.store).await {
        Ok(warning) => warnings.extend(warning),
        Err(error) => problems.push(format!("the grants database: {error:#}")),
    }
    if let Some(tables) = &config.identity.openwebui_tables
        && let Err(error) = connect_openwebui(&tables.database, &tables.schema).await
    {
        problems.push(format!("Open WebUI's database: {error:#}"));
    }
    let catalog::Settings { deadline, max_bytes, .. } = config.catalog;
    let dialer = Dialer::new(deadline, max_bytes)?;
    for server in config.servers.iter().filter(|server| server.is_enabled) {
        if let Err(error) = snapshot::tools::read(&dialer, server).await {
            problems.push(format!("server `{}`: {error:#}", server.id));
        }
    }
    Ok(Findings { warnings, problems })
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

async fn connect_openwebui(url: &DatabaseUrl, schema: &str) -> anyhow::Result<()> {
    OpenWebUi::open(url, schema)?.users(&["-".to_owned()]).await.map(drop)
}
