//! Reads an issuer's documents: in time before they are out of date, early when a key is wanted that they did not have.
//!
//! What cannot be read, is too large or makes no sense changes nothing: the last good keys serve for a day longer than
//! they said they hold.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, anyhow, ensure};
use bytes::Bytes;
use http::{HeaderMap, header};
use tracing::{info, warn};

use crate::{
    dial::Dialer,
    identity::entra::{
        directory::{Documents, Source},
        discovery::{Endpoints, address, modern_issuer},
        keys::{Issuer, KeySet},
    },
    record::metrics::Metrics,
};

/// The documents hold at least this long, whatever they say.
const LEAST_LIFE: Duration = Duration::from_secs(300);
/// The documents hold this long where they do not say.
const USUAL_LIFE: Duration = Duration::from_secs(3600);
/// The documents hold no longer than this, whatever they say.
const LONGEST_LIFE: Duration = Duration::from_secs(86_400);
/// How long keys serve on that cannot be read anew.
const GRACE: Duration = Duration::from_secs(86_400);
/// Readings because somebody wants a key begin at least this far apart, so that made-up keys cost no more.
const APART: Duration = Duration::from_secs(5);
/// First and longest wait after a failure.
const RETRIES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

/// Reads one issuer's documents.
pub struct Reader<'k> {
    source: &'k Source,
    dialer: Dialer,
    authority: &'k str,
    metrics: &'k Metrics,
    is_up: bool,
}

/// Why a reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Occasion {
    /// It is time.
    Due,
    /// Somebody wants a key that the documents did not have.
    Wanted,
}

impl<'k> Reader<'k> {
    /// Has read nothing yet.
    pub fn new(source: &'k Source, dialer: Dialer, authority: &'k str, metrics: &'k Metrics) -> Self {
        // A failure of the first reading is told too.
        Self { source, dialer, authority, metrics, is_up: true }
    }

    /// Reads until the process ends.
    pub async fn read_again_and_again(mut self) {
        let (mut due, mut wanted) = (Instant::now(), None::<Instant>);
        let mut retry = RETRIES[0];
        loop {
            let occasion = tokio::select! {
                () = tokio::time::sleep_until(due.into()) => Occasion::Due,
                () = self.source.wanted() => Occasion::Wanted,
            };
            if occasion == Occasion::Wanted {
                if let Some(before) = wanted {
                    tokio::time::sleep_until((before + APART).into()).await;
                }
                wanted = Some(Instant::now());
            }
            self.source.begin();
            let outcome = read(self.source, &self.dialer, self.authority, occasion).await;
            self.note(&outcome);
            match outcome {
                Ok((documents, life)) => {
                    self.source.end(Some(documents));
                    let next = Instant::now() + life;
                    // A reading that was wanted left the addresses out: theirs is due as before, or whoever makes up
                    // keys could put it off for ever.
                    due = if occasion == Occasion::Wanted { due.min(next) } else { next };
                    retry = RETRIES[0];
                }
                Err(_) => {
                    self.source.end(None);
                    due = Instant::now() + scattered(retry);
                    retry = (retry * 2).min(RETRIES[1]);
                }
            }
        }
    }

    fn note<T>(&mut self, outcome: &anyhow::Result<T>) {
        let Source { tenant, version, .. } = *self.source;
        let tenant_text = tenant.to_string();
        let labels = [tenant_text.as_str(), version.as_str()];
        self.metrics.entra_up.with_label_values(&labels).set(i64::from(outcome.is_ok()));
        let of = format!("keys of tenant `{tenant}` (tokens of version {})", version.as_str());
        match outcome {
            Ok(_) if !self.is_up => info!(tenant.id = %tenant, "{of} can be read again"),
            Err(error) if self.is_up => warn!(tenant.id = %tenant, "{of} cannot be read: {error:#}"),
            Ok(_) | Err(_) => {}
        }
        self.is_up = outcome.is_ok();
    }
}

/// The documents, and how long they hold.
async fn read(
    source: &Source,
    dialer: &Dialer,
    authority: &str,
    occasion: Occasion,
) -> anyhow::Result<(Documents, Duration)> {
    let known = source.known();
    let Source { tenant, version, .. } = *source;
    let now = SystemTime::now();
    // Addresses do not change with a key, and whoever waits for a new one waits for one document only.
    let (endpoints, first_life) = match (&known, occasion) {
        (Some(known), Occasion::Wanted) => (known.endpoints.clone(), LONGEST_LIFE),
        _ => {
            let url = address(authority, tenant, version);
            let (document, headers) = fetch(dialer, &url).await.with_context(|| format!("`{url}`"))?;
            let endpoints = Endpoints::read(&document, authority, tenant)
                .map_err(|trouble| anyhow!("`{url}`: {trouble}"))?;
            (endpoints, life(&headers, now))
        }
    };
    let url = &endpoints.keys;
    let (document, headers) = fetch(dialer, url).await.with_context(|| format!("`{url}`"))?;
    let modern_name = modern_issuer(authority, tenant);
    let issuer = Issuer { name: &endpoints.issuer, modern_name: &modern_name, tenant };
    let keys = KeySet::read(&document, issuer, known.as_ref().map(|known| &known.keys))
        .map_err(|trouble| anyhow!("`{url}`: {trouble}"))?;
    let life = life(&headers, now).min(first_life);
    Ok((Documents { endpoints, keys, good_until: Instant::now() + life + GRACE }, life))
}

