//! `portcullis keys`, as an operator uses it beside a running gateway.

use super::*;
use crate::harness::{deadline::until, postgres::Database};

/// Everything that stands in the table.
async fn stored(tenants: &Tenants) -> Vec<(String, String, String, String)> {
    let Grants::Postgres(database) = &tenants.grants else { panic!("not on Postgres") };
    let sql = "SELECT tenant_id, server_id, key_name, key_value FROM tenant_server_keys ORDER BY 1, 2, 3";
    sqlx::query_as(sql).fetch_all(&mut database.connect().await).await.unwrap()
}

async fn on_postgres(url: &str) -> Tenants {
    Tenants::start(Grants::Postgres(Database::create().await), url, |setup| setup).await
}

#[tokio::test]
async fn keys_are_stored_sealed_listed_without_their_values_and_deleted() {
    let peer = peer().await;
    let tenants = on_postgres(&peer.url()).await;
    tenants.set_key("A", "hunter2-of-a").await;
    tenants.set_key("B", "hunter2-of-b\r\n").await;
    let rows = stored(&tenants).await;
    assert_eq!(rows.len(), 2);
    for (group, server, name, value) in &rows {
        assert_eq!((server.as_str(), name.as_str()), ("github", "GITHUB_TOKEN"), "{group}");
        assert!(value.starts_with("portcullis:1:") && !value.contains("hunter2"), "{value}");
    }
    let again = tenants.told(&["keys", "set", "github", "--group", "A"], "hunter3").await;
    assert_eq!(again.code, 0, "{}", again.stderr);
    assert_eq!(stored(&tenants).await.len(), 2, "one key of a name");
    let listed = tenants.told(&["keys", "list"], "").await;
    let lines: Vec<_> = listed.stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{}", listed.stdout);
    assert!(lines[0].starts_with("A\tgithub\tGITHUB_TOKEN\tsealed with ") && lines[0].ends_with("\tused"));
    assert!(!listed.stdout.contains("hunter") && !listed.stderr.contains("hunter"));
    let of_b = tenants.told(&["keys", "list", "--group", "B", "--server", "github"], "").await;
    assert_eq!(of_b.stdout.lines().count(), 1);
    for (email, sentence) in [
        (ANN, "calls are made for group `A` with its own `GITHUB_TOKEN`"),
        (EVE, "but every call answers 403 `ambiguous_tenant`"),
        (DAN, "but every call answers 403 `no_tenant_key`"),
        // The variable of `run` is not set here.
        (ANN, "it waits for `GITHUB_TOKEN`, not set here"),
    ] {
        let said = tenants.told(&["explain", "--as", email, "github"], "").await;
        assert!(said.code == 1 && said.stdout.contains(sentence), "{email}: {}", said.stdout);
    }
    let deleted = tenants.told(&["keys", "delete", "github", "--group", "A"], "").await;
    assert_eq!(deleted.code, 0, "{}", deleted.stderr);
    let gone = tenants.told(&["keys", "delete", "github", "--group", "A"], "").await;
    assert_eq!(gone.code, 1);
    assert!(gone.stderr.contains("group `A` has no key `GITHUB_TOKEN` for `github`"), "{}", gone.stderr);
    let last = tenants.told(&["keys", "delete", "github", "--group", "B"], "").await;
    assert!(last.stderr.contains("shared_credential = false"), "{}", last.stderr);
}

#[tokio::test]
async fn a_key_that_could_not_be_sent_or_sealed_is_not_stored() {
    let peer = peer().await;
    let tenants = on_postgres(&peer.url()).await;
    for (arguments, input, code, sentence) in [
        (&["keys", "set", "github", "--group", "A"][..], "", 2, "no key on stdin"),
        (&["keys", "set", "github", "--group", "A"], "two\nlines", 1, "cannot stand in a header"),
        (&["keys", "set", "github", "--group", "A"], " outer", 1, "cannot stand in a header"),
        (&["keys", "set", "nowhere", "--group", "A"], "x", 1, "`nowhere` is not in servers.toml"),
        (&["keys", "set", "github"], "x", 2, "--group"),
        (&["keys", "set", "github", "--group", "A"], &"x".repeat(9_000), 1, "longer than 8192 bytes"),
    ] {
        let said = tenants.told(arguments, input).await;
        assert_eq!((said.code, said.stdout.as_str()), (code, ""), "{arguments:?}: {}", said.stderr);
        assert!(said.stderr.contains(sentence), "{arguments:?}: {}", said.stderr);
    }
    assert!(stored(&tenants).await.is_empty());
}

#[tokio::test]
async fn sealing_anew_while_the_gateway_runs_loses_no_key_and_seals_plain_ones() {
    let peer = peer().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    std::fs::write(&file, format!("{SEALING_KEY}\n")).unwrap();
    let tenants = Tenants::start(Grants::Postgres(Database::create().await), &peer.url(), |setup| {
        setup
            .set("tenants.sealing_keys", Vec::<String>::new())
            .set("tenants.sealing_key_file", file.to_str().unwrap())
    })
    .await;
    tenants.set_key("A", "key-of-a").await;
    tenants
        .grants
        .execute("INSERT INTO tenant_server_keys VALUES ('B','github','GITHUB_TOKEN','key-of-b')")
        .await;
    let token = email_token(BOB);
    let (answer, _) = tenants.gateway.call_until("/github/search", &token, 503).await;
    assert_eq!(answer.code(), "tenant_key_unusable");
    let listed = tenants.told(&["keys", "list"], "").await.stdout;
    assert!(listed.contains("B\tgithub\tGITHUB_TOKEN\tUNUSABLE: not sealed"), "{listed}");

    std::fs::write(&file, format!("{NEWER_KEY}\n{SEALING_KEY}\n")).unwrap();
    let said = tenants.told(&["keys", "rotate"], "").await;
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(said.stderr.contains("sealed 2 keys anew; 0 had"), "{}", said.stderr);
    tenants.gateway.call_until("/github/search", &token, 200).await;
    assert_eq!(tenants.call(ANN).await, served());
    let again = tenants.told(&["keys", "rotate"], "").await;
    assert!(again.stderr.contains("sealed 0 keys anew; 2 had"), "{}", again.stderr);

    // The old key is needed no more.
    std::fs::write(&file, format!("{NEWER_KEY}\n")).unwrap();
    tenants.grants.execute("UPDATE tenant_server_keys SET tenant_id = tenant_id").await;
    assert_eq!(tenants.call(ANN).await, served());
    assert_eq!(credentials(&peer.requests()).last().unwrap(), "Bearer key-of-a");

    // A file that is spoilt changes nothing that is believed, and is told.
    std::fs::write(&file, "not a key\n").unwrap();
    tenants.grants.execute("UPDATE tenant_server_keys SET tenant_id = tenant_id").await;
    until("the gateway tells of the file", || async {
        tenants.gateway.stderr.text().contains("cannot read the keys in").then_some(())
    })
    .await;
    assert_eq!(tenants.call(ANN).await, served());
    assert!(!tenants.gateway.written().contains("not a key"));
    assert!(!tenants.gateway.written().contains("key-of-"));
}
