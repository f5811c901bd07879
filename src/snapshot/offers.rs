//! Reads what a server of MCP offers: its tools, prompts, resources and templates, all pages of each.
//!
//! Decides with which credential a list is read, how many pages it may have and what becomes of one that cannot be read:
//! without its tools a server was not read, any other list stays as it was. Never decides when: `tools` does.

use std::{sync::Arc, time::SystemTime};

use anyhow::{Context, bail, ensure};
use serde_json::json;
use tokio::time::timeout;

use super::addresses;
use crate::{
    catalog::{
        Settings,
        offers::{self, About, Kind, Offer, Offers},
        server::Server,
        tools::{Skipped, ToolList},
    },
    client::{Ask, Client, Spoken},
    mcp::{
        members::{Members, text},
        told::Told,
    },
    refusal::Refusal,
    upstream::way::{Way, own_way},
};

/// Most pages of one list.
const MAX_PAGES: usize = 1_000;
/// The code of an answer to a method that a server does not have (JSON-RPC 2.0, section 5.1).
const NO_SUCH_METHOD: &str = "-32601";

/// What was read.
#[derive(Debug)]
pub struct Found {
    /// The tools.
    pub tools: ToolList,
    /// What is not offered, of all lists.
    pub skipped: Vec<Skipped>,
    /// Everything else.
    pub offers: Offers,
    /// Why lists could not be read that stayed as they were.
    pub troubles: Vec<String>,
}

/// Reads all that a server offers; `known` is what it offered before.
pub async fn read(
    client: &Client,
    server: &Arc<Server>,
    settings: &Settings,
    known: Option<&Offers>,
) -> anyhow::Result<Found> {
    let reader = Reader::new(client, server, settings).await?;
    let about = reader.about().await?;
    let pages = reader.list("tools/list", &about).await.context("`tools/list`")?;
    let mut hints = Hints::of(&pages, about.is_modern);
    // Megabytes of it take long, and a bug it might trigger must not end more than this.
    let parsed = tokio::task::spawn_blocking(move || ToolList::from_mcp(&pages)).await?;
    let (tools, mut skipped) = parsed.context("`tools/list`")?;
    let mut troubles = Vec::new();
    let mut lists = [Vec::new(), Vec::new(), Vec::new()];
    let of = |offers: &Offers| [offers.prompts.clone(), offers.resources.clone(), offers.templates.clone()];
    let before = known.map(of).unwrap_or_default();
    for ((list, before), kind) in lists.iter_mut().zip(before).zip(KINDS) {
        let (capability, method) = asked_by(kind);
        if !about.has_capability(capability) {
            continue;
        }
        match reader.offers(kind, method, &about).await {
            Ok((read, others, said)) => {
                *list = read;
                skipped.extend(others);
                hints = hints.and(said);
            }
            Err(error) => {
                *list = before;
                troubles.push(format!("`{method}`: {error:#}"));
            }
        }
    }
    let [prompts, resources, templates] = lists;
    let is_stale = !troubles.is_empty();
    let about = About { ttl_ms: hints.ttl_ms, is_public: hints.is_public, is_stale, ..about };
    Ok(Found { tools, skipped, offers: Offers { prompts, resources, templates, about }, troubles })
}

const KINDS: [Kind; 3] = [Kind::Prompts, Kind::Resources, Kind::Templates];

/// The capability of a server that has such a list, and the method that asks for it.
const fn asked_by(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Prompts => ("prompts", "prompts/list"),
        Kind::Resources => ("resources", "resources/list"),
        Kind::Templates => ("resources", "resources/templates/list"),
    }
}

/// Reads one server's lists.
struct Reader<'r> {
    client: &'r Client,
    settings: &'r Settings,
    /// With the credential for lists.
    way: Way,
    /// With the credential for calls, where that is another one.
    call_way: Option<Way>,
}