async fn fetch(dialer: &Dialer, url: &str) -> anyhow::Result<(Bytes, HeaderMap)> {
    let request = http::Request::get(url).header(header::ACCEPT, "application/json").body(Bytes::new())?;
    let (head, body) = dialer.exchange(request).await?.into_parts();
    ensure!(head.status == http::StatusCode::OK, "answered {}", head.status);
    Ok((body, head.headers))
}

/// How many keys the documents of an issuer have now.
pub async fn count(source: &Source, dialer: &Dialer, authority: &str) -> anyhow::Result<usize> {
    let (documents, _) = read(source, dialer, authority, Occasion::Due).await?;
    Ok(documents.keys.len())
}

/// Some time of at least half this wait, so that many gateways do not ask at once.
fn scattered(wait: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    wait / 2 + wait.mul_f64(random as f64 / u64::MAX as f64 / 2.0)
}

/// How long an answer holds (RFC 9111 section 4.2), within our limits.
fn life(headers: &HeaderMap, now: SystemTime) -> Duration {
    let said = said_life(headers, now).unwrap_or(USUAL_LIFE);
    said.clamp(LEAST_LIFE, LONGEST_LIFE)
}

fn said_life(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let directives = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let directives = directives.flat_map(|value| value.split(',')).map(str::trim);
    let mut max_age = None;
    for directive in directives {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        match name.to_ascii_lowercase().as_str() {
            "no-store" | "no-cache" => return Some(Duration::ZERO),
            "max-age" => max_age = value.trim_matches('"').parse().ok().map(Duration::from_secs),
            _ => {}
        }
    }
    let text = |name: &header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(max_age) = max_age {
        let age =
            text(&header::AGE).and_then(|age| age.parse().ok()).map_or(Duration::ZERO, Duration::from_secs);
        return Some(max_age.saturating_sub(age));
    }
    let expires = httpdate::parse_http_date(text(&header::EXPIRES)?).ok()?;
    let sent = text(&header::DATE).and_then(|date| httpdate::parse_http_date(date).ok()).unwrap_or(now);
    Some(expires.duration_since(sent).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[track_caller]
    fn check(pairs: &[(&'static str, &str)], expected_secs: u64) {
        assert_eq!(life(&headers(pairs), SystemTime::now()).as_secs(), expected_secs, "{pairs:?}");
    }

    #[test]
    fn a_document_holds_as_long_as_it_says_within_limits() {
        check(&[], 3600);
        check(&[("cache-control", "max-age=86400, private")], 86_400);
        check(&[("cache-control", "public"), ("cache-control", "Max-Age=7200")], 7200);
        check(&[("cache-control", "max-age=7200"), ("age", "200")], 7000);
        check(&[("cache-control", "max-age=7200"), ("age", "9000")], 300);
        check(&[("cache-control", "max-age=99999999999")], 86_400);
        check(&[("cache-control", "max-age=1")], 300);
        check(&[("cache-control", "max-age=7200, no-store")], 300);
        check(&[("cache-control", "max-age=99999999999999999999999")], 3600);
        check(&[("cache-control", "max-age=-1")], 3600);
        let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        check(&[date, ("expires", "Sun, 06 Nov 1994 10:49:37 GMT")], 7200);
        check(&[date, ("expires", "Sun, 06 Nov 1994 07:49:37 GMT")], 300);
        check(&[("expires", "0")], 3600);
    }

    #[test]
    fn waits_are_scattered_within_half_of_them() {
        for _ in 0..1000 {
            let wait = scattered(Duration::from_secs(60));
            assert!((Duration::from_secs(30)..=Duration::from_secs(60)).contains(&wait), "{wait:?}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(control in "[ -~]{0,60}", expires in "[ -~]{0,40}", age in "[ -~]{0,20}") {
            let headers = headers(&[("cache-control", &control), ("expires", &expires), ("age", &age)]);
            let life = life(&headers, SystemTime::now());
            prop_assert!((LEAST_LIFE..=LONGEST_LIFE).contains(&life));
        }
    }
}
