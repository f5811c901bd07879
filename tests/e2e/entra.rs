//! Entra ID, as those see it who are let in and those who run the gateway: a provider with Entra's own documents,
//! tokens of every kind it gives out, Graph for those in many groups.
//!
//! What is refused stands in `refusals`.

use serde_json::json;

use crate::harness::{
    commands::portcullis,
    deadline::{until, until_so, within},
    entra::{CLIENT, Fault, HOME, Idp, PARTNER, Page, User, minted::Minted},
    fake_peer::FakePeer,
    gateway::{Gateway, Setup},
    postgres::Database,
    raw::RawClient,
    request::head,
};

const JANE_OID: &str = "0a1b2c3d-0000-4000-8000-00000000000a";
/// A group with a name in the configuration, and one without.
const NAMED: &str = "aaaaaaaa-0000-4000-8000-000000000001";
const UNNAMED: &str = "bbbbbbbb-0000-4000-8000-000000000002";

const GRANTS: &str = "\
    INSERT INTO user_tenant_access (user_email, tenant_id, access_level) VALUES \
        ('jane@example.com','github','read'), ('joe@partner.example','github','read'), \
        ('guest@elsewhere.example','github','read'); \
    INSERT INTO group_tenant_mapping (group_name, tenant_id) VALUES ('MCP-Named','named'), \
        ('bbbbbbbb-0000-4000-8000-000000000002','unnamed'), ('Jobs','jobs');";

/// A gateway with a server for an email, for groups and for a role.
struct Scene {
    idp: Idp,
    gateway: Gateway,
    _peer: FakePeer,
    _database: Database,
}

fn jane() -> User {
    User::new("Jane@example.com", JANE_OID)
}

impl Scene {
    async fn start(set: impl FnOnce(Setup) -> Setup) -> Self {
        let scene = Self::start_with(Idp::start().await, set).await;
        scene.gateway.await_metric("portcullis_entra_up", &[("tenant", HOME)], 2).await;
        scene
    }

    async fn start_with(idp: Idp, set: impl FnOnce(Setup) -> Setup) -> Self {
        let peer = FakePeer::start().await.with_json("search", json!([]));
        let database = Database::create().await;
        let mut setup = Setup::new(&database.url()).entra(&idp);
        for server in ["github", "named", "unnamed", "jobs"] {
            setup = setup.server(server, &peer.url());
        }
        let names = toml::Table::from_iter([(NAMED.to_owned(), "MCP-Named".into())]);
        let gateway = set(setup.set("auth.entra.group_names", names)).start().await;
        database.execute(GRANTS).await;
        gateway.await_grants(6).await;
        Self { idp, gateway, _peer: peer, _database: database }
    }

    /// The servers that are shown to the bearer of a token; each of them must be there to be called, too.
    async fn servers(&self, token: &Minted) -> Vec<String> {
        let shown = self.shown(token).await;
        for server in &shown {
            let called = self.gateway.call(&format!("/{server}/search"), &token.sign(), &json!({})).await;
            assert_eq!(called.status, 200, "{server}: {}", called.text());
        }
        shown
    }