impl<'r> Reader<'r> {
    async fn new(
        client: &'r Client,
        server: &Arc<Server>,
        settings: &'r Settings,
    ) -> anyhow::Result<Reader<'r>> {
        // Looked up here: a reading waits for names, and does not wait for the task that keeps them for calls.
        let addresses = addresses::now(server).await;
        let way = |credential| own_way(server.clone(), &addresses, credential).map_err(told);
        let call = server.credential.clone();
        let Some(discovery) = server.discovery_credential.clone() else {
            return Ok(Self { client, settings, way: way(call)?, call_way: None });
        };
        let (way, call_way) = (way(Some(discovery))?, way(call)?);
        let call_way = (way.context() != call_way.context()).then_some(call_way);
        Ok(Self { client, settings, way, call_way })
    }

    /// What the server says about itself.
    async fn about(&self) -> anyhow::Result<About> {
        let introduced = |way| async move {
            let spoken = timeout(self.settings.deadline, self.client.spoken(way)).await;
            spoken
                .with_context(|| format!("no introduction within {:?}", self.settings.deadline))?
                .map_err(told)
        };
        let spoken = introduced(&self.way).await?;
        let older = self.older_revision(&spoken).await;
        let with_older =
            |about: About| About { versions: about.versions.into_iter().chain(older).collect(), ..about };
        if let Some(call_way) = &self.call_way
            && Hints::of(std::slice::from_ref(&spoken.result), spoken.is_modern).is_private
        {
            return about(&introduced(call_way).await?).map(with_older);
        }
        about(&spoken).map(with_older)
    }

    /// The older revision that a modern server takes without saying so; none where it takes none.
    async fn older_revision(&self, spoken: &Spoken) -> Option<String> {
        let says_so = about(spoken)
            .is_ok_and(|about| about.versions.iter().any(|version| !crate::mcp::is_modern(version)));
        if !spoken.is_modern || says_so || self.way.server().mcp_versions.is_some() {
            return None;
        }
        // Not known in time: then it is left to the server to say, request by request.
        let unknown = Some("2025-11-25".to_owned());
        timeout(self.settings.deadline, self.client.also_speaks(&self.way)).await.unwrap_or(unknown)
    }

    async fn offers(
        &self,
        kind: Kind,
        method: &str,
        about: &About,
    ) -> anyhow::Result<(Vec<Offer>, Vec<Skipped>, Hints)> {
        let pages = self.list(method, about).await?;
        let hints = Hints::of(&pages, about.is_modern);
        let (offers, skipped) = tokio::task::spawn_blocking(move || offers::read(kind, &pages)).await??;
        Ok((offers, skipped, hints))
    }

    /// The pages of a list, read with the credential for calls where the server keeps the list to whom it told it.
    async fn list(&self, method: &str, about: &About) -> anyhow::Result<Vec<String>> {
        let pages = self.pages(&self.way, method).await?;
        match &self.call_way {
            Some(call_way) if Hints::of(&pages, about.is_modern).is_private => {
                self.pages(call_way, method).await
            }
            Some(_) | None => Ok(pages),
        }
    }

    async fn pages(&self, way: &Way, method: &str) -> anyhow::Result<Vec<String>> {
        let deadline = self.settings.deadline;
        let pages = timeout(deadline, self.pages_in_time(way, method)).await;
        pages.with_context(|| format!("not complete within {deadline:?}"))?
    }

    async fn pages_in_time(&self, way: &Way, method: &str) -> anyhow::Result<Vec<String>> {
        let mut pages: Vec<String> = Vec::new();
        let mut left = self.settings.max_bytes;
        let mut cursors = std::collections::HashSet::new();
        let mut cursor = None;
        loop {
            let Some(page) = self.page(way, method, cursor.as_deref()).await? else { return Ok(pages) };
            left = left
                .checked_sub(page.len())
                .with_context(|| format!("the list is larger than {} bytes", self.settings.max_bytes))?;
            let next = Members::read(&page)
                .context("a page is not unambiguous JSON")?
                .get("nextCursor")
                .and_then(text);
            let next = next.map(|next| next.into_owned());
            pages.push(page);
            match next {
                None => return Ok(pages),
                Some(next) => {
                    ensure!(pages.len() < MAX_PAGES, "the list has more than {MAX_PAGES} pages");
                    ensure!(cursors.insert(next.clone()), "the pages of the list go round in a circle");
                    cursor = Some(next);
                }
            }
        }
    }

    /// One page; none where the server does not have such a list.
    async fn page(&self, way: &Way, method: &str, cursor: Option<&str>) -> anyhow::Result<Option<String>> {
        let ask = Ask {
            method: method.to_owned(),
            params: cursor.map(|cursor| json!({"cursor": cursor}).to_string()),
            is_repeatable: true,
            ..Ask::default()
        };
        let mut replies = self.client.ask(way, &ask).await.map_err(told)?;
        loop {
            match replies.next().await.map_err(told)? {
                // What it says besides is for nobody, and `client` has answered what it asks.
                Told::Notification { .. } | Told::Request { .. } => {}
                Told::Result { result, .. } => return Ok(Some(result)),
                Told::Error { error, .. } => {
                    let code = Members::read(&error).and_then(|error| error.get("code").map(str::to_owned));
                    match code.as_deref() {
                        Some(NO_SUCH_METHOD) if cursor.is_none() => return Ok(None),
                        Some(code) => bail!("the server answered with error {code}"),
                        None => bail!("the server answered with an error"),
                    }
                }
            }
        }
    }
}

