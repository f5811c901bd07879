//! How a server's peers are treated: deadlines, what may be sent twice, probes, TLS and HTTP/2.
//!
//! Decides whether files of certificates can be used and fit together. Reads them once: their content is the
//! configuration, not their names. Never shows a key, not even in a problem.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustls::{
    RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    sign::CertifiedKey,
};

use super::{
    gateway_file::DAY_SECS,
    problems::Complaint,
    reader::{Read, Reader},
    wording::printable,
};
use crate::{
    catalog::{
        care::{Care, ClientCertificate, Deadlines, Http2, Probe, TlsFiles},
        server::{Dialect, PeerUrl},
    },
    names::{Secret, ToolPattern},
    upstream::peer::Trust,
};

/// Reads the deadlines; one that is not there is as `default` says.
pub(super) fn deadlines(table: &mut Reader<'_>, default: Deadlines) -> Read<Deadlines> {
    let day = Duration::from_secs(DAY_SECS);
    let least = Duration::from_millis(10);
    let connect = table.duration("connect_timeout_secs", default.connect, least..=Duration::from_secs(300));
    let has_read = table.has("read_timeout_secs");
    let read = table.duration("read_timeout_secs", default.read, least..=day);
    // Whoever says how long an answer may be silent means its beginning, too, unless they say otherwise.
    let for_first = if has_read { read.unwrap_or(default.first_byte) } else { default.first_byte };
    let first_byte = table.duration("first_byte_timeout_secs", for_first, least..=day);
    let first = first_byte.unwrap_or(for_first);
    // A longer wait for the beginning leaves time for the rest.
    let for_all = if first > default.first_byte { default.total.max(first * 2) } else { default.total };
    let total = table.duration("total_timeout_secs", for_all, least..=day);
    let found = Deadlines { connect: connect?, first_byte: first_byte?, read: read?, total: total? };
    if found.total < found.first_byte {
        let sentence =
            "`total_timeout_secs` is shorter than `first_byte_timeout_secs`, which has no meaning then";
        table.warning(
            "total_timeout_secs",
            sentence,
            "the whole answer takes at least as long as its beginning",
        );
    }
    Ok(found)
}

/// Reads all but the deadlines.
pub(super) fn care(
    id: &str,
    table: &mut Reader<'_>,
    dialect: Read<Dialect>,
    peers: &[PeerUrl],
) -> Read<Care> {
    let repeatable = table.list("retry", |text| {
        ToolPattern::parse(text).map_err(|bad| Complaint::new(format!("must hold patterns of tools: {bad}")))
    });
    let probe = table.table("health", probe);
    let http2 = table.flag_or_word("http2", "false", |text| match text {
        "auto" => Ok(Http2::Offered),
        _ => match super::env::truth(text) {
            Some(true) => Ok(Http2::Always),
            Some(false) => Ok(Http2::Never),
            None => Err(Complaint::new("must be `true`, `false` or `\"auto\"`")),
        },
    });
    let max_h2_streams = table.size("max_h2_streams", 100, 1..=10_000);
    let tls = tls(id, table, peers);
    let probe = probe?;
    if matches!(http2, Ok(Http2::Offered)) && !peers.is_empty() && peers.iter().all(|peer| !peer.is_tls) {
        let sentence =
            format!("server `{}` has `http2 = \"auto\"`, which only TLS can agree on", printable(id));
        return Err(table.problem(
            "http2",
            sentence,
            "write `true` where the server speaks HTTP/2 without TLS",
        ));
    }
    if dialect? == Dialect::McpSse && matches!(http2, Ok(Http2::Always)) {
        let sentence = format!("server `{}` speaks `mcp-sse`, which was before HTTP/2", printable(id));
        table.warning("http2", sentence, "leave `http2` out");
    }
    Ok(Care { repeatable: repeatable?, probe, http2: http2?, max_h2_streams: max_h2_streams?, tls: tls? })
}