    /// The servers that are shown to the bearer of a token.
    async fn shown(&self, token: &Minted) -> Vec<String> {
        let answer = self.gateway.get("/servers", &token.sign()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let shown = answer.json()["servers"].as_array().unwrap().clone();
        shown.iter().map(|server| server["id"].as_str().unwrap().to_owned()).collect()
    }

    async fn code(&self, token: &Minted) -> (u16, String) {
        let answer = self.gateway.get("/servers", &token.sign()).await;
        (answer.status.as_u16(), answer.code())
    }
}

#[tokio::test]
async fn users_of_both_versions_reach_what_their_email_groups_and_roles_grant() {
    let scene = Scene::start(|setup| setup).await;
    assert_eq!(scene.servers(&scene.idp.token(&jane())).await, ["github"]);
    let jane = jane().in_groups(&[&NAMED.to_uppercase(), UNNAMED]).with_roles(&["Jobs"]);
    for token in [scene.idp.token(&jane), scene.idp.token_v1(&jane)] {
        assert_eq!(scene.servers(&token).await, ["github", "jobs", "named", "unnamed"]);
    }
    let admin = User::new("admin@example.com", UNNAMED).with_roles(&["MCP-Admin"]);
    assert_eq!(scene.servers(&scene.idp.token_v1(&admin)).await.len(), 4);
    // Other documents than those of the tenant are never read.
    let paths: Vec<_> = scene.idp.asked().into_iter().map(|asked| asked.path).collect();
    assert!(paths.iter().all(|path| path.starts_with(&format!("/{HOME}/"))), "{paths:?}");
}

#[tokio::test]
async fn users_of_another_tenant_guests_and_applications_come_where_they_may() {
    let scene = Scene::start(|setup| {
        setup
            .set("auth.entra.email_domains", vec!["example.com"])
            .set(&format!("auth.entra.tenants.{PARTNER}.email_domains"), vec!["partner.example"])
            .set("auth.entra.guests", true)
            .set("auth.entra.apps", true)
            .set("auth.entra.scopes", vec!["Tools.Call"])
    })
    .await;
    let joe = User::new("joe@partner.example", UNNAMED).with_roles(&["Jobs"]);
    scene.gateway.await_metric("portcullis_entra_up", &[("tenant", PARTNER)], 2).await;
    assert_eq!(scene.servers(&scene.idp.token_of(PARTNER, &joe)).await, ["github"]);
    assert_eq!(scene.servers(&scene.idp.token_v1_of(PARTNER, &joe)).await, ["github"]);
    assert_eq!(scene.servers(&scene.idp.guest_token(NAMED, "guest@elsewhere.example")).await, ["github"]);
    assert_eq!(scene.servers(&scene.idp.app_token(NAMED, &["Jobs"])).await, ["jobs"]);
}

#[tokio::test]
async fn groups_that_a_token_has_no_room_for_are_read_from_graph_page_by_page_and_again_later() {
    for (overage, page) in [("on_behalf_of", Page::MyGroups), ("app", Page::UserGroups)] {
        let many: Vec<String> =
            (0..250).map(|number| format!("cccccccc-0000-4000-8000-{number:012}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).chain([NAMED]).collect();
        let jane = jane().with_roles(&["Jobs"]).with_overage();
        let scene = Scene::start(|setup| {
            setup.set("auth.entra.overage", overage).set("auth.entra.groups_ttl_secs", 1)
        })
        .await;
        scene.idp.add_user(&jane.clone().in_groups(&many));
        let token = scene.idp.token(&jane);
        assert_eq!(scene.servers(&token).await, ["github", "jobs", "named"], "{overage}");
        assert_eq!(scene.idp.hits(page), 3, "{overage}: 251 groups, 100 a page");
        let asked = scene.idp.asked();
        let form = asked.iter().find(|asked| asked.page == Page::Token).unwrap().form();
        let has = |name: &str, value: &str| form.iter().any(|(key, said)| key == name && said == value);
        assert!(has("scope", &format!("{}/.default", scene.idp.url())), "{form:?}");
        if overage == "on_behalf_of" {
            assert!(
                has("assertion", &token.sign()) && has("requested_token_use", "on_behalf_of"),
                "{form:?}"
            );
        } else {
            assert!(has("grant_type", "client_credentials"), "{form:?}");
        }
        // A group more, a group less: what was begun with the groups of before ends.
        let mut standing = RawClient::connect(&scene.gateway.address()).await;
        standing.send(head("GET", "/mcp", &token.sign(), &["accept: text/event-stream"])).await;
        assert_eq!(standing.read_head().await.0, 200);
        scene.idp.add_user(&jane.clone().in_groups(&[UNNAMED]));
        until("the groups Graph tells now", || async {
            let servers = scene.shown(&token).await;
            (servers == ["github", "jobs", "unnamed"]).then_some(())
        })
        .await;
        within("the end of the stream", async { while standing.read_chunk().await.is_some() {} }).await;
        // What is known serves while Graph is away, and those who are new are told to come back.
        scene.idp.fault(page, Fault::Status(503));
        scene.gateway.await_metric("portcullis_entra_graph_up", &[], 1).await;
        until("a question that fails", || async {
            scene.shown(&token).await;
            (scene.gateway.metrics().await.sum("portcullis_entra_graph_up", &[]) == 0.0).then_some(())
        })
        .await;
        assert_eq!(scene.servers(&token).await, ["github", "jobs", "unnamed"], "{overage}");
        let joe = User::new("joe@partner.example", UNNAMED).with_overage();
        assert_eq!(scene.code(&scene.idp.token(&joe)).await, (503, "groups_unknown".to_owned()));
    }
}

#[tokio::test]
async fn whom_the_directory_has_no_more_is_refused() {
    let jane = jane().with_overage();
    let scene = Scene::start(|setup| setup.set("auth.entra.overage", "app")).await;
    assert_eq!(scene.code(&scene.idp.token(&jane)).await, (401, "revoked_credential".to_owned()));
}

#[tokio::test]
async fn callers_who_come_while_the_first_documents_are_read_wait_for_them() {
    let idp = Idp::start().await;
    for page in [Page::Configuration, Page::ConfigurationV1] {
        idp.fault(page, Fault::Wait);
    }
    let token = idp.token(&jane()).sign();
    let scene = Scene::start_with(idp, |setup| setup).await;
    let none = json!({});
    let answers = (0..20).map(|_| scene.gateway.call("/github/search", &token, &none));
    let healing = async {
        // All of them have arrived: requests in flight are counted from their first byte on.
        scene.gateway.await_metric("portcullis_requests_in_flight", &[], 20).await;
        scene.idp.heal(Page::Configuration);
        scene.idp.heal(Page::ConfigurationV1);
    };
    let (answers, ()) = tokio::join!(futures_util::future::join_all(answers), healing);
    for answer in answers {
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(scene.idp.hits(Page::Keys), 1);
}

#[tokio::test]
async fn who_runs_the_gateway_is_told_once_that_keys_cannot_be_read_and_once_that_they_can() {
    let idp = Idp::start().await;
    idp.fault(Page::Keys, Fault::Status(500));
    let scene = Scene::start_with(idp, |setup| setup).await;
    let of_v2 = [("tenant", HOME), ("version", "2.0")];
    scene.idp.asked_for(Page::Keys, 3).await;
    scene.gateway.await_metric("portcullis_entra_up", &of_v2, 0).await;
    let lines = |what: &str| scene.gateway.written().matches(what).count();
    assert_eq!(lines("cannot be read: "), 1, "{}", scene.gateway.written());
    assert_eq!(scene.gateway.readiness().await, 200);
    scene.idp.heal(Page::Keys);
    scene.gateway.await_metric("portcullis_entra_up", &of_v2, 1).await;
    until_so("a line that keys can be read", || lines("can be read again") == 1).await;
    assert_eq!(scene.servers(&scene.idp.token(&jane())).await, ["github"]);
}

#[tokio::test]
async fn explain_says_who_a_token_of_entra_id_names_and_why_it_is_refused() {
    let (idp, database) = (Idp::start().await, Database::create().await);
    let folder = Setup::new(&database.url()).entra(&idp).server("github", "http://127.0.0.1:1").write();
    let good = idp.token(&jane()).sign();
    let said = portcullis(folder.path(), &["explain", "--token", &good]).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stdout.contains("entra: believed\nit is `jane@example.com`"), "{said:?}");
    let late = idp.token(&jane()).dated(-7200, -3600).sign();
    let said = portcullis(folder.path(), &["explain", "--token", &late]).await;
    assert!(said.code == 1 && said.stdout.contains("entra: refused: expired"), "{said:?}");
    let foreign = idp.token(&jane()).claim("aud", CLIENT).sign();
    let said = portcullis(folder.path(), &["explain", "--token", &foreign]).await;
    assert!(said.code == 1 && said.stdout.contains("entra: refused: wrong_audience"), "{said:?}");
    for part in good.split('.') {
        assert!(!said.stdout.contains(part), "{said:?}");
    }
}

#[tokio::test]
async fn check_says_whether_the_documents_can_be_read() {
    let (idp, database) = (Idp::start().await, Database::create().await);
    let folder = Setup::new(&database.url()).entra(&idp).write();
    assert_eq!(portcullis(folder.path(), &["migrate"]).await.code, 0);
    let said = portcullis(folder.path(), &["check", "--connect"]).await;
    let keys =
        |version: &str| format!("tenant `{HOME}` of Entra ID (tokens of version {version}) has 1 keys");
    assert!(
        said.code == 0 && ["1.0", "2.0"].iter().all(|version| said.stderr.contains(&keys(version))),
        "{said:?}"
    );
    idp.fault(Page::Configuration, Fault::Status(404));
    let said = portcullis(folder.path(), &["check", "--connect"]).await;
    let text = format!("{}{}", said.stdout, said.stderr);
    assert!(
        said.code == 1 && text.contains("(tokens of version 2.0): ") && text.contains("answered 404"),
        "{said:?}"
    );
}
