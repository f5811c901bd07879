//! `portcullis explain --token`: which scheme takes a credential and why it is believed or not; never the credential.

use serde_json::json;

use crate::harness::{
    commands::{Said, portcullis, portcullis_told},
    openwebui::{self, JANE, JANE_EMAIL, JANE_STAMP, PLAIN_KEY, VOUCHING_KEY, user_jwt},
    postgres::Database,
    tokens::{SESSION_SECRET, now, session_token, sign},
};

struct Scene {
    database: Database,
    folder: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        let database = openwebui::database().await;
        let folder = openwebui::setup(&database).server("github", "http://127.0.0.1:1").write();
        let scene = Self { database, folder };
        assert_eq!(portcullis(scene.folder.path(), &["migrate"]).await.code, 0);
        scene
    }

    async fn explain(&self, token: &str, more: &[&str]) -> Said {
        let said = portcullis(self.folder.path(), &[&["explain", "--token", token], more].concat()).await;
        for secret in [token, SESSION_SECRET] {
            let parts = secret.split('.').filter(|part| part.len() > 8);
            for part in parts {
                assert!(!said.stdout.contains(part) && !said.stderr.contains(part), "{part} is in {said:?}");
            }
        }
        said
    }
}

/// Compares exit code and the lines that follow what the token says of itself.
#[track_caller]
fn check(said: &Said, code: i32, expected: &[&str]) {
    let lines: Vec<_> = said.stdout.lines().filter(|line| !line.starts_with("the token says")).collect();
    assert_eq!((said.code, &lines[..], said.stderr.as_str()), (code, expected, ""), "{said:?}");
}

const OFF: &str = "gateway_headers: off";
const NOT_A_KEY: &str = "service_key: not one of its credentials";
const NO_API_KEY: &str = "api_key: not one of its credentials";

#[tokio::test]
async fn each_scheme_says_why_it_believes_or_not() {
    let scene = Scene::new().await;
    let session = |reason: &str| format!("session: refused: {reason}");
    let answered = |code: &str| format!("a call with it is answered 401 `{code}`");
    let good = scene.explain(&session_token(JANE, JANE_STAMP), &[]).await;
    let jane = format!("it is `{JANE_EMAIL}` without groups, `{JANE}` in Open WebUI");
    check(&good, 0, &[OFF, NOT_A_KEY, NO_API_KEY, "session: believed", &jane]);
    assert!(good.stdout.starts_with("the token says of itself: alg \"HS256\""), "{good:?}");
    for (token, reason, code) in [
        (
            session_token(JANE, "another stamp"),
            "stamp_differs: the user's sessions were ended since the token was issued",
            "revoked_credential",
        ),
        (
            session_token("nobody", JANE_STAMP),
            "no_such_user: there is no such user in Open WebUI, or in the directory",
            "revoked_credential",
        ),
        (
            sign(&json!({"id": JANE, "exp": now(-100)}), SESSION_SECRET),
            "expired: the token has expired",
            "expired_credential",
        ),
        (
            sign(&json!({"id": JANE, "exp": now(100)}), "another secret"),
            "wrong_signature: the token's signature is wrong",
            "invalid_credential",
        ),
        (
            sign(&json!({"id": JANE}), SESSION_SECRET),
            "no_expiry: the token has no usable `exp` claim",
            "invalid_credential",
        ),
    ] {
        let said = scene.explain(&token, &[]).await;
        check(&said, 1, &[OFF, NOT_A_KEY, NO_API_KEY, &session(reason), &answered(code)]);
    }
    check(
        &scene.explain(PLAIN_KEY, &[]).await,
        0,
        &[OFF, "service_key: believed", "it is `service:nightly` in the groups `MCP-Services`"],
    );
    let unknown = scene.explain("an-unknown-key-of-somebody", &[]).await;
    let nobody = "session: not one of its credentials";
    check(
        &unknown,
        1,
        &[
            OFF,
            NOT_A_KEY,
            NO_API_KEY,
            nobody,
            "entra: off",
            "no scheme knows this credential",
            &answered("invalid_credential"),
        ],
    );
}

#[tokio::test]
async fn a_credential_is_explained_with_the_headers_beside_it_and_up_to_the_grant() {
    let scene = Scene::new().await;
    let vouched = format!("X-OpenWebUI-User-Jwt: {}", user_jwt(JANE, JANE_EMAIL));
    let said = scene.explain(VOUCHING_KEY, &["--header", &vouched, "github"]).await;
    assert_eq!(said.code, 1, "{said:?}");
    assert!(
        said.stdout.contains("service_key: believed") && said.stdout.contains("may not use `github`"),
        "{said:?}"
    );
    let grant = ["grant", "--user", JANE_EMAIL, "github"];
    assert_eq!(portcullis(scene.folder.path(), &grant).await.code, 0);
    let said = scene.explain(VOUCHING_KEY, &["--header", &vouched, "github/search"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let unsigned = format!("X-OpenWebUI-User-Email: {JANE_EMAIL}");
    let said = scene.explain(VOUCHING_KEY, &["--header", &unsigned]).await;
    let reason = "service_key: refused: unsigned_user: a user is named in headers that are not signed";
    check(&said, 1, &[OFF, reason, "a call with it is answered 401 `invalid_credential`"]);
    scene.database.execute("UPDATE auth SET active = false").await;
    let said = scene.explain(&session_token(JANE, JANE_STAMP), &["github"]).await;
    assert!(
        said.code == 1 && said.stdout.contains("user_inactive") && !said.stdout.contains("may use"),
        "{said:?}"
    );
}

#[tokio::test]
async fn a_credential_can_be_read_from_the_standard_input() {
    let scene = Scene::new().await;
    let token = session_token(JANE, JANE_STAMP);
    let told =
        async |input: &str| portcullis_told(scene.folder.path(), &["explain", "--token", "-"], input).await;
    assert_eq!(told(&format!("{token}\n")).await.code, 0);
    assert_eq!(told(&format!("Bearer {token}")).await.code, 0);
    let empty = told("\n").await;
    assert!(empty.code == 1 && empty.stderr.contains("the token is empty"), "{empty:?}");
    for wrong in [&["explain"][..], &["explain", "--token", "x", "--as", "a@b"], &["explain", "--as", "a@b"]]
    {
        assert_eq!(portcullis(scene.folder.path(), wrong).await.code, 2, "{wrong:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_checked_is_said_to_be_so() {
    let scene = Scene::new().await;
    let away = openwebui::setup(&scene.database)
        .set("auth.openwebui.database_url", "postgres://nobody@127.0.0.1:1/none")
        .write();
    let said = portcullis(away.path(), &["explain", "--token", &session_token(JANE, JANE_STAMP)]).await;
    // Refused at once, or not answered in time: that is the system's to say.
    let lines: Vec<_> = said.stdout.lines().skip(1).collect();
    let [OFF, NOT_A_KEY, NO_API_KEY, reason, "a call with it is answered 503 `grants_unknown`"] = lines[..]
    else {
        panic!("{said:?}");
    };
    assert!(reason.starts_with("session: refused: account_unknown: Open WebUI's database"), "{said:?}");
    assert_eq!(said.code, 1);
}