/// Reads `health`.
fn probe(table: &mut Reader<'_>) -> Read<Probe> {
    let tool = table.optional("tool", |text| {
        crate::names::ToolName::parse(text)
            .map_err(|bad| Complaint::new(format!("must be a tool's name: {bad}")))
    });
    let arguments = table.json("arguments");
    let day = Duration::from_secs(DAY_SECS);
    let has_every = table.has("every_secs");
    let every = table.duration("every_secs", Duration::ZERO, Duration::ZERO..=day);
    if has_every && every.as_ref().is_ok_and(Duration::is_zero) {
        let sentence = "`health.every_secs` is 0, which is no pause between two probes";
        return Err(table.problem(
            "every_secs",
            sentence,
            "leave it out, and addresses are probed only while they are not called",
        ));
    }
    let (tool, arguments, every) = (tool?, arguments?, every?);
    if tool.is_none() && arguments.is_some() {
        let sentence = "`health.arguments` is there, but `health.tool` is not";
        return Err(table.problem("arguments", sentence, "name the tool that takes them"));
    }
    let arguments = arguments.unwrap_or_else(|| "{}".to_owned());
    let tool = tool.map(|tool| (tool.to_string(), arguments));
    Ok(Probe { tool, every: has_every.then_some(every) })
}

/// Reads `ca`, `client_cert`, `client_key` and `tls_name`.
fn tls(id: &str, table: &mut Reader<'_>, peers: &[PeerUrl]) -> Read<Option<Arc<TlsFiles>>> {
    let mut named = Vec::new();
    let mut note = |path: &str| named.push(path.to_owned());
    let ca = table.optional("ca", |path| {
        note(path);
        authorities(path)
    });
    let chain = table.optional("client_cert", |path| {
        note(path);
        certificates(path)
    });
    let key = table.optional("client_key", |path| {
        note(path);
        private_key(path)
    });
    for path in named {
        table.note_file(Path::new(&path));
    }
    let name = table.optional("tls_name", |text| match ServerName::try_from(text.to_owned()) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(Complaint::new("must be a host name, as it stands in the server's certificate")),
    });
    let (ca, chain, key, name) = (ca?, chain?, key?, name?);
    if ca.is_none() && chain.is_none() && key.is_none() && name.is_none() {
        return Ok(None);
    }
    if !peers.is_empty() && peers.iter().all(|peer| !peer.is_tls) {
        let sentence = format!("server `{}` has settings for TLS, but no `https` address", printable(id));
        return Err(table.problem("url", sentence, "write `https://…`, or leave them out"));
    }
    let client = match (chain, key) {
        (None, None) => None,
        (Some(chain), Some(key)) => Some(pair(id, table, chain, key)?),
        (Some(_), None) => {
            let sentence = format!("server `{}` has a `client_cert` without its `client_key`", printable(id));
            return Err(table.problem("client_cert", sentence, "name the file with its private key"));
        }
        (None, Some(_)) => {
            let sentence = format!("server `{}` has a `client_key` without its `client_cert`", printable(id));
            return Err(table.problem("client_key", sentence, "name the file with its certificate"));
        }
    };
    let mut hasher = DefaultHasher::new();
    let keys = client.as_ref().map(|client| (&client.chain, client.key.expose()));
    (&ca, keys, &name).hash(&mut hasher);
    let files = TlsFiles { authorities: ca.unwrap_or_default(), client, name, fingerprint: hasher.finish() };
    if !Trust::is_usable(&files) {
        let sentence = format!("server `{}` has certificates that cannot be used", printable(id));
        return Err(table.problem("ca", sentence, "have them issued anew, by a newer tool"));
    }
    Ok(Some(Arc::new(files)))
}

/// The chain and its key, where they are a pair.
fn pair(id: &str, table: &Reader<'_>, chain: Vec<Vec<u8>>, key: Secret<Vec<u8>>) -> Read<ClientCertificate> {
    let certificates = chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let usable = PrivateKeyDer::try_from(key.expose().clone())
        .is_ok_and(|key| CertifiedKey::from_der(certificates, key, &ring::default_provider()).is_ok());
    if usable {
        return Ok(ClientCertificate { chain, key });
    }
    let sentence =
        format!("server `{}` has a `client_key` that is not that of its `client_cert`", printable(id));
    Err(table.problem("client_key", sentence, "name the two files that were issued together, the leaf first"))
}

fn authorities(path: &str) -> Result<Vec<Vec<u8>>, Complaint> {
    let found = certificates(path)?;
    let mut store = RootCertStore::empty();
    for der in &found {
        store.add(CertificateDer::from(der.clone())).map_err(|_| {
            Complaint::new("names a file with a certificate that cannot be trusted as an authority's")
        })?;
    }
    Ok(found)
}