/// A refusal as the operator reads it.
fn told(refusal: Refusal) -> anyhow::Error {
    match refusal.cause() {
        Some(cause) => anyhow::anyhow!("{}: {cause}", refusal.sentence()),
        None => anyhow::anyhow!("{}", refusal.sentence()),
    }
}

/// What an answer to `server/discover` or `initialize` says; what it does not say is empty.
fn about(spoken: &Spoken) -> anyhow::Result<About> {
    let members =
        Members::read(&spoken.result).context("the server's introduction is not unambiguous JSON")?;
    let object = |name: &str| members.get(name).filter(|raw| raw.starts_with('{')).map(str::to_owned);
    let listed = members.get("supportedVersions").filter(|_| spoken.is_modern);
    let listed = listed.and_then(|raw| serde_json::from_str::<Vec<String>>(raw).ok());
    let versions = listed.unwrap_or_else(|| vec![spoken.version.clone()]);
    let instructions = members.get("instructions").and_then(text).filter(|text| !text.is_empty());
    Ok(About {
        is_modern: spoken.is_modern,
        versions,
        capabilities: object("capabilities").unwrap_or_else(|| "{}".to_owned()),
        instructions: instructions.map(|text| text.into_owned()),
        info: object("serverInfo"),
        ttl_ms: 0,
        is_public: false,
        read_at: SystemTime::now(),
        is_stale: false,
    })
}

/// What a server says of how long its lists hold, and for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hints {
    ttl_ms: u64,
    /// Every page may be shown to anybody.
    is_public: bool,
    /// Some page is for none but whom it was told.
    is_private: bool,
}

impl Hints {
    /// Those of pages (MCP 2026-07-28, Caching). A legacy server cannot say for whom a list is, so it is as the operator
    /// has it; a modern one that should and does not is taken to say `private`.
    fn of(pages: &[String], is_modern: bool) -> Self {
        let each = pages.iter().map(|page| {
            let members = Members::read(page).unwrap_or_default();
            let is_public = members.get("cacheScope").and_then(text).as_deref() == Some("public");
            let ttl_ms = members.get("ttlMs").and_then(|raw| raw.parse().ok()).unwrap_or(0);
            Self { ttl_ms, is_public, is_private: is_modern && !is_public }
        });
        each.reduce(Self::and).unwrap_or(Self { ttl_ms: 0, is_public: false, is_private: false })
    }

    /// What holds for both.
    fn and(self, other: Self) -> Self {
        Self {
            ttl_ms: self.ttl_ms.min(other.ttl_ms),
            is_public: self.is_public && other.is_public,
            is_private: self.is_private || other.is_private,
        }
    }
}

#[cfg(test)]
mod tests;
