//! Values that are stored sealed: the keys of tenants, which nobody shall learn from the database, a dump or a backup.
//!
//! Decides how a value is sealed, for which row, and which of the keys in use opens it. A value moved to another row
//! does not open there. Never gives out what it could not open, and never says what was in it.
//! The form is `portcullis:1:KEY:TEXT`: the id of the key it is sealed with, then base64url of nonce, ciphertext and
//! tag of AES-256-GCM-SIV (RFC 8452).

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use anyhow::{Context, ensure};
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use tracing::warn;

use crate::names::{Secret, SecretKey};

const FORM: &str = "portcullis:1:";
/// The longest key of a tenant, in bytes: it travels in a header.
pub const LONGEST_VALUE: usize = 8 * 1024;
/// The largest file of keys that is read.
const LARGEST_FILE: u64 = 64 * 1024;

/// Where the keys come from that values are sealed with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SealingSettings {
    /// The keys of the configuration; the first one seals, all of them open.
    pub keys: Vec<SecretKey>,
    /// A file with further keys, one a line; they come before those of the configuration.
    pub file: Option<PathBuf>,
}

impl SealingSettings {
    /// Why the file of keys cannot be used; it may be mended while the gateway runs.
    pub fn problem(&self) -> Option<String> {
        let error = Sealer::new(self.clone()).err()?;
        Some(error.chain().skip(1).fold(error.to_string(), |told, cause| format!("{told}: {cause}")))
    }
}

/// The row a value stands in. It opens in no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// The group whose key it is.
    pub group: &'a str,
    /// The server it is for.
    pub server: &'a str,
    /// What the key is called.
    pub name: &'a str,
}

impl Row<'_> {
    /// Unambiguous, whatever the names hold.
    fn to_bytes(self) -> Vec<u8> {
        let mut bytes = FORM.as_bytes().to_vec();
        for part in [self.group, self.server, self.name] {
            bytes.extend((part.len() as u64).to_be_bytes());
            bytes.extend(part.as_bytes());
        }
        bytes
    }
}

/// Why a stored value is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unreadable {
    /// It is not sealed: anybody who reads the table reads it.
    Plain,
    /// It is sealed with a key that is not in use here.
    UnknownKey,
    /// It was changed, moved from another row, or never sealed by a gateway.
    Spoilt,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "not sealed; `portcullis keys rotate` seals it",
            Self::UnknownKey => "sealed with a key that is not in `tenants.sealing_keys`",
            Self::Spoilt => "changed, or moved from another row; set it anew with `portcullis keys set`",
        })
    }
}

/// The keys in use at this moment.
struct Keys(Vec<(String, RandomizedNonceKey)>);

impl Keys {
    fn new<'k>(keys: impl IntoIterator<Item = &'k SecretKey>) -> Self {
        let key = |key: &SecretKey| {
            let cipher = RandomizedNonceKey::new(&AES_256_GCM_SIV, key.expose())
                .expect("the key has the length of the cipher's");
            (id_of(key), cipher)
        };
        Self(keys.into_iter().map(key).collect())
    }
}

