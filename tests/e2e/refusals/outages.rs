//! What a check needs is away, slow, too large or lying: each has its stated answer, and nobody gets in by it.

use futures_util::future::join_all;
use serde_json::json;

use super::jane_in_entra;
use crate::harness::{
    chaos::Chaos,
    deadline::{until, until_so},
    entra::{Fault, Idp, Page, User, keys},
    fake_peer::{Behaviour, FakePeer},
    gateway::{Answer, Gateway, Setup},
    grants::Grants,
    openwebui::{self, JANE, JANE_EMAIL, JANE_STAMP},
    port::Port,
    tokens::{email_token, session_token},
};

/// A gateway that believes sessions and an identity provider, and a server of Jane's.
struct Scene {
    gateway: Gateway,
    peer: FakePeer,
    _grants: Grants,
}

impl Scene {
    async fn start(set: impl FnOnce(Setup) -> Setup) -> Self {
        let peer = FakePeer::start().await.with_json("search", json!({"found": []}));
        let grants = Grants::of(&[]).await;
        grants.add(JANE_EMAIL, "github").await;
        let setup = grants.setup().server("github", &peer.url()).set("log.filter", "trace");
        let gateway = set(setup).start().await;
        gateway.knows_tools("github", 1).await;
        Self { gateway, peer, _grants: grants }
    }

    async fn call(&self, token: &str) -> Answer {
        self.gateway.call("/github/search", token, &json!({})).await
    }

    /// A token that is good, and cannot be checked now: the client is told to come back.
    async fn is_told_to_come_back(&self, token: &str, code: &str, what: &str) {
        let before = self.peer.requests().len();
        let answer = self.call(token).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (503, code),
            "{what}: {}",
            answer.text()
        );
        let wait: u64 =
            answer.header("retry-after").unwrap_or_else(|| panic!("{what}: no Retry-After")).parse().unwrap();
        assert!((1..=60).contains(&wait), "{what}: Retry-After {wait}");
        assert_eq!(self.peer.requests().len(), before, "{what}: the server heard of it");
    }

    async fn lets_in(&self, token: &str, what: &str) {
        let answer = self.call(token).await;
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
    }

    /// Those who come another way notice nothing.
    async fn serves_others(&self, what: &str) {
        self.lets_in(&email_token(JANE_EMAIL), what).await;
        assert_eq!(self.gateway.readiness().await, 200, "{what}");
        assert_eq!(self.gateway.metrics().await.sum("portcullis_panics_total", &[]), 0.0, "{what}");
    }
}

#[tokio::test]
async fn with_the_keys_away_at_the_start_the_gateway_serves_others_and_believes_tokens_as_soon_as_they_come()
{
    let port = Port::take();
    let token = {
        // The keys of this process are the same when the provider comes back.
        let idp = Idp::start_at(&port.address()).await;
        idp.token(&jane_in_entra()).sign()
    };
    let scene = Scene::start(|setup| setup.entra_at(&format!("http://{}", port.address()))).await;
    scene.serves_others("at the start").await;
    scene.is_told_to_come_back(&token, "keys_unknown", "nobody listens").await;
    let foreign = token.replace('.', "_");
    assert_eq!(scene.call(&foreign).await.status, 401, "what is no token of Entra is refused as ever");
    let _idp = Idp::start_at(&port.address()).await;
    scene.gateway.call_until("/github/search", &token, 200).await;
    scene.serves_others("afterwards").await;
}

