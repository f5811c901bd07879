//! Entra ID is away or talks nonsense while somebody signs in: the client is told to try again, and nothing hangs.

use super::{
    Scene, error,
    pages::{location, query},
    with_facade,
};
use crate::harness::{
    deadline::until,
    entra::{Fault, Idp, Page},
};

/// How many clients may wait for Entra ID.
const SEATS: usize = 64;
const AWAY: (u16, &str) = (503, "temporarily_unavailable");

#[tokio::test]
async fn an_answer_that_is_none_is_told_as_a_short_absence() {
    let scene = Scene::start().await;
    for fault in [
        Fault::HangUp,
        Fault::BreakOff,
        Fault::Status(500),
        Fault::Status(429),
        Fault::Body(b"<html>".to_vec()),
        Fault::Huge(10_000_000),
        Fault::Endless,
        Fault::Redirect("https://evil.example.com/".into()),
    ] {
        let shown = format!("{fault:?}");
        scene.idp.fault(Page::Token, fault);
        let answer = scene.redeem("secret-code").await;
        assert_eq!(error(&answer), (AWAY.0, AWAY.1.into()), "{shown}");
        assert_eq!(answer.header("retry-after"), Some("5"), "{shown}");
    }
    scene.idp.heal(Page::Token);
    let code = scene.code().await;
    assert_eq!(scene.redeem(&code).await.status.as_u16(), 200);
    scene.gateway.wrote_none_of(&["secret-code"]);
}

#[tokio::test]
async fn who_hangs_is_waited_for_no_longer_than_ten_seconds() {
    let scene = Scene::start().await;
    scene.idp.fault(Page::Token, Fault::Hang);
    assert_eq!(error(&scene.redeem("secret-code").await), (AWAY.0, AWAY.1.into()));
    scene.gateway.wrote_none_of(&["secret-code"]);
}

/// Nobody needs a credential to wait for Entra ID, so not everybody may.
#[tokio::test]
async fn only_so_many_wait_for_entra_id_at_once() {
    let scene = Scene::start().await;
    scene.idp.fault(Page::Token, Fault::Wait);
    let crowd = futures_util::future::join_all((0..SEATS).map(|_| scene.redeem("code")));
    let one_more = async {
        scene.idp.asked_for(Page::Token, SEATS).await;
        let answer = scene.redeem("code").await;
        scene.idp.heal(Page::Token);
        answer
    };
    let (crowd, one_more) = tokio::join!(crowd, one_more);
    assert_eq!(error(&one_more), (AWAY.0, AWAY.1.into()));
    assert_eq!(scene.idp.hits(Page::Token), SEATS);
    for answer in crowd {
        assert_eq!(error(&answer), (400, "invalid_grant".into()));
    }
}

#[tokio::test]
async fn before_entra_id_is_known_a_client_is_sent_back_and_afterwards_on() {
    let late = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let scene = Scene::with(|setup, _| with_facade(setup).entra_at(&format!("http://{late}"))).await;
    let back = location(&scene.authorize(&[]).await);
    assert_eq!(query(&back, "error").as_deref(), Some(AWAY.1));
    assert_eq!(error(&scene.redeem("code").await), (AWAY.0, AWAY.1.into()));
    assert_eq!(scene.document("/.well-known/oauth-authorization-server").await.get("jwks_uri"), None);
    let openid =
        scene.gateway.send(scene.gateway.request(reqwest::Method::GET, "/.well-known/openid-configuration"));
    let openid = openid.await;
    assert_eq!((openid.status.as_u16(), openid.code().as_str()), (503, "sign_in_unavailable"));

    let idp = Idp::start_at(&late).await;
    idp.asked_for(Page::Keys, 1).await;
    until("what Entra ID says of itself", || async {
        scene.document("/.well-known/oauth-authorization-server").await.get("jwks_uri").map(|_| ())
    })
    .await;
    let there = location(&scene.authorize(&[]).await);
    assert!(there.as_str().starts_with(&idp.url()), "{there}");
}
