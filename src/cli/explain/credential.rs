//! `portcullis explain --token`: what each scheme says of a credential, and why it is believed or not.
//!
//! Asks the very schemes that `run` asks, with the same databases and keys behind them. Never prints the credential, nor
//! any part of it but what a token says openly of itself.

use std::{
    io::{self, BufRead},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::Args;
use http::{HeaderName, HeaderValue, Request, request::Parts};
use serde_json::Value;

use super::super::{data, wait_for};
use crate::{
    app,
    catalog::Catalog,
    config::Config,
    identity::{Caller, Face, Reason, Verdict},
    names::GroupName,
    record::metrics::Metrics,
    refusal::{Code, Refusal},
    snapshot::Current,
};

/// Longest wait for what checks a credential: an issuer's keys, a database.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time between two tries meanwhile.
const PAUSE: Duration = Duration::from_millis(100);

/// A credential, as a request would carry it.
#[derive(Args)]
pub struct CredentialArguments {
    /// The token or key, as it stands behind `Bearer`; `-` reads it from the standard input, where no list of processes
    /// shows it.
    #[arg(long, value_name = "TOKEN|-", allow_hyphen_values = true)]
    token: Option<String>,
    /// A header beside it, such as `X-OpenWebUI-User-Jwt: …`; may be repeated.
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = parse_header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The address it comes from, for `auth.gateway.trusted_proxies`.
    #[arg(long, value_name = "ADDRESS")]
    from: Option<IpAddr>,
}

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write `NAME: VALUE`")?;
    let name = name.trim().parse().map_err(|_| "this is not the name of a header")?;
    let value = value.trim().parse().map_err(|_| "this is not the value of a header")?;
    Ok((name, value))
}

/// Prints what each scheme says; the caller where one believes.
pub fn explain(config: &Config, arguments: &CredentialArguments) -> anyhow::Result<Option<Arc<Caller>>> {
    let token = arguments.token.as_deref().map(read_token).transpose()?;
    if let Some(claims) = token.as_deref().and_then(openly) {
        data(&claims)?;
    }
    let request = request(token.as_deref(), &arguments.headers)?;
    let (heard, decision) = wait_for(ask(config, &request, arguments.from))?;
    heard.iter().try_for_each(|line| data(line))?;
    match decision {
        Ok(caller) => {
            data(&who(&caller))?;
            Ok(Some(caller))
        }
        Err(refusal) => {
            let code = refusal.code();
            if refusal.why() == Some(Reason::Unrecognised.as_str()) {
                data(Reason::Unrecognised.sentence())?;
            }
            data(&format!("a call with it is answered {} `{}`", code.status(), code.as_str()))?;
            Ok(None)
        }
    }
}

fn read_token(argument: &str) -> anyhow::Result<String> {
    let mut line = String::new();
    if argument == "-" {
        io::stdin().lock().read_line(&mut line).context("cannot read the token from the standard input")?;
    } else {
        line.push_str(argument);
    }
    let token = line.trim();
    // What people copy from a header.
    let token = match token.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        _ => token,
    };
    if token.is_empty() {
        bail!("the token is empty");
    }
    Ok(token.to_owned())
}

fn request(token: Option<&str>, headers: &[(HeaderName, HeaderValue)]) -> anyhow::Result<Parts> {
    let mut request = Request::builder().uri("/");
    if let Some(token) = token {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .ok()
            .context("the token holds characters that no header can carry")?;
        value.set_sensitive(true);
        request = request.header(http::header::AUTHORIZATION, value);
    }
    for (name, value) in headers {
        request = request.header(name, value);
    }
    Ok(request.body(())?.into_parts().0)
}

type Decision = Result<Arc<Caller>, Refusal>;

/// What each scheme says, and what follows; asked again while what they need is still being read.
async fn ask(
    config: &Config,
    request: &Parts,
    from: Option<IpAddr>,
) -> anyhow::Result<(Vec<String>, Decision)> {
    let (identity, believed) = app::identity(config);
    let opened = app::Asked::new(&config.identity)?;
    let current = Current::new(Catalog::new(Vec::new()), config.access.max_stale);
    let mut tasks = tokio::task::JoinSet::new();
    let groups = believed.tasks(opened, None, &current, &Arc::new(Metrics::new()?))?;
    for task in groups.into_iter().flat_map(|(_, tasks)| tasks) {
        tasks.spawn(task.work);
    }
    let began = Instant::now();
    loop {
        let mut heard = Vec::new();
        let mut listener = |scheme: &'static str, verdict: &Verdict| heard.push(said(scheme, verdict));
        let decision = identity.identify_aloud(request, Face::Call, from, &mut listener).await;
        let is_settled = !matches!(&decision, Err(refusal) if refusal.code() == Code::KeysUnknown);
        if is_settled || began.elapsed() > PATIENCE {
            return Ok((heard, decision));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// One scheme's answer.
fn said(scheme: &str, verdict: &Verdict) -> String {
    match verdict {
        Verdict::Off => format!("{scheme}: off"),
        Verdict::NotMine => format!("{scheme}: not one of its credentials"),
        Verdict::Known(_) => format!("{scheme}: believed"),
        Verdict::Failed(refusal) => {
            let word = refusal.why().unwrap_or(refusal.code().as_str());
            let cause = refusal.cause().unwrap_or(refusal.sentence());
            format!("{scheme}: refused: {word}: {cause}")
        }
    }
}

/// Whom the credential names.
fn who(caller: &Caller) -> String {
    let groups: Vec<_> = caller.groups().iter().map(GroupName::as_str).collect();
    let mut sentence = format!("it is `{}`", caller.name());
    match groups[..] {
        [] => sentence.push_str(" without groups"),
        _ => sentence.push_str(&format!(" in the groups `{}`", groups.join("`, `"))),
    }
    if caller.is_admin() {
        sentence.push_str(", an admin by a trusted gateway's word");
    }
    if let Some(id) = caller.openwebui_id() {
        sentence.push_str(&format!(", `{id}` in Open WebUI"));
    }
    if let Some(id) = caller.directory() {
        sentence.push_str(&format!(", object `{}` of tenant `{}` in Entra ID", id.object, id.tenant));
    }
    sentence
}

/// What a JWT says of itself, for anybody to read.
fn openly(token: &str) -> Option<String> {
    let mut parts = token.split('.');
    let (header, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    let read = |part: &str| -> Option<Value> {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok()?).ok()
    };
    let (header, claims) = (read(header)?, read(claims)?);
    let of = |object: &Value, names: &[&'static str]| -> Vec<String> {
        let known = names.iter().filter_map(|name| Some((*name, object.get(*name)?)));
        known.map(|(name, value)| format!("{name} {}", shortened(value))).collect()
    };
    let mut said = of(&header, &["alg", "kid"]);
    said.extend(of(&claims, &["iss", "aud", "tid", "ver", "typ", "nbf", "exp"]));
    Some(format!("the token says of itself: {}", said.join(", ")))
}

fn printable(letter: char) -> impl Iterator<Item = char> {
    let is_plain = letter.is_alphanumeric() || (' '..='~').contains(&letter);
    is_plain
        .then_some(letter)
        .into_iter()
        .chain((!is_plain).then(|| letter.escape_unicode()).into_iter().flatten())
}

fn shortened(value: &Value) -> String {
    const MOST: usize = 100;
    // As JSON, so that nothing in it can pass for another line, and without what a terminal would obey.
    let text: String = value.to_string().chars().flat_map(printable).collect();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