/// Everything that can be wrong with a document.
fn faults(elsewhere: &FakePeer) -> Vec<Fault> {
    vec![
        Fault::Hang,
        Fault::HangUp,
        Fault::BreakOff,
        Fault::Status(500),
        Fault::Status(404),
        Fault::Status(429),
        Fault::Huge(10_000_000),
        Fault::Endless,
        Fault::Body(b"not JSON".to_vec()),
        Fault::Body(Vec::new()),
        Fault::Body(b"{}".to_vec()),
        Fault::Body(br#"{"keys":[]}"#.to_vec()),
        Fault::Body(br#"{"keys":[{"kty":"oct","kid":"x","k":"AAAA"}]}"#.to_vec()),
        Fault::Redirect(format!("{}/keys", elsewhere.url())),
    ]
}

async fn elsewhere() -> FakePeer {
    let forged = json!({"keys": [keys::spare(1).jwk()]}).to_string();
    let peer = FakePeer::start().await;
    peer.set(
        "/keys",
        Behaviour::Answer(crate::harness::wire::answer("200 OK", "application/json", forged.as_bytes())),
    );
    peer
}

async fn check_broken_at_start(page: Page, page_v1: Page, fault: Fault) {
    let what = format!("{page:?}: {}", &format!("{fault:?}")[..format!("{fault:?}").len().min(60)]);
    let idp = Idp::start().await;
    idp.fault(page, fault.clone());
    idp.fault(page_v1, fault);
    let scene = Scene::start(|setup| setup.entra(&idp)).await;
    scene.serves_others(&what).await;
    let jane = jane_in_entra();
    for token in
        [idp.token(&jane).sign(), idp.token_v1(&jane).sign(), idp.token(&jane).by(&keys::spare(1)).sign()]
    {
        scene.is_told_to_come_back(&token, "keys_unknown", &what).await;
    }
    idp.heal(page);
    idp.heal(page_v1);
    scene.gateway.call_until("/github/search", &idp.token(&jane).sign(), 200).await;
    scene.serves_others(&what).await;
}

#[tokio::test]
async fn keys_that_never_come_or_come_wrong_let_nobody_in_and_are_asked_for_again() {
    let elsewhere = elsewhere().await;
    join_all(
        faults(&elsewhere).into_iter().map(|fault| check_broken_at_start(Page::Keys, Page::KeysV1, fault)),
    )
    .await;
    assert_eq!(elsewhere.connections(), (0, 0), "a redirect was followed");
}

#[tokio::test]
async fn discovery_that_never_comes_or_comes_wrong_lets_nobody_in_and_is_asked_for_again() {
    let elsewhere = elsewhere().await;
    let check = |fault| check_broken_at_start(Page::Configuration, Page::ConfigurationV1, fault);
    join_all(faults(&elsewhere).into_iter().map(check)).await;
    assert_eq!(elsewhere.connections(), (0, 0), "a redirect was followed");
}

#[tokio::test]
async fn a_discovery_document_of_another_tenant_or_place_is_none() {
    let idp = Idp::start().await;
    let elsewhere = elsewhere().await;
    let own: serde_json::Value = {
        let url =
            format!("{}/{}/v2.0/.well-known/openid-configuration", idp.url(), crate::harness::entra::HOME);
        crate::harness::gateway::client()
            .get(url)
            .send()
            .await
            .unwrap()
            .bytes()
            .await
            .map(|bytes| serde_json::from_slice(&bytes).unwrap())
            .unwrap()
    };
    let with = |name: &str, value: &str| {
        let mut document = own.clone();
        document[name] = value.into();
        document.to_string().into_bytes()
    };
    let keys_elsewhere = format!("{}/keys", elsewhere.url());
    let documents = [
        with("jwks_uri", &keys_elsewhere),
        with("jwks_uri", "http://example.com/keys"),
        with("jwks_uri", "file:///etc/passwd"),
        with("jwks_uri", ""),
        with("issuer", &idp.issuer(crate::harness::entra::PARTNER)),
        with("issuer", &idp.issuer("{tenantid}")),
        with("issuer", ""),
    ];
    let check = |document: Vec<u8>| {
        let elsewhere = &elsewhere;
        async move {
            let what = String::from_utf8_lossy(&document).into_owned();
            let idp = Idp::start().await;
            // Documents of another provider, so their addresses are foreign to this one too.
            idp.fault(Page::Configuration, Fault::Body(document));
            let scene = Scene::start(|setup| setup.entra(&idp)).await;
            let forged = idp.token(&jane_in_entra()).by(&keys::spare(1)).sign();
            for token in [idp.token(&jane_in_entra()).sign(), forged] {
                scene.is_told_to_come_back(&token, "keys_unknown", &what).await;
            }
            scene.serves_others(&what).await;
            assert_eq!(elsewhere.requests().len(), 0, "{what}");
        }
    };
    join_all(documents.into_iter().map(check)).await;
}

#[tokio::test]
async fn keys_that_are_known_go_on_to_prove_when_the_provider_breaks() {
    let elsewhere = elsewhere().await;
    let check = |fault: Fault| async move {
        let what = format!("{fault:?}");
        let idp = Idp::start().await;
        let scene = Scene::start(|setup| setup.entra(&idp)).await;
        let token = idp.token(&jane_in_entra()).sign();
        scene.lets_in(&token, &what).await;
        for page in [Page::Configuration, Page::ConfigurationV1, Page::Keys, Page::KeysV1] {
            idp.fault(page, fault.clone());
        }
        // A key that is new makes the gateway look, and find nothing: what it knew stays.
        let rotated = idp.rotate();
        let new = idp.token(&jane_in_entra()).sign();
        scene.is_told_to_come_back(&new, "keys_unknown", &what).await;
        scene.lets_in(&token, &what).await;
        let fresh = idp.token(&jane_in_entra()).by(&keys::spare(0)).sign();
        scene.lets_in(&fresh, &what).await;
        for page in [Page::Configuration, Page::ConfigurationV1, Page::Keys, Page::KeysV1] {
            idp.heal(page);
        }
        scene.gateway.call_until("/github/search", &new, 200).await;
        drop(rotated);
        scene.serves_others(&what).await;
    };
    join_all(faults(&elsewhere).into_iter().map(check)).await;
    assert_eq!(elsewhere.connections(), (0, 0), "a redirect was followed");
}

#[tokio::test]
async fn a_rotation_refuses_nobody_and_asks_once() {
    let idp = Idp::start().await;
    let scene = Scene::start(|setup| setup.entra(&idp)).await;
    scene.lets_in(&idp.token(&jane_in_entra()).sign(), "before").await;
    let before = idp.hits(Page::Keys);
    idp.fault(Page::Keys, Fault::Wait);
    idp.rotate();
    let tokens: Vec<_> = (0..40).map(|_| idp.token(&jane_in_entra()).sign()).collect();
    let calls = join_all(tokens.iter().map(|token| scene.call(token)));
    let healing = async {
        idp.asked_for(Page::Keys, before + 1).await;
        idp.heal(Page::Keys);
    };
    let (answers, ()) = tokio::join!(calls, healing);
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    let asked = idp.hits(Page::Keys) - before;
    assert!((1..=2).contains(&asked), "{asked} questions for one new key");
    assert_eq!(scene.peer.requests().len(), 41);
}

/// Jane in more groups than her token holds, one of which is let in.
fn jane_in_many_groups() -> User {
    let groups: Vec<_> = (0..250).map(|number| format!("dddddddd-0000-4000-8000-{number:012}")).collect();
    let groups: Vec<_> = groups.iter().map(String::as_str).collect();
    jane_in_entra().in_groups(&groups).with_overage()
}

/// The page of Graph that is asked in each way.
const WAYS: [(&str, Page); 2] = [("app", Page::UserGroups), ("on_behalf_of", Page::MyGroups)];

#[tokio::test]
async fn with_graph_away_groups_that_were_never_known_refuse_and_known_ones_serve() {
    let elsewhere = elsewhere().await;
    let cases = WAYS.iter().flat_map(|way| faults(&elsewhere).into_iter().map(move |fault| (*way, fault)));
    let check = |((way, page), fault): ((&'static str, Page), Fault)| async move {
        let what = format!("{way}: {}", &format!("{fault:?}")[..format!("{fault:?}").len().min(60)]);
        let idp = Idp::start().await;
        let jane = jane_in_many_groups();
        idp.add_user(&jane);
        idp.fault(page, fault.clone());
        let scene = Scene::start(|setup| setup.entra(&idp).set("auth.entra.overage", way)).await;
        let token = idp.token(&jane).sign();
        scene.is_told_to_come_back(&token, "groups_unknown", &what).await;
        scene.serves_others(&what).await;
        idp.heal(page);
        scene.gateway.call_until("/github/search", &token, 200).await;
        idp.fault(page, fault);
        scene.lets_in(&token, &format!("{what}, known before")).await;
        scene.gateway.wrote_none_of(&[&token, JANE_EMAIL, crate::harness::entra::API_SECRET, "graph."]);
    };
    join_all(cases.map(check)).await;
    assert_eq!(elsewhere.connections(), (0, 0), "a redirect was followed");
}

#[tokio::test]
async fn with_the_token_endpoint_away_groups_are_unknown_too() {
    let faults = [
        Fault::HangUp,
        Fault::Status(500),
        Fault::Hang,
        Fault::Body(b"{}".to_vec()),
        Fault::Huge(10_000_000),
    ];
    let cases = WAYS.iter().flat_map(|(way, _)| faults.iter().map(move |fault| (*way, fault.clone())));
    let check = |(way, fault): (&'static str, Fault)| async move {
        let what = format!("{way}: {fault:?}");
        let idp = Idp::start().await;
        let jane = jane_in_many_groups();
        idp.add_user(&jane);
        idp.fault(Page::Token, fault);
        let scene = Scene::start(|setup| setup.entra(&idp).set("auth.entra.overage", way)).await;
        let token = idp.token(&jane).sign();
        scene.is_told_to_come_back(&token, "groups_unknown", &what).await;
        idp.heal(Page::Token);
        scene.gateway.call_until("/github/search", &token, 200).await;
    };
    join_all(cases.map(check)).await;
}

#[tokio::test]
async fn groups_that_were_known_do_not_outlive_the_providers_no_to_their_user() {
    let check = async |body: &str| {
        let idp = Idp::start().await;
        let jane = jane_in_many_groups();
        idp.add_user(&jane);
        let scene = Scene::start(|setup| {
            setup.entra(&idp).set("auth.entra.overage", "on_behalf_of").set("auth.entra.groups_ttl_secs", 1)
        })
        .await;
        let token = idp.token(&jane).sign();
        scene.lets_in(&token, "at first").await;
        let asked = idp.hits(Page::Token);
        idp.fault(Page::Token, Fault::Answer(400, body.as_bytes().to_vec()));
        (idp, scene, token, asked)
    };
    // The user is disabled: what they were told to be in is nothing any more.
    let (_idp, scene, token, _) = check(r#"{"error":"invalid_grant","error_codes":[50057]}"#).await;
    let (answer, _) = scene.gateway.call_until("/github/search", &token, 503).await;
    assert_eq!(answer.code(), "groups_unknown");
    scene.serves_others("a disabled user").await;
    // The gateway's own secret has expired: that is no word about the user.
    let (idp, scene, token, asked) = check(r#"{"error":"invalid_client","error_codes":[7000222]}"#).await;
    until("a second question for the groups", || async {
        scene.lets_in(&token, "with the gateway's secret expired").await;
        (idp.hits(Page::Token) > asked).then_some(())
    })
    .await;
    scene.lets_in(&token, "with the gateway's secret expired").await;
}

#[tokio::test]
async fn a_next_page_elsewhere_is_not_asked_for_and_gives_nobody_groups() {
    let elsewhere = elsewhere().await;
    for (way, page) in WAYS {
        for next in [
            format!("{}/v1.0/me/getMemberObjects?$skiptoken=1", elsewhere.url()),
            format!("//{}/keys", elsewhere.address()),
            "https://graph.microsoft.com.evil.example/v1.0/x".to_owned(),
        ] {
            let idp = Idp::start().await;
            let jane = jane_in_many_groups();
            idp.add_user(&jane);
            let body = json!({"value": [jane.groups[0]], "@odata.nextLink": next}).to_string();
            idp.fault(page, Fault::Body(body.into_bytes()));
            let scene = Scene::start(|setup| setup.entra(&idp).set("auth.entra.overage", way)).await;
            scene.is_told_to_come_back(&idp.token(&jane).sign(), "groups_unknown", &next).await;
        }
    }
    assert_eq!(elsewhere.connections(), (0, 0), "a token for Graph went elsewhere");
}

#[tokio::test]
async fn pages_without_end_and_a_loop_of_pages_give_up() {
    let idp = Idp::start().await;
    let jane = jane_in_many_groups();
    idp.add_user(&jane);
    let own = format!("{}/v1.0/users/{}/getMemberObjects?$skiptoken=1", idp.url(), jane.oid);
    let body = json!({"value": [jane.groups[0]], "@odata.nextLink": own}).to_string();
    idp.fault(Page::UserGroups, Fault::Body(body.into_bytes()));
    let scene = Scene::start(|setup| setup.entra(&idp).set("auth.entra.overage", "app")).await;
    scene.is_told_to_come_back(&idp.token(&jane).sign(), "groups_unknown", "a loop").await;
    let asked = idp.hits(Page::UserGroups);
    assert!(asked <= 220, "{asked} pages were asked for");
}

#[tokio::test]
async fn with_open_webuis_database_away_whom_nobody_has_seen_is_told_to_come_back() {
    let database = openwebui::database().await;
    let chaos = Chaos::in_front_of(database.server_address()).await;
    let through = database.url_through(&chaos.address());
    openwebui::add_user(&database, "late", "late@example.com", Some("stamp")).await;
    let peer = FakePeer::start().await.with_json("search", json!([]));
    let setup =
        openwebui::setup(&database).set("auth.openwebui.database_url", through).server("github", &peer.url());
    let gateway = setup.start().await;
    database
        .execute("INSERT INTO user_tenant_access (user_email, tenant_id) VALUES ('jane.doe@example.com','github'), ('late@example.com','github')")
        .await;
    let (jane, late) = (session_token(JANE, JANE_STAMP), session_token("late", "stamp"));
    gateway.call_until("/github/search", &jane, 200).await;
    for is_stalled in [false, true] {
        if is_stalled {
            chaos.stall()
        } else {
            chaos.cut()
        }
        let before = peer.requests().len();
        let answer = gateway.call("/github/search", &late, &json!({})).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (503, "grants_unknown"),
            "{}",
            answer.text()
        );
        assert!(answer.header("retry-after").is_some());
        assert_eq!(peer.requests().len(), before);
        let known = gateway.call("/github/search", &jane, &json!({})).await;
        assert_eq!(known.status, 200, "who was seen before is served: {}", known.text());
        let forged = format!("{late}x");
        assert_eq!(gateway.call("/github/search", &forged, &json!({})).await.status, 401);
        let record = |line: &str| line.contains("account_unknown");
        until_so("the reason in the log", || gateway.stdout.all().iter().any(|line| record(line))).await;
    }
    chaos.restore();
    gateway.call_until("/github/search", &late, 200).await;
}

#[tokio::test]
async fn a_server_that_dies_with_the_call_learns_nothing_of_the_caller() {
    let idp = Idp::start().await;
    let scene = Scene::start(|setup| setup.entra(&idp)).await;
    let token = idp.token(&jane_in_entra()).sign();
    for behaviour in [
        Behaviour::HangUpBeforeBody,
        Behaviour::HangUpAfterBody,
        Behaviour::AnswerAndClose(b"garbage\r\n\r\n".to_vec()),
    ] {
        scene.peer.set("/search", behaviour);
        let answer = scene.call(&token).await;
        assert_eq!(answer.status, 502, "{}", answer.text());
        let secret = token.rsplit('.').next().unwrap();
        for request in scene.peer.requests() {
            assert!(!request.text().contains(secret) && !request.text().contains(JANE_EMAIL));
        }
        assert!(!answer.text().contains(JANE_EMAIL));
    }
    scene.gateway.wrote_none_of(&[&token, JANE_EMAIL]);
}
