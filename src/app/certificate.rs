//! The listener's certificate, kept as its files are.
//!
//! Decides when they are looked at, and what is said of what is in them. Never ends a connection: those that stand keep
//! what they began with.

use std::{sync::Arc, time::Duration};

use anyhow::anyhow;
use tokio::time::MissedTickBehavior;
use tracing::{error, info, warn};

use crate::{
    gateway::{
        Settings,
        tls::{Certificates, Pair, Reread, Unusable},
    },
    record::metrics::Metrics,
};

/// Time between two looks at the files.
const PAUSE: Duration = Duration::from_secs(1);

/// The certificate, where one is configured.
pub fn read(settings: &Settings, metrics: &Metrics) -> anyhow::Result<Option<Arc<Certificates>>> {
    let Some(settings) = &settings.tls else { return Ok(None) };
    let certificates = Certificates::read(settings)
        .map_err(|unusable| anyhow!("`listen.{}` {}; {}", unusable.key, unusable.sentence, unusable.hint))?;
    note(&certificates.current(), metrics);
    Ok(Some(certificates))
}

fn note(pair: &Pair, metrics: &Metrics) {
    metrics.certificate_expires.set(pair.expires_at());
    if let Some(remark) = pair.remark() {
        warn!("the certificate of `listen.certificate` {remark}, so clients will refuse it");
    }
}

/// Reads the files again and again; runs until the process ends.
pub async fn keep(certificates: Arc<Certificates>, metrics: Arc<Metrics>) {
    let mut looks = tokio::time::interval(PAUSE);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut before, mut told) = (None, None);
    loop {
        looks.tick().await;
        let unusable = look_again(&certificates, &metrics);
        metrics.certificate_unusable.set(i64::from(unusable.is_some()));
        // Told once, and not before the second look: whoever writes two files is between them for a moment.
        if let Some(unusable) = unusable.as_ref().filter(|_| unusable == before && unusable != told) {
            let Unusable { key, sentence, hint } = unusable;
            error!("`listen.{key}` {sentence}; the certificate before stays in use; {hint}");
            told = Some(unusable.clone());
        }
        if unusable.is_none() {
            told = None;
        }
        before = unusable;
    }
}

/// Takes what the files hold now, and gives back why it cannot be used.
pub fn look_again(certificates: &Certificates, metrics: &Metrics) -> Option<Unusable> {
    match certificates.reread() {
        Reread::Same => None,
        Reread::Renewed(pair) => {
            info!("`listen.certificate` holds another certificate, which new connections have from now on");
            note(&pair, metrics);
            None
        }
        Reread::Unusable(unusable) => Some(unusable),
    }
}