/// What a key is called in the values sealed with it; it says nothing of the key.
fn id_of(key: &SecretKey) -> String {
    let digest = Sha256::new().chain_update(b"portcullis sealing key").chain_update(key.expose()).finalize();
    digest[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Seals and opens values. Cloning is cheap: clones share the keys.
#[derive(Clone)]
pub(super) struct Sealer {
    settings: Arc<SealingSettings>,
    current: Arc<Mutex<Current>>,
}

struct Current {
    keys: Arc<Keys>,
    /// What the file was when it was read.
    file: Option<(SystemTime, u64)>,
    /// Whether the file could not be read when it was last looked at.
    is_spoilt: bool,
    /// Grows with every reading of the file.
    generation: usize,
}

impl Sealer {
    pub(super) fn new(settings: SealingSettings) -> anyhow::Result<Self> {
        let sealer = Self {
            current: Arc::new(Mutex::new(Current {
                keys: Arc::new(Keys::new(&settings.keys)),
                file: None,
                is_spoilt: false,
                generation: 0,
            })),
            settings: Arc::new(settings),
        };
        sealer.look_again()?;
        Ok(sealer)
    }

    /// This, with the keys that are in the file now, or the last good ones: a spoilt file of keys must not keep grants from
    /// being read, nor revocations.
    pub(super) fn with_latest(&self) -> Self {
        let is_news = |current: &mut Current, is_spoilt| {
            std::mem::replace(&mut current.is_spoilt, is_spoilt) != is_spoilt
        };
        let looked = self.look_again();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if is_news(&mut current, looked.is_err())
            && let Err(error) = looked
        {
            warn!("{error:#}; the last good ones open on");
        }
        drop(current);
        self.clone()
    }

    /// This, with the keys that are in the file now.
    pub(super) fn renewed(&self) -> anyhow::Result<Self> {
        self.look_again()?;
        Ok(self.clone())
    }

    /// Reads the file of keys again, if it is another than before: so keys change while the gateway runs.
    fn look_again(&self) -> anyhow::Result<()> {
        let Some(path) = &self.settings.file else { return Ok(()) };
        let named = || format!("cannot read the keys in `{}`", path.display());
        let about = std::fs::metadata(path).with_context(named)?;
        // Opening a pipe would wait for who writes to it.
        ensure!(about.is_file(), "{}: it is no file", named());
        let seen = (about.modified().with_context(named)?, about.len());
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.file == Some(seen) {
            return Ok(());
        }
        let of_file = read_keys(path).with_context(named)?;
        current.keys = Arc::new(Keys::new(of_file.iter().chain(&self.settings.keys)));
        current.file = Some(seen);
        current.generation += 1;
        Ok(())
    }

    /// A number that is another when the keys are.
    pub(super) fn generation(&self) -> usize {
        self.with_latest().current.lock().unwrap_or_else(PoisonError::into_inner).generation
    }

    fn keys(&self) -> Arc<Keys> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).keys.clone()
    }

    /// The id of the key that seals; none where there is no key.
    pub(super) fn key_id(&self) -> Option<String> {
        self.keys().0.first().map(|(id, _)| id.clone())
    }

    /// Seals a value for its row.
    pub(super) fn seal(&self, row: Row<'_>, value: &Secret<String>) -> anyhow::Result<String> {
        let keys = self.keys();
        let (id, key) = keys.0.first().context(
            "there is no key to seal with; set `PORTCULLIS_SEALING_KEY` to the same value everywhere \
             (`openssl rand -hex 32` makes one)",
        )?;
        let mut bytes = value.expose().as_bytes().to_vec();
        let nonce = key
            .seal_in_place_append_tag(Aad::from(row.to_bytes()), &mut bytes)
            .map_err(|_| anyhow::anyhow!("the value could not be sealed"))?;
        let text = URL_SAFE_NO_PAD.encode([&nonce.as_ref()[..], &bytes].concat());
        Ok(format!("{FORM}{id}:{text}"))
    }

    /// Opens what stands in a row.
    pub(super) fn open(&self, row: Row<'_>, stored: &str) -> Result<Secret<String>, Unreadable> {
        let (id, text) = parts(stored).ok_or(Unreadable::Plain)?;
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| Unreadable::Spoilt)?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>().ok_or(Unreadable::Spoilt)?;
        let keys = self.keys();
        let mut of_id = keys.0.iter().filter(|(known, _)| known == id).peekable();
        of_id.peek().ok_or(Unreadable::UnknownKey)?;
        of_id
            .find_map(|(_, key)| {
                // Where it fails to open, its bytes are spoilt for the next key.
                let mut sealed = sealed.to_vec();
                let opened = key.open_in_place(Nonce::from(nonce), Aad::from(row.to_bytes()), &mut sealed);
                Some(Secret::new(std::str::from_utf8(opened.ok()?).ok()?.to_owned()))
            })
            .ok_or(Unreadable::Spoilt)
    }
}

/// The id of the key that a stored value is sealed with; none where it is not sealed.
pub(super) fn key_id_of(stored: &str) -> Option<&str> {
    parts(stored).map(|(id, _)| id)
}

fn parts(stored: &str) -> Option<(&str, &str)> {
    stored.strip_prefix(FORM)?.split_once(':')
}