fn certificates(path: &str) -> Result<Vec<Vec<u8>>, Complaint> {
    let text = contents(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found.into_iter().map(|der| der.to_vec()).collect()),
        Ok(_) | Err(_) => Err(Complaint::new("names a file without certificates in PEM")
            .with_hint("it must have `-----BEGIN CERTIFICATE-----` in it")),
    }
}

fn private_key(path: &str) -> Result<Secret<Vec<u8>>, Complaint> {
    let text = contents(path)?;
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|_| {
        Complaint::new("names a file without a private key in PEM")
            .with_hint("it must have `-----BEGIN PRIVATE KEY-----` in it, and no password")
    })?;
    Ok(Secret::new(key.secret_der().to_vec()))
}

fn contents(path: &str) -> Result<Vec<u8>, Complaint> {
    fs::read(path).map_err(|error| {
        let why = match error.kind() {
            io::ErrorKind::NotFound => "names a file that does not exist".to_owned(),
            kind => format!("names a file that cannot be read: {kind}"),
        };
        Complaint::new(why).with_hint("the path counts from the folder that the gateway is started in")
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;
    use crate::config::tests::{check, read};

    const SERVER: &str = "[servers.x]\ntier = 'local'\nurl = 'https://h'\n";

    fn server(gateway: &str, keys: &str) -> crate::catalog::server::Server {
        read(gateway, &format!("{SERVER}{keys}"), &[]).unwrap().servers.remove(0)
    }

    #[test]
    fn a_deadline_is_the_server_s_or_the_gateway_s_and_the_first_byte_s_follows_the_silence() {
        let of = |gateway: &str, keys: &str| {
            let Deadlines { connect, first_byte, read, total } = server(gateway, keys).deadlines;
            [connect, first_byte, read, total].map(|time| time.as_secs_f64())
        };
        assert_eq!(of("", ""), [5.0, 300.0, 300.0, 600.0]);
        assert_eq!(of("[upstream]\nread_timeout_secs = 1.5", ""), [5.0, 1.5, 1.5, 600.0]);
        assert_eq!(of("", "read_timeout_secs = 500"), [5.0, 500.0, 500.0, 1000.0]);
        assert_eq!(
            of("[upstream]\nfirst_byte_timeout_secs = 9", "read_timeout_secs = 2"),
            [5.0, 2.0, 2.0, 600.0]
        );
        assert_eq!(of("[upstream]\nfirst_byte_timeout_secs = 9", ""), [5.0, 9.0, 300.0, 600.0]);
        let short = "[upstream]\nfirst_byte_timeout_secs = 4\ntotal_timeout_secs = 10";
        assert_eq!(of(short, ""), [5.0, 4.0, 300.0, 10.0]);
        assert_eq!(of(short, "first_byte_timeout_secs = 3"), [5.0, 3.0, 300.0, 10.0]);
        assert_eq!(of(short, "first_byte_timeout_secs = 8"), [5.0, 8.0, 300.0, 16.0]);
        let all = "connect_timeout_secs = '0.25'\nfirst_byte_timeout_secs = 3\nread_timeout_secs = 2\ntotal_timeout_secs = 4";
        assert_eq!(of("", all), [0.25, 3.0, 2.0, 4.0]);
        check(
            "",
            &format!("{SERVER}first_byte_timeout_secs = 9\ntotal_timeout_secs = 4"),
            &[],
            "s:5: `total_timeout_secs` is shorter than `first_byte_timeout_secs`, which has no meaning then\n  \
             hint: the whole answer takes at least as long as its beginning",
        );
    }

    #[test]
    fn how_peers_are_treated_is_read_and_what_makes_no_sense_is_refused() {
        let care = server("", "retry = ['get_*']\nhttp2 = 'auto'\nmax_h2_streams = 7\nhealth = { tool = 'now', arguments = { zone = 'UTC', n = [1, 2.5, true] }, every_secs = 10 }").care;
        assert!(care.repeatable[0].matches("get_time") && !care.repeatable[0].matches("set_time"));
        assert_eq!((care.http2, care.max_h2_streams), (Http2::Offered, 7));
        let (tool, arguments) = care.probe.tool.unwrap();
        assert_eq!((tool.as_str(), arguments.as_str()), ("now", r#"{"n":[1,2.5,true],"zone":"UTC"}"#));
        assert_eq!(care.probe.every, Some(Duration::from_secs(10)));
        check(
            "[upstream]\nnameservers = ['10.0.0.53', '[::1]:53', 'ns.example.com']",
            &format!("{SERVER}retry = ['a b']\nhttp2 = 'maybe'\nhealth = {{ arguments = {{}} }}"),
            &[],
            "g:2: `upstream.nameservers` must hold addresses of name servers: `10.0.0.53`, `127.0.0.1:5353` or `[::1]:53`\n\
             s:4: `servers.x.retry` must hold patterns of tools: a tool pattern is 1 to 128 of `A-Z`, `a-z`, `0-9`, `_`, `.`, `-` and `*`, which stands for anything\n\
             s:5: `servers.x.http2` must be `true`, `false` or `\"auto\"`\n\
             s:6: `health.arguments` is there, but `health.tool` is not\n  hint: name the tool that takes them",
        );
        check(
            "",
            &format!("{SERVER}health = {{ every_secs = 0 }}"),
            &[],
            "s:4: `health.every_secs` is 0, which is no pause between two probes\n  \
             hint: leave it out, and addresses are probed only while they are not called",
        );
        check(
            "",
            "[servers.x]\ntier = 'local'\nurl = 'http://h'\nhttp2 = 'auto'\ntls_name = 'h'",
            &[],
            "s:3: server `x` has settings for TLS, but no `https` address\n  hint: write `https://…`, or leave them out\n\
             s:4: server `x` has `http2 = \"auto\"`, which only TLS can agree on\n  \
             hint: write `true` where the server speaks HTTP/2 without TLS",
        );
    }

    /// A file with this content, and its path.
    fn file(folder: &Path, name: &str, text: &str) -> String {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    #[test]
    fn certificates_are_read_with_the_file_and_must_fit_together() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str, text: &str| file(folder.path(), name, text);
        let mut params = CertificateParams::new(vec!["h".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let certificate = params.self_signed(&key).unwrap().pem();
        let (cert, key) = (at("cert", &certificate), at("key", &key.serialize_pem()));
        let other = at("other", &other.serialize_pem());
        let fingerprint = |keys: &str| server("", keys).care.tls.unwrap().fingerprint;
        let whole = format!("ca = '{cert}'\nclient_cert = '{cert}'\nclient_key = '{key}'\ntls_name = 'h'");
        let found = server("", &whole).care.tls.unwrap();
        assert!(found.authorities.len() == 1 && found.client.is_some());
        assert!(!format!("{found:?}").contains("key"));
        let names = [whole.clone(), format!("ca = '{cert}'"), format!("ca = '{cert}'\ntls_name = 'i'")];
        let prints = names.map(|keys| fingerprint(&keys));
        assert!(prints[0] != prints[1] && prints[1] != prints[2] && prints[0] == fingerprint(&whole));
        let problem = |keys: &str, expected: &str| check("", &format!("{SERVER}{keys}"), &[], expected);
        let nowhere = folder.path().join("nowhere").display().to_string();
        problem(
            &format!("ca = '{nowhere}'"),
            "s:4: `servers.x.ca` names a file that does not exist\n  \
             hint: the path counts from the folder that the gateway is started in",
        );
        problem(
            &format!("ca = '{key}'"),
            "s:4: `servers.x.ca` names a file without certificates in PEM\n  \
             hint: it must have `-----BEGIN CERTIFICATE-----` in it",
        );
        problem(
            &format!("client_cert = '{cert}'\nclient_key = '{cert}'"),
            "s:5: `servers.x.client_key` names a file without a private key in PEM\n  \
             hint: it must have `-----BEGIN PRIVATE KEY-----` in it, and no password",
        );
        problem(
            &format!("client_cert = '{cert}'\nclient_key = '{other}'"),
            "s:5: server `x` has a `client_key` that is not that of its `client_cert`\n  \
             hint: name the two files that were issued together, the leaf first",
        );
        problem(
            &format!("client_cert = '{cert}'"),
            "s:4: server `x` has a `client_cert` without its `client_key`\n  \
             hint: name the file with its private key",
        );
    }
}
