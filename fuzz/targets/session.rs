//! Nothing opens as a session id but what was sealed, for the same caller, server and purpose.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use portcullis::{
    mcp::session::{Binding, Place, Purpose, Sealed, SessionKeys},
    names::{SecretKey, ServerId},
};

static KEYS: LazyLock<SessionKeys> = LazyLock::new(|| {
    let key = SecretKey::parse(&"0f".repeat(32)).expect("64 hexadecimal digits");
    SessionKeys::new(&[key])
});
static SERVER: LazyLock<ServerId> = LazyLock::new(|| ServerId::parse("github").expect("it is an id"));

fuzz_target!(|input: (&str, &str, u16, u8)| {
    let (text, caller, at, flip) = input;
    let _ = SecretKey::parse(text);
    let binding = Binding { purpose: Purpose::Session, server: Some(&SERVER), caller, standing: None };
    let place = Place { peer: 1, address: 2 };
    // The fuzzer reads what is compared below, and so finds ids that were sealed here.
    assert!(KEYS.open(&binding, text, 0).is_none_or(|found| found.place == place && found.expires_at == 9));
    let sealed = Sealed { upstream: text.to_owned(), place, expires_at: 9 };
    let Some(id) = KEYS.seal(&binding, &sealed) else {
        assert!(text.is_empty() || text.len() > 2000 || !text.bytes().all(|byte| byte.is_ascii_graphic()));
        return;
    };
    assert_eq!(KEYS.open(&binding, &id, 8), Some(sealed));
    assert!(KEYS.open(&binding, &id, 9).is_none());
    assert!(KEYS.open(&Binding { purpose: Purpose::Endpoint, ..binding }, &id, 8).is_none());
    let mut changed = id.clone().into_bytes();
    let at = usize::from(at) % changed.len();
    changed[at] ^= flip;
    if let Ok(changed) = String::from_utf8(changed) {
        assert_eq!(KEYS.open(&binding, &changed, 8).is_some(), changed == id);
    }
});
