//! Callers who were believed by one configuration, as another one sees them.

use super::*;

fn believing(settings: &Settings, row: Option<User>) -> Identity {
    let (users, _questions) = Users::new(Duration::from_secs(3600));
    if let Some(row) = row {
        users.remember(USER_ID, Some(row));
    }
    Identity::new(settings, Sources { users: Some(users), ..Sources::default() })
}

fn changed(change: impl FnOnce(&mut Settings)) -> Settings {
    let mut settings = settings();
    change(&mut settings);
    settings
}

/// Whether a caller goes on under each of these settings, whatever is known there of users yet.
fn check(caller: &Arc<Caller>, cases: Vec<(&str, Settings, bool)>) {
    for (what, settings, expected) in cases {
        for row in [None, Some(row(Some(STAMP)))] {
            let goes_on = believing(&settings, row).current(caller).is_some();
            assert_eq!(goes_on, expected, "{what}");
        }
    }
}

fn other() -> Secret<String> {
    Secret::new("another-secret-of-the-tests".to_owned())
}

#[tokio::test]
async fn a_session_goes_on_as_long_as_its_secret_is_believed() {
    let caller = ask_with_token(Some(row(Some(STAMP))), &session()).await.unwrap();
    let with_secret =
        |secret| move |settings: &mut Settings| settings.sessions.as_mut().unwrap().secret = secret;
    check(
        &caller,
        vec![
            ("nothing", settings(), true),
            ("other services", changed(|settings| settings.service_keys.clear()), true),
            ("another secret", changed(with_secret(other())), false),
            ("no sessions", changed(|settings| settings.sessions = None), false),
        ],
    );
    let without_tables = Identity::new(&settings(), Sources::default());
    assert!(without_tables.current(&caller).is_none(), "the tables told who it is");
}

#[tokio::test]
async fn a_service_goes_on_as_long_as_its_key_is_there_with_the_groups_it_has_now() {
    let identity = identity(None);
    let authorization = format!("Bearer {PLAIN_KEY}");
    let caller = ask(&identity, &[("authorization", &authorization)]).await.unwrap();
    check(
        &caller,
        vec![
            ("nothing", settings(), true),
            (
                "another secret of users",
                changed(|settings| settings.forward_jwt_secret = Some(other())),
                true,
            ),
            (
                "its key gone",
                changed(|settings| settings.service_keys.retain(|key| key.name != "plain")),
                false,
            ),
        ],
    );
    let fewer = changed(|settings| settings.service_keys.iter_mut().for_each(|key| key.groups.clear()));
    assert!(believing(&fewer, None).current(&caller).unwrap().groups().is_empty());
}

#[tokio::test]
async fn a_user_a_service_vouched_for_goes_on_as_long_as_it_may() {
    let caller = ask_vouched(vectors()["accept"]["forward_user_jwt"].as_str().unwrap()).await.unwrap();
    assert_eq!(caller.scheme(), Scheme::Vouched);
    check(
        &caller,
        vec![
            ("nothing", settings(), true),
            ("another secret", changed(|settings| settings.forward_jwt_secret = Some(other())), false),
            (
                "it may not vouch",
                changed(|settings| settings.service_keys.iter_mut().for_each(|key| key.may_vouch = false)),
                false,
            ),
            ("its key gone", changed(|settings| settings.service_keys.clear()), false),
        ],
    );
}

#[tokio::test]
async fn whom_a_gateway_named_goes_on_as_long_as_it_is_trusted() {
    let headers = |network: &str, secret: Option<Secret<String>>| {
        let trusted_proxies = vec![crate::names::Network::parse(network).unwrap()];
        let headers = gateway_headers::Settings {
            trusted_proxies,
            shared_secret: secret,
            groups_format: Default::default(),
        };
        Settings { gateway_headers: Some(headers), ..Settings::default() }
    };
    let by = |settings: Settings| Identity::new(&settings, Sources::default());
    let (request, ()) = http::Request::builder()
        .uri("/github/search")
        .header("x-user-email", "jane@x.org")
        .header("x-gateway-secret", other().expose())
        .body(())
        .unwrap()
        .into_parts();
    let from = Some("10.0.0.1".parse().unwrap());
    let caller = by(headers("10.0.0.0/8", Some(other()))).identify(&request, Face::Call, from).await.unwrap();
    let goes_on = |settings| by(settings).current(&caller).is_some();
    assert!(goes_on(headers("10.0.0.1", Some(other()))) && goes_on(headers("10.0.0.1", None)));
    assert!(!goes_on(headers("10.0.0.2", Some(other()))) && !goes_on(Settings::default()));
    assert!(!goes_on(headers("10.0.0.1", Some(Secret::new("yet another".to_owned())))));
}

#[tokio::test]
async fn what_was_verified_is_remembered_where_it_means_the_same() {
    let before = identity(Some(row(Some(STAMP))));
    let authorization = format!("Bearer {}", session());
    ask(&before, &[("authorization", &authorization)]).await.unwrap();
    let after = |settings: &Settings| believing(settings, None).remembering(&before);
    before.verified_sessions.run_pending_tasks();
    let known = |identity: &Identity| identity.verified_sessions.entry_count();
    assert_eq!(known(&after(&settings())), 1);
    let secret = |settings: &mut Settings| settings.sessions.as_mut().unwrap().secret = other();
    assert_eq!(known(&after(&changed(secret))), 0);
    let lenient = |settings: &mut Settings| settings.sessions.as_mut().unwrap().allow_no_expiry = true;
    assert_eq!(known(&after(&changed(lenient))), 0);
}