/// The keys of a file: one a line, blank lines and those that begin with `#` left out. Says nothing of their text.
fn read_keys(path: &Path) -> anyhow::Result<Vec<SecretKey>> {
    let mut text = String::new();
    let file = io::Read::take(std::fs::File::open(path)?, LARGEST_FILE + 1);
    io::Read::read_to_string(&mut { file }, &mut text)?;
    ensure!(text.len() as u64 <= LARGEST_FILE, "it is larger than {LARGEST_FILE} bytes");
    let lines = text.lines().enumerate().filter(|(_, line)| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#')
    });
    let keys: Vec<_> = lines
        .map(|(at, line)| SecretKey::parse(line.trim()).with_context(|| format!("line {}", at + 1)))
        .collect::<anyhow::Result<_>>()?;
    // As it is for an instant while somebody writes it.
    ensure!(!keys.is_empty(), "it holds no key");
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROW: Row<'static> = Row { group: "MCP-GitHub", server: "github", name: "token" };

    fn key(byte: u8) -> SecretKey {
        SecretKey::parse(&format!("{byte:02x}").repeat(32)).unwrap()
    }

    fn sealer(keys: &[u8]) -> Sealer {
        let keys = keys.iter().map(|byte| key(*byte)).collect();
        Sealer::new(SealingSettings { keys, file: None }).unwrap()
    }

    fn secret(text: &str) -> Secret<String> {
        Secret::new(text.to_owned())
    }

    #[test]
    fn a_value_opens_in_its_row_alone_with_any_key_in_use() {
        let sealed = sealer(&[1]).seal(ROW, &secret("hunter2")).unwrap();
        assert!(!sealed.contains("hunter2"));
        assert_eq!(key_id_of(&sealed), sealer(&[1]).key_id().as_deref());
        let opened = |keys: &[u8], row: Row<'_>| sealer(keys).open(row, &sealed);
        assert_eq!(opened(&[1], ROW), Ok(secret("hunter2")));
        assert_eq!(opened(&[2, 1], ROW), Ok(secret("hunter2")));
        assert_eq!(opened(&[2], ROW), Err(Unreadable::UnknownKey));
        assert_eq!(opened(&[], ROW), Err(Unreadable::UnknownKey));
        for row in [
            Row { group: "Other", ..ROW },
            Row { server: "gitlab", ..ROW },
            Row { name: "other", ..ROW },
            Row { group: "MCP-GitHubg", server: "ithub", ..ROW },
        ] {
            assert_eq!(opened(&[1], row), Err(Unreadable::Spoilt), "{row:?}");
        }
    }

    #[test]
    fn what_was_not_sealed_here_is_not_believed() {
        let one = sealer(&[1]);
        let sealed = one.seal(ROW, &secret("hunter2")).unwrap();
        for plain in ["", "hunter2", "portcullis:2:ab:cd", "portcullis:1:abcd"] {
            assert_eq!(one.open(ROW, plain), Err(Unreadable::Plain), "{plain}");
        }
        let id = one.key_id().unwrap();
        for spoilt in [
            format!("{FORM}{id}:"),
            format!("{FORM}{id}:+++"),
            format!("{sealed}A"),
            sealed.replace(':', ";"),
        ] {
            assert!(one.open(ROW, &spoilt).is_err(), "{spoilt}");
        }
        assert!(
            sealer(&[]).seal(ROW, &secret("x")).unwrap_err().to_string().contains("PORTCULLIS_SEALING_KEY")
        );
    }

    #[test]
    fn the_same_value_is_sealed_differently_each_time() {
        let one = sealer(&[1]);
        assert_ne!(one.seal(ROW, &secret("a")).unwrap(), one.seal(ROW, &secret("a")).unwrap());
    }

    #[test]
    fn keys_of_a_file_come_first_and_are_read_again_when_they_change() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys");
        let write = |bytes: &[u8]| {
            let lines: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}").repeat(32)).collect();
            std::fs::write(&file, format!("# newest first\n\n{}\n", lines.join("\n"))).unwrap();
        };
        write(&[2]);
        let settings = SealingSettings { keys: vec![key(1)], file: Some(file.clone()) };
        let both = Sealer::new(settings.clone()).unwrap();
        assert_eq!(both.key_id(), sealer(&[2]).key_id());
        let old = sealer(&[1]).seal(ROW, &secret("old")).unwrap();
        assert_eq!(both.open(ROW, &old), Ok(secret("old")));
        let new = sealer(&[3]).seal(ROW, &secret("new")).unwrap();
        assert_eq!(both.open(ROW, &new), Err(Unreadable::UnknownKey));
        write(&[3, 2]);
        both.look_again().unwrap();
        assert_eq!(both.open(ROW, &new), Ok(secret("new")));
        for emptied in ["", "# nothing yet\n"] {
            std::fs::write(&file, emptied).unwrap();
            assert!(format!("{:#}", both.look_again().unwrap_err()).contains("it holds no key"));
        }
        std::fs::write(&file, "hunter2\n").unwrap();
        let error = format!("{:#}", both.look_again().unwrap_err());
        assert!(
            error.contains("line 1") && error.contains("openssl") && !error.contains("hunter2"),
            "{error}"
        );
        assert_eq!(both.open(ROW, &new), Ok(secret("new")), "the last good keys stay");
        std::fs::remove_file(&file).unwrap();
        assert!(Sealer::new(settings).is_err());
    }

    proptest! {
        #[test]
        fn any_value_opens_as_it_was_and_no_changed_text_opens(
            value in ".{0,64}", group in ".{0,16}", at in any::<prop::sample::Index>(), bit in 0..7_u8,
        ) {
            let (one, row) = (sealer(&[1]), Row { group: &group, ..ROW });
            let sealed = one.seal(row, &secret(&value)).unwrap();
            prop_assert_eq!(one.open(row, &sealed), Ok(secret(&value)));
            let mut bytes = sealed.clone().into_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Ok(changed) = String::from_utf8(bytes) {
                prop_assert!(one.open(row, &changed).is_err());
            }
        }

        #[test]
        fn no_text_breaks_the_opening(text in ".{0,200}") {
            let _ = sealer(&[1]).open(ROW, &text);
            let _ = sealer(&[1]).open(ROW, &format!("{FORM}{}:{text}", sealer(&[1]).key_id().unwrap()));
        }
    }
}
