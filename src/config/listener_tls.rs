//! `listen.certificate` and `listen.private_key`: whether the public listener speaks TLS.
//!
//! Decides whether the two files can be used, as far as that can be told here: they are read, so that a start or a
//! reload does not fail at what `check` found good. Never keeps what is in them.

use std::path::PathBuf;

use super::reader::{Read, Reader};
use crate::gateway::tls::Settings;

/// Reads both keys.
pub(super) fn read(table: &mut Reader<'_>) -> Read<Option<Settings>> {
    let path = |text: &str| Ok((!text.is_empty()).then(|| PathBuf::from(text)));
    let certificate = table.parsed("certificate", "", path);
    let private_key = table.parsed("private_key", "", path);
    let (certificate, private_key) = match (certificate?, private_key?) {
        (None, None) => return Ok(None),
        (Some(certificate), Some(private_key)) => (certificate, private_key),
        (Some(_), None) => {
            let sentence = "`listen.certificate` is set, but `listen.private_key` is not";
            return Err(table.problem("certificate", sentence, "set both, or neither"));
        }
        (None, Some(_)) => {
            let sentence = "`listen.private_key` is set, but `listen.certificate` is not";
            return Err(table.problem("private_key", sentence, "set both, or neither"));
        }
    };
    let settings = Settings { certificate, private_key };
    match settings.read() {
        Ok(pair) => {
            if let Some(remark) = pair.remark() {
                let sentence = format!("`listen.certificate` {remark}, so clients will refuse it");
                table.warning(
                    "certificate",
                    &sentence,
                    "put a new one in its place; it is read again by itself",
                );
            }
            Ok(Some(settings))
        }
        Err(unusable) => {
            let sentence = format!("`listen.{}` {}", unusable.key, unusable.sentence);
            Err(table.problem(unusable.key, &sentence, unusable.hint))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use crate::config::tests::{check, read};

    fn write(folder: &Path, name: &str, ends: i32) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(ends, 1, 1);
        fs::write(folder.join(format!("{name}.pem")), params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    #[test]
    fn a_certificate_and_its_key_are_read_and_what_is_wrong_with_them_is_told_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        write(folder.path(), "good", 3000);
        write(folder.path(), "other", 3000);
        write(folder.path(), "old", 2021);
        fs::write(folder.path().join("empty.pem"), "").unwrap();
        fs::write(
            folder.path().join("noise.pem"),
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        )
        .unwrap();
        let keys = |certificate: &str, key: &str| {
            format!("[listen]\ncertificate = '{path}/{certificate}'\nprivate_key = '{path}/{key}'")
        };
        assert!(read(&keys("good.pem", "good.key"), "", &[]).unwrap().gateway.tls.is_some());
        assert!(read("", "", &[]).unwrap().gateway.tls.is_none());
        let pem =
            "name a file in PEM with the certificate first and those that lead to a known authority after it";
        for (certificate, key, sentence) in [
            ("good.pem", "other.key", format!("g:3: `listen.private_key` `{path}/other.key` is not the key of the certificate\n  hint: name the key it was issued for")),
            ("empty.pem", "good.key", format!("g:2: `listen.certificate` `{path}/empty.pem` holds no certificate\n  hint: {pem}")),
            ("noise.pem", "good.key", format!("g:2: `listen.certificate` `{path}/noise.pem` holds a certificate that cannot be read\n  hint: {pem}")),
            ("good.pem", "good.pem", format!("g:3: `listen.private_key` `{path}/good.pem` holds no private key\n  hint: name a file in PEM with a key in PKCS#8, PKCS#1 or SEC1 that no passphrase protects")),
            ("none.pem", "good.key", format!("g:2: `listen.certificate` `{path}/none.pem` does not exist\n  hint: name a file that the gateway's user may read; a path without `/` at its start begins where it was started")),
            ("old.pem", "old.key", "g:2: `listen.certificate` has expired, so clients will refuse it\n  hint: put a new one in its place; it is read again by itself".to_owned()),
        ] {
            check(&keys(certificate, key), "", &[], &sentence);
        }
        check(
            &format!("[listen]\nprivate_key = '{path}/good.key'"),
            "",
            &[],
            "g:2: `listen.private_key` is set, but `listen.certificate` is not\n  hint: set both, or neither",
        );
    }
}
