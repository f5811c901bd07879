//! `portcullis upgrade`: has a running gateway hand over to the program and configuration that are in place now, and says
//! what came of it. `systemctl reload` runs it.
//!
//! Decides when the hand-over counts as done or failed. The gateway itself does it (`app/upgrade.rs`).

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::Args;
use rustix::process::{Pid, Signal, kill_process};

use super::{Place, check, data, ops::Ops, wait_for};

/// Time between two looks at what became of it.
const LOOK: Duration = Duration::from_millis(100);
/// What the steps of a hand-over may take beside the time in which the new process gets ready.
const STEPS: Duration = Duration::from_secs(25);

/// Which gateway.
#[derive(Args)]
pub struct UpgradeArguments {
    /// Process id of the gateway that serves now; under systemd `$MAINPID`.
    #[arg(long, value_name = "PID")]
    pid: i32,
}

/// Hand-overs so far, as whoever serves counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Counted {
    handed_over: f64,
    failed: f64,
    is_draining: bool,
}

/// Checks, asks and waits.
pub fn upgrade(place: &Place<'_>, arguments: &UpgradeArguments) -> anyhow::Result<()> {
    let config = place.load().context("nothing was done: the new process would refuse this configuration")?;
    check::build(&config).context("nothing was done: the new process would refuse this configuration")?;
    let pid = arguments.pid;
    refuse_stranger(pid)?;
    let within = config.gateway.upgrade_timeout + STEPS;
    wait_for(async {
        let ops = Ops::at(config.gateway.ops)?;
        // Nothing answers there where `listen.ops` is a new one: then whatever answers later is the new process.
        let before = counted(&ops).await.unwrap_or_default();
        if before.is_draining {
            bail!("nothing was done: process {pid} is ending already");
        }
        let process = Pid::from_raw(pid).with_context(|| format!("`{pid}` is no process id"))?;
        kill_process(process, Signal::USR2).with_context(|| {
            format!("nothing was done: process {pid} cannot be signalled; is it the gateway, and yours?")
        })?;
        let began = Instant::now();
        while began.elapsed() < within {
            if let Ok(now) = counted(&ops).await {
                if now.handed_over > before.handed_over {
                    return data("a new process has taken over");
                }
                if now.failed > before.failed {
                    bail!(
                        "no other process has taken over, process {pid} goes on as before; its log says why"
                    );
                }
            }
            tokio::time::sleep(LOOK).await;
        }
        bail!(
            "nothing is known of a new process after {} s; the log of process {pid} says more",
            within.as_secs()
        )
    })
}

/// SIGUSR2 would end a process that is no gateway. One that cannot be seen is believed: systemd hides the processes of
/// one user from each other, too (`ProtectProc`, `PrivateUsers`).
fn refuse_stranger(pid: i32) -> anyhow::Result<()> {
    let name = |of: &str| fs::read_to_string(format!("/proc/{of}/comm"));
    let own = name("self").context("cannot read /proc")?;
    match name(&pid.to_string()) {
        Ok(theirs) if theirs != own => {
            bail!("nothing was done: process {pid} is `{}`, which is not this program", theirs.trim_end())
        }
        _ => Ok(()),
    }
}

async fn counted(ops: &Ops) -> anyhow::Result<Counted> {
    let (_, text) = ops.get("/metrics").await?;
    Ok(read(&text))
}

fn read(metrics: &str) -> Counted {
    let figure = |series: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or_default()
    };
    Counted {
        handed_over: figure(r#"portcullis_upgrades_total{outcome="handed_over"}"#),
        failed: figure(r#"portcullis_upgrades_total{outcome="failed"}"#),
        is_draining: figure("portcullis_draining") > 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_read_and_what_was_not_is_none() {
        let text = "portcullis_draining 1\nportcullis_upgrades_total{outcome=\"failed\"} 2\n";
        let counted = Counted { handed_over: 0.0, failed: 2.0, is_draining: true };
        assert_eq!((read(text), read("")), (counted, Counted::default()));
    }

    /// The names are what the gateway's own metrics have.
    #[test]
    fn the_series_are_those_that_the_gateway_writes() {
        let metrics = crate::record::metrics::Metrics::new().unwrap();
        metrics.draining.set(1);
        metrics.upgrades.with_label_values(&["handed_over"]).inc_by(3);
        metrics.upgrades.with_label_values(&["failed"]).inc_by(2);
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        assert_eq!(read(&text), Counted { handed_over: 3.0, failed: 2.0, is_draining: true });
    }
}
