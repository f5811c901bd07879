//! What host names stand for, and for how long: DNS with its TTLs, in the background.
//!
//! Asks the name servers of the system or of the configuration, `/etc/hosts` first. What those do not know the system is
//! asked for: it may have other ways to know a name. Never decides what becomes of an answer: `addresses` does.

use std::{
    fs::{self, Metadata},
    io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use hickory_resolver::{
    TokioResolver,
    config::{
        ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
    },
    net::{NetError, runtime::TokioRuntimeProvider},
};
use tracing::warn;

/// However short its TTL, a name is not asked for again sooner.
pub(super) const SHORTEST: Duration = Duration::from_secs(1);
/// However long its TTL, a name is asked for again then.
pub(super) const LONGEST: Duration = Duration::from_secs(300);
/// How long an answer is good of which nothing is said.
const UNSAID: Duration = Duration::from_secs(30);
/// Longest wait for one name server, and how often it is asked.
const PATIENCE: (Duration, usize) = (Duration::from_secs(2), 2);

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its addresses, in order, each once.
    pub addresses: Vec<SocketAddr>,
    /// After this it is to be asked for again.
    pub good_for: Duration,
}

impl Found {
    /// What was found by other ways than DNS.
    pub(super) fn by_other_ways(mut addresses: Vec<SocketAddr>) -> Self {
        addresses.sort_unstable();
        addresses.dedup();
        Self { addresses, good_for: UNSAID }
    }
}

/// What the system knows of names, and of who knows more. It is read when a resolver is made.
const FILES: [&str; 2] = ["/etc/hosts", "/etc/resolv.conf"];

/// Who is asked.
struct Names {
    resolver: Option<TokioResolver>,
    /// The name servers of the configuration: where there are any, nobody else is.
    nameservers: Vec<SocketAddr>,
    /// Of the system's files when they were read.
    stamps: Vec<Stamp>,
}

/// What is different when a file is another: its inode, its length and when it was changed.
type Stamp = Option<(u64, u64, i64, i64)>;

fn stamps(files: &[impl AsRef<Path>]) -> Vec<Stamp> {
    let stamp = |meta: Metadata| (meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec());
    files.iter().map(|file| fs::metadata(file).ok().map(stamp)).collect()
}

/// One for the process: what names stand for is no matter of which server they are of.
static NAMES: LazyLock<ArcSwap<Names>> = LazyLock::new(|| ArcSwap::from_pointee(Names::of(&[])));

/// From now on these name servers are asked; those of the system where there are none.
pub fn ask(nameservers: &[SocketAddr]) {
    NAMES.store(Arc::new(Names::of(nameservers)));
}

/// What a name stands for now.
pub(super) async fn look_up(host: String, port: u16) -> io::Result<Found> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(Found { addresses: vec![SocketAddr::new(ip, port)], good_for: LONGEST });
    }
    let names = Names::now();
    match names.by_dns(&host, port).await {
        Ok(found) if !found.addresses.is_empty() => Ok(found),
        Err(error) if names.is_strict() => Err(error),
        Ok(_) if names.is_strict() => Err(io::Error::other("it stands for no address")),
        Ok(_) | Err(_) => {
            let found = tokio::net::lookup_host((host.as_str(), port)).await?;
            Ok(Found::by_other_ways(found.collect()))
        }
    }
}

impl Names {
    fn of(nameservers: &[SocketAddr]) -> Self {
        let stamps = stamps(&FILES);
        let built = if nameservers.is_empty() { of_system() } else { of_servers(nameservers) };
        if let Err(error) = &built {
            warn!("the system's name servers are not known ({error}); names are looked up without their TTL");
        }
        Self { resolver: built.ok(), nameservers: nameservers.to_vec(), stamps }
    }

    /// Those of the process, by what the system's files say now.
    fn now() -> Arc<Self> {
        let names = NAMES.load_full();
        if stamps(&FILES) == names.stamps {
            return names;
        }
        let anew = Arc::new(Self::of(&names.nameservers));
        // Unless the configuration has just named others.
        drop(NAMES.compare_and_swap(&names, anew.clone()));
        anew
    }

    fn is_strict(&self) -> bool {
        !self.nameservers.is_empty()
    }

    async fn by_dns(&self, host: &str, port: u16) -> io::Result<Found> {
        let resolver = self.resolver.as_ref().ok_or_else(|| io::Error::other("no name server is known"))?;
        let found = resolver.lookup_ip(host).await.map_err(io::Error::other)?;
        let good_for = found.valid_until().saturating_duration_since(Instant::now());
        let addresses = found.iter().map(|ip| SocketAddr::new(ip, port)).collect();
        Ok(Found { good_for: good_for.clamp(SHORTEST, LONGEST), ..Found::by_other_ways(addresses) })
    }
}

fn of_system() -> Result<TokioResolver, NetError> {
    let mut builder = TokioResolver::builder_tokio()?;
    set(builder.options_mut());
    builder.build()
}

fn of_servers(nameservers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let connections = |port| {
        [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = port;
            connection
        })
    };
    let servers = nameservers
        .iter()
        .map(|at| NameServerConfig::new(at.ip(), true, connections(at.port()).into()))
        .collect();
    let config = ResolverConfig::from_parts(None, Vec::new(), servers);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    set(builder.options_mut());
    builder.build()
}

fn set(options: &mut ResolverOpts) {
    // Asked for in the background, and only when it is time: an answer from memory would be an old one.
    options.cache_size = 0;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.use_hosts_file = ResolveHosts::Always;
    (options.timeout, options.attempts) = PATIENCE;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_written_to_or_replaced_or_gone_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let file = [folder.path().join("hosts")];
        let mut before = stamps(&file);
        let mut is_noticed = |what: &str| {
            let now = stamps(&file);
            assert_ne!(now, before, "{what}");
            assert_eq!(now, stamps(&file));
            before = now;
        };
        fs::write(&file[0], "192.0.2.1 a\n").unwrap();
        is_noticed("made");
        fs::write(&file[0], "192.0.2.1 a b\n").unwrap();
        is_noticed("written to");
        fs::write(folder.path().join("new"), "192.0.2.2 a b\n").unwrap();
        fs::rename(folder.path().join("new"), &file[0]).unwrap();
        is_noticed("replaced");
        fs::remove_file(&file[0]).unwrap();
        is_noticed("gone");
    }
}
