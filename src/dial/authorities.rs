//! The certificate authorities that the system trusts, read once and kept as one file in memory.
//!
//! The framework reads them anew for every pool of connections, each from hundreds of files, and does not start over one
//! that it cannot use. Decides nothing about trust: what the system trusts is trusted (`SSL_CERT_FILE` and `SSL_CERT_DIR`
//! say where that stands).

use std::{
    collections::HashSet,
    fs::File,
    io::{self, Write},
    os::fd::AsRawFd,
    sync::OnceLock,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustls::{RootCertStore, pki_types::CertificateDer};
use tracing::warn;

/// Characters of base64 in a line of PEM (RFC 7468, section 2).
const LINE: usize = 64;

/// A path under which all of them can be read, as PEM; none where there is none: then the framework reads them itself.
pub fn file() -> Option<String> {
    static FILE: OnceLock<Option<File>> = OnceLock::new();
    let file = FILE.get_or_init(|| {
        let written = written();
        if let Err(error) = &written {
            warn!("the authorities that the system trusts are read for each pool of connections, because they cannot be kept in memory: {error}");
        }
        written.ok()
    });
    Some(path(file.as_ref()?))
}

fn path(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn written() -> io::Result<File> {
    // Closed in programs that this process starts: each reads its own.
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create("authorities", flags)?);
    file.write_all(pem(rustls_native_certs::load_native_certs().certs).as_bytes())?;
    // Nobody adds one of their own, not even this process.
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    // Where there is no `/proc`, nobody could read it.
    std::fs::metadata(path(&file))?;
    Ok(file)
}

/// Those that can be used, each once.
fn pem(certificates: Vec<CertificateDer<'static>>) -> String {
    let (mut usable, mut seen, mut pem) = (RootCertStore::empty(), HashSet::new(), String::new());
    for certificate in certificates {
        if usable.add(certificate.clone()).is_err() || !seen.insert(certificate.clone()) {
            continue;
        }
        let text = STANDARD.encode(&certificate);
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        // Base64 is ASCII, so it can be cut anywhere.
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (line, after) = rest.split_at(rest.len().min(LINE));
            pem.push_str(line);
            pem.push('\n');
            rest = after;
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    pem
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject;

    use super::*;

    fn authority(name: &str) -> CertificateDer<'static> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn each_that_can_be_used_is_there_once() {
        let (one, other) = (authority("one"), authority("other"));
        let broken = CertificateDer::from(vec![0x30, 0x03, 1, 2, 3]);
        let pem = pem(vec![one.clone(), broken, other.clone(), one.clone()]);
        let read: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect();
        assert_eq!(read, [one, other]);
        assert!(pem.lines().all(|line| line.len() <= LINE));
    }

    #[test]
    fn the_file_can_be_read_again_and_again_and_holds_what_the_system_trusts() {
        let path = file().expect("this system has `/proc`");
        let trusted =
            rustls_native_certs::load_native_certs().certs.into_iter().collect::<HashSet<_>>().len();
        for _ in 0..2 {
            let pem = std::fs::read(&path).unwrap();
            assert_eq!(CertificateDer::pem_slice_iter(&pem).count(), trusted);
        }
        let added =
            std::fs::OpenOptions::new().append(true).open(&path).and_then(|mut file| file.write_all(b"x"));
        assert!(added.is_err(), "somebody may add to it");
    }
}
