//! The listener's certificate, kept as its files are.
//!
//! Decides when they are looked at, and what is said of what is in them. Never ends a connection: those that stand keep
//! what they began with.

use std::{sync::Arc, time::Duration};

use anyhow::anyhow;
use tokio::time::MissedTickBehavior;
use tracing::{error, info, warn};

use super::door::{Stand, Stands};
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

/// Reads the files again and again, as long as connections are accepted; runs until the process ends.
pub async fn keep(certificates: Arc<Certificates>, metrics: Arc<Metrics>, stands: Stands) {
    let mut looks = tokio::time::interval(PAUSE);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut before, mut told) = (None, None);
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            // Whoever took over looks at them.
            () = stands.reached(Stand::Closed) => std::future::pending().await,
        }
        let looked = look_again(&certificates, &metrics);
        let is_renewed = matches!(looked, Ok(Look::Renewed));
        let unusable = looked.err();
        metrics.certificate_unusable.set(i64::from(unusable.is_some()));
        // Told once, and not before the second look: whoever writes two files is between them for a moment.
        if let Some(unusable) = unusable.as_ref().filter(|_| unusable == before && unusable != told) {
            let Unusable { key, sentence, hint } = unusable;
            error!("`listen.{key}` {sentence}; the certificate before stays in use; {hint}");
            told = Some(unusable.clone());
        }
        // A new one has had its line.
        if unusable.is_none() && told.take().is_some() && !is_renewed {
            info!("`listen.certificate` and its key are again those that are in use");
        }
        before = unusable;
    }
}

/// What the files were found to hold.
enum Look {
    Same,
    Renewed,
}

/// Takes what the files hold now, or says why it cannot be used.
fn look_again(certificates: &Certificates, metrics: &Metrics) -> Result<Look, Unusable> {
    match certificates.reread() {
        Reread::Same => Ok(Look::Same),
        Reread::Renewed(pair) => {
            info!("`listen.certificate` holds another certificate, which new connections have from now on");
            note(&pair, metrics);
            Ok(Look::Renewed)
        }
        Reread::Unusable(unusable) => Err(unusable),
    }
}
