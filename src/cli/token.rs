//! `portcullis token`: a session token as Open WebUI would sign it, for development and first calls.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;

use super::{data, wait_for};
use crate::{
    config::Config,
    names::{Email, Secret},
    store::openwebui::OpenWebUi,
};

/// For whom and how long.
#[derive(Args)]
pub struct TokenArguments {
    /// The user.
    #[arg(long, value_name = "EMAIL", value_parser = Email::parse)]
    email: Email,
    /// Hours until it expires.
    #[arg(long, value_name = "HOURS", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=8760))]
    hours: u32,
}

#[derive(Serialize)]
struct Claims<'a> {
    id: &'a str,
    typ: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_stamp: Option<&'a str>,
    email: &'a str,
    iat: u64,
    exp: u64,
    jti: String,
}

/// Prints the token.
pub fn token(config: &Config, arguments: &TokenArguments) -> anyhow::Result<()> {
    let Some(sessions) = &config.identity.sessions else {
        bail!("no session tokens are believed; set `auth.openwebui.secret` (`WEBUI_SECRET_KEY`)");
    };
    let lifetime = Duration::from_secs(u64::from(arguments.hours) * 3600);
    let Some(tables) = &config.identity.openwebui_tables else {
        return data(&sign(&sessions.secret, arguments.email.as_str(), None, &arguments.email, lifetime)?);
    };
    let user = wait_for(async {
        OpenWebUi::open(&tables.database, &tables.schema)?.user_by_email(&arguments.email).await
    })?
    .with_context(|| format!("Open WebUI has no user `{}`", arguments.email))?;
    if let Some(trouble) = user.trouble() {
        bail!("a token of `{}` would be refused: {trouble}", arguments.email);
    }
    data(&sign(&sessions.secret, &user.id, user.session_stamp.as_deref(), &user.email, lifetime)?)
}

/// Signs a session token.
pub fn sign(
    secret: &Secret<String>,
    id: &str,
    session_stamp: Option<&str>,
    email: &Email,
    lifetime: Duration,
) -> anyhow::Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?.as_secs();
    let claims = Claims {
        id,
        typ: "session",
        session_stamp,
        email: email.as_str(),
        iat: now,
        exp: now + lifetime.as_secs(),
        jti: crate::names::RequestId::new().as_str().to_owned(),
    };
    let key = jsonwebtoken::EncodingKey::from_secret(secret.expose().as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).context("cannot sign the token")
}
