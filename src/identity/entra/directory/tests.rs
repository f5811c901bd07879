//! When callers wait for documents, and when they are told at once.

use std::time::Duration;

use futures_util::FutureExt;

use super::*;
use crate::identity::entra::tests::{SIGNER, documents, publish, settings};

fn directory() -> Arc<Directory> {
    Directory::new(&settings(), Duration::from_secs(3600)).0
}

fn why<T>(outcome: Result<T, Refusal>) -> Option<&'static str> {
    outcome.err().and_then(|refusal| refusal.why())
}

#[tokio::test]
async fn the_first_documents_are_waited_for_and_later_ones_are_not() {
    let directory = directory();
    let name = "https://login.test/8f0e4b9c-0d52-4d0a-9b4f-2d8a4a3c7a11/v2.0";
    let at = directory.source(0, Version::V2);
    let mut asked = Box::pin(directory.is_issuer(at, name));
    assert!((&mut asked).now_or_never().is_none(), "not waited");
    directory.sources()[at].begin();
    directory.sources()[at].end(None);
    assert_eq!(why(asked.await), Some("keys_unknown"));
    // Now that one reading has failed nobody waits for the next.
    let again = directory.is_issuer(at, name).now_or_never();
    assert_eq!(again.map(why), Some(Some("keys_unknown")));
    publish(&directory, &[SIGNER.jwk("k")]);
    assert_eq!(directory.is_issuer(at, name).await.map_err(|refusal| refusal.why()), Ok(()));
    assert_eq!(why(directory.is_issuer(at, "https://login.test/other").await), Some("wrong_issuer"));
}

#[tokio::test]
async fn a_new_key_is_waited_for_and_a_made_up_one_only_once() {
    let directory = directory();
    publish(&directory, &[SIGNER.jwk("old")]);
    let at = directory.source(0, Version::V2);
    let source = &directory.sources()[at];
    let mut asked = Box::pin(directory.key(at, "new"));
    assert!((&mut asked).now_or_never().is_none(), "not waited");
    source.wanted().now_or_never().expect("nobody was asked to read");
    source.begin();
    let known = source.known().unwrap();
    let keys = [SIGNER.jwk("old"), SIGNER.jwk("new")];
    source.end(Some(documents(source.tenant, source.version, &keys, Some(&known.keys))));
    assert!(asked.await.is_ok());

    let mut asked = Box::pin(directory.key(at, "made-up"));
    assert!((&mut asked).now_or_never().is_none());
    publish(&directory, &keys);
    assert_eq!(why(asked.await), Some("unknown_key"));
    assert_eq!(directory.key(at, "made-up").now_or_never().map(why), Some(Some("unknown_key")));
    // A document that has it ends that at once.
    publish(&directory, &[SIGNER.jwk("made-up")]);
    assert!(directory.key(at, "made-up").await.is_ok());
    let long = "k".repeat(LONGEST_KID + 1);
    assert_eq!(directory.key(at, &long).now_or_never().map(why), Some(Some("unknown_key")));
}

#[tokio::test]
async fn a_reading_that_began_before_does_not_settle_it_and_one_that_fails_refuses_nobody_for_good() {
    let directory = directory();
    publish(&directory, &[SIGNER.jwk("old")]);
    let at = directory.source(0, Version::V2);
    let source = &directory.sources()[at];
    source.begin();
    let mut asked = Box::pin(directory.key(at, "new"));
    assert!((&mut asked).now_or_never().is_none());
    source.end(Some(documents(source.tenant, source.version, &[SIGNER.jwk("old")], None)));
    assert!((&mut asked).now_or_never().is_none(), "settled by a document that may be older than the key");
    source.begin();
    source.end(None);
    assert_eq!(why(asked.await), Some("keys_unknown"));
    assert!(directory.key(at, "new").now_or_never().is_none(), "remembered as unknown");
}

#[tokio::test]
async fn only_so_many_wait() {
    let directory = directory();
    publish(&directory, &[SIGNER.jwk("old")]);
    let names: Vec<String> = (0..=MOST_WAITING).map(|number| format!("k{number}")).collect();
    let mut waiting: Vec<_> = names.iter().map(|name| Box::pin(directory.key(0, name))).collect();
    let answered = waiting.iter_mut().filter_map(|asked| asked.now_or_never()).map(why);
    assert_eq!(answered.collect::<Vec<_>>(), [Some("keys_unknown")]);
}

#[tokio::test]
async fn keys_past_their_time_are_believed_no_more() {
    let directory = directory();
    let source = &directory.sources()[0];
    source.begin();
    let documents = documents(source.tenant, source.version, &[SIGNER.jwk("k")], None);
    source.end(Some(Documents { good_until: Instant::now() - Duration::from_millis(1), ..documents }));
    assert_eq!(why(directory.key(0, "k").await), Some("keys_unknown"));
}
