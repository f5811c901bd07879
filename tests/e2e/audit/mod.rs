//! The audit: a row for each call that was answered, whatever ends or is full meanwhile.

use serde_json::{Value, json};

use crate::harness::{
    commands::portcullis,
    deadline::until,
    fake_peer::{Behaviour, FakePeer},
    gateway::{Gateway, Setup},
    grants::{CALLER, Grants, STRANGER},
    postgres::Database,
    tokens::email_token,
    wire::answer,
};

mod calls;
mod full;
mod killed;
mod processes;

/// Returns once the database has all there is.
pub(crate) async fn settled(gateway: &Gateway) {
    until("a spool that is empty", || async {
        let metrics = gateway.metrics().await;
        let waiting = metrics.sum("portcullis_audit_waiting_rows", &[]);
        (waiting == 0.0 && metrics.sum("portcullis_audit_database_up", &[]) == 1.0).then_some(())
    })
    .await;
}

/// What `portcullis audit` prints as JSON, the newest last.
async fn audit(gateway: &Gateway, arguments: &[&str]) -> Vec<Value> {
    let said = portcullis(gateway.folder.path(), &[&["audit", "--json"], arguments].concat()).await;
    assert_eq!(said.code, 0, "{said:?}");
    said.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A server of tools that answer, say no, and are gone.
async fn peer() -> FakePeer {
    let no = answer("422 Unprocessable Entity", "application/json", br#"{"detail":"no"}"#);
    let peer = FakePeer::start().await.with_json("search", json!([1]));
    peer.with_tool("no", Behaviour::Answer(no)).with_tool("gone", Behaviour::HangUpAfterBody)
}

async fn every_outcome_leaves_its_row(gateway: &Gateway) {
    let (caller, stranger) = (email_token(CALLER), email_token(STRANGER));
    gateway.knows_tools("alpha", 3).await;
    for (path, token, status) in [
        ("/alpha/search", &caller, 200),
        ("/alpha/no", &caller, 422),
        ("/alpha/gone", &caller, 502),
        ("/alpha/search", &stranger, 403),
        ("/alpha/none", &caller, 404),
        ("/alpha/search", &"nobody".to_owned(), 401),
    ] {
        let request = gateway.call_request(path, token, &json!({"a": 1})).header("user-agent", "a test\"'");
        assert_eq!(gateway.send(request).await.status, status, "{path}");
    }
    assert_eq!(gateway.get("/servers", &caller).await.status, 200);
    assert_eq!(gateway.send(gateway.client.get(gateway.url("/health"))).await.status, 200);
    settled(gateway).await;
    let rows = audit(gateway, &[]).await;
    let told: Vec<_> = rows
        .iter()
        .map(|row| {
            let text = |name: &str| row[name].as_str().unwrap_or("-").to_owned();
            format!(
                "{} {} {} {} {} {}",
                row["status_code"],
                text("outcome"),
                text("code"),
                text("caller"),
                text("endpoint"),
                text("granted_by")
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            format!("200 tool_answered - {CALLER} /alpha/search user"),
            format!("422 tool_error - {CALLER} /alpha/no user"),
            format!("502 peer_failed peer_unreachable {CALLER} /alpha/gone user"),
            format!("403 refused not_granted {STRANGER} /alpha/search -"),
            format!("404 refused unknown_tool {CALLER} /alpha/none user"),
            "401 refused invalid_credential - /alpha/search -".to_owned(),
            format!("200 answered - {CALLER} /servers -"),
        ]
    );
    let first = &rows[0];
    for (column, expected) in [
        ("user_email", json!(CALLER)),
        ("method", json!("POST")),
        ("server", json!("alpha")),
        ("tool", json!("search")),
        ("scheme", json!("session")),
        ("route", json!("call")),
        ("client_ip", json!("127.0.0.1")),
        ("user_agent", json!("a test\"'")),
        ("request_bytes", json!(7)),
        ("response_bytes", json!(3)),
        ("call", json!(0)),
        ("retries", json!(0)),
        ("arguments", Value::Null),
        // SHA-256 of `{"a":1}`.
        ("argument_digest", json!("015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862")),
    ] {
        assert_eq!(first[column], expected, "{column}: {first}");
    }
    let whole = first["gateway_ms"].as_f64().unwrap() + first["upstream_ms"].as_f64().unwrap();
    assert!((first["response_time_ms"].as_f64().unwrap() - whole).abs() < 1.0, "{first}");
}

#[tokio::test]
async fn on_postgres_every_outcome_leaves_its_row() {
    let (database, peer) = (Database::create().await, peer().await);
    every_outcome_leaves_its_row(&on_postgres(&database, &peer).await).await;
}

#[tokio::test]
async fn on_sqlite_every_outcome_leaves_its_row() {
    let (grants, peer) = (Grants::of(&["alpha"]).await, peer().await);
    let gateway = grants.setup().server("alpha", &peer.url()).start().await;
    every_outcome_leaves_its_row(&gateway).await;
}

/// A gateway on Postgres, whose caller may use `alpha`.
async fn on_postgres(database: &Database, peer: &FakePeer) -> Gateway {
    let gateway = Setup::new(&database.url()).server("alpha", &peer.url()).start().await;
    let grant =
        format!("INSERT INTO user_tenant_access (user_email, tenant_id) VALUES ('{CALLER}', 'alpha')");
    database.execute(&grant).await;
    gateway.await_grants(1).await;
    gateway.knows_tools("alpha", 3).await;
    gateway
}

#[tokio::test]
async fn a_row_that_the_database_refuses_holds_up_no_other() {
    let (database, peer) = (Database::create().await, peer().await);
    let gateway = on_postgres(&database, &peer).await;
    settled(&gateway).await;
    // A rule of the operator's own, which rows meet only one of them.
    database.execute("ALTER TABLE api_analytics ADD CONSTRAINT mine CHECK (request_id <> 'bad')").await;
    let ids = ["first", "bad", "second", "third"];
    let call = |id: &'static str| {
        gateway.call_request("/alpha/search", &email_token(CALLER), &json!({})).header("x-request-id", id)
    };
    // In one batch, because they wait together.
    database.execute("ALTER TABLE api_analytics RENAME TO elsewhere").await;
    for id in ids {
        assert_eq!(gateway.send(call(id)).await.status, 200);
    }
    gateway.await_metric("portcullis_audit_database_up", &[], 0).await;
    database.execute("ALTER TABLE elsewhere RENAME TO api_analytics").await;
    settled(&gateway).await;
    let rows = audit(&gateway, &["--server", "alpha"]).await;
    let found: Vec<_> = rows.iter().map(|row| row["request_id"].as_str().unwrap()).collect();
    assert_eq!(found, ["first", "second", "third"]);
    let refused = [("reason", "refused")];
    assert_eq!(gateway.metrics().await.sum("portcullis_audit_lost_total", &refused), 1.0);
    let kept = std::fs::read_to_string(gateway.folder.path().join("audit-spool/refused.jsonl")).unwrap();
    let kept: Value = serde_json::from_str(kept.trim()).unwrap();
    assert_eq!((&kept["row"]["request_id"], &kept["refused"]), (&json!("bad"), &json!("code 23514")));
    let mut database = database.connect().await;
    let partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'api_analytics'::regclass";
    let partitions: i64 = sqlx::query_scalar(partitions).fetch_one(&mut database).await.unwrap();
    assert_eq!(partitions, 4, "this month, the next two, and the default one: {}", gateway.stderr.text());
}

#[tokio::test]
async fn calls_one_after_another_are_brought_into_the_table_together() {
    let (database, peer) = (Database::create().await, peer().await);
    let gateway = on_postgres(&database, &peer).await;
    settled(&gateway).await;
    let (token, began) = (email_token(CALLER), std::time::Instant::now());
    for _ in 0..100 {
        let call = gateway.call_request("/alpha/search", &token, &json!({}));
        assert_eq!(gateway.send(call).await.status, 200);
    }
    settled(&gateway).await;
    let transactions = "SELECT count(DISTINCT xmin::text), count(*) FROM api_analytics WHERE tool = 'search'";
    let (transactions, rows): (i64, i64) =
        sqlx::query_as(transactions).fetch_one(&mut database.connect().await).await.unwrap();
    // One more at its beginning, one at its end, and one where a file of the spool is full.
    let looks = began.elapsed().as_millis() / 200 + 3;
    assert!(rows == 100 && transactions as u128 <= looks, "{transactions} transactions in {looks} looks");
}

#[tokio::test]
async fn the_command_shows_rows_to_people_and_to_programs() {
    let (database, peer) = (Database::create().await, peer().await);
    let gateway = on_postgres(&database, &peer).await;
    let stranger = email_token(STRANGER);
    for (token, id) in [(&email_token(CALLER), "one"), (&stranger, "two"), (&stranger, "three")] {
        let call = gateway.call_request("/alpha/search", token, &json!({}));
        gateway.send(call.header("x-request-id", id).header("user-agent", "=1+1\",")).await;
    }
    settled(&gateway).await;
    let run =
        async |arguments: &[&str]| portcullis(gateway.folder.path(), &[&["audit"], arguments].concat()).await;
    let said = run(&[]).await;
    let lines: Vec<_> = said.stdout.lines().collect();
    assert_eq!((said.code, lines.len(), said.stderr.as_str()), (0, 3, ""), "{said:?}");
    assert!(lines[0].contains("  200  tool_answered  "), "{said:?}");
    assert!(
        lines[0].ends_with(&format!("{CALLER}            alpha/search                          one")),
        "{said:?}"
    );
    assert!(lines[2].contains("  403  refused  ") && lines[2].ends_with("three  not_granted"), "{said:?}");
    let limited = run(&["--limit", "1", "--who", &STRANGER.to_uppercase()]).await;
    assert!(limited.stdout.contains("  three  ") && limited.stdout.lines().count() == 1, "{limited:?}");
    assert_eq!(limited.stderr, "the newest 1 rows; there may be older ones: `--limit 0` shows all\n");
    let csv = run(&["--csv", "--limit", "0", "--request", "one"]).await;
    assert!(
        csv.stdout.starts_with("id,timestamp,user_email,method,") && csv.stdout.contains(",\"'=1+1\"\",\","),
        "{csv:?}"
    );
    for (arguments, count) in [
        (&["--since", "1h", "--until", "0s"][..], 3),
        (&["--since", "2020-01-01", "--until", "1h"], 0),
        (&["--outcome", "refused"], 2),
        (&["--tool", "search", "--outcome", "tool_answered"], 1),
        (&["--server", "beta"], 0),
    ] {
        let said = run(arguments).await;
        assert_eq!((said.code, said.stdout.lines().count()), (0, count), "{arguments:?}: {said:?}");
        assert_eq!(said.stderr, if count == 0 { "no such row\n" } else { "" });
    }
    for wrong in [
        &["--since", "yesterday"][..],
        &["--outcome", "no"],
        &["--since", "1h", "--until", "2h"],
        &["--json", "--csv"],
        &["--server", "A B"],
    ] {
        let said = run(wrong).await;
        assert_eq!((said.code, said.stdout.as_str()), (2, ""), "{wrong:?}: {said:?}");
    }
    // What waits is told of.
    database.execute("ALTER TABLE api_analytics RENAME TO elsewhere").await;
    gateway.send(gateway.call_request("/alpha/search", &stranger, &json!({}))).await;
    gateway.await_metric("portcullis_audit_database_up", &[], 0).await;
    let said = run(&[]).await;
    assert!(
        said.code == 1 && said.stderr.contains("has no table `api_analytics`; is `DATABASE_URL` set"),
        "{said:?}"
    );
    database.execute("CREATE TABLE api_analytics AS SELECT * FROM elsewhere WITH NO DATA").await;
    let said = run(&[]).await;
    assert!(said.code == 0 && said.stderr.contains("1 entries wait in `audit-spool`"), "{said:?}");
}

#[tokio::test]
async fn the_audit_is_switched_while_the_gateway_runs() {
    let (grants, peer) = (Grants::of(&["alpha"]).await, peer().await);
    let gateway = grants.setup().server("alpha", &peer.url()).set("audit.enabled", false).start().await;
    let rows = || async { audit(&gateway, &[]).await.len() };
    let call = || gateway.call_request("/alpha/search", &email_token(CALLER), &json!({}));
    gateway.knows_tools("alpha", 3).await;
    gateway.send(call()).await;
    let file = gateway.folder.path().join("gateway.toml");
    let off = std::fs::read_to_string(&file).unwrap();
    let generation = async || gateway.metrics().await.sum("portcullis_config_generation", &[]);
    let before = generation().await;
    std::fs::write(&file, off.replace("enabled = false", "enabled = true")).unwrap();
    until("another configuration", || async { (generation().await > before).then_some(()) }).await;
    gateway.send(call()).await;
    until("a row", || async { (rows().await == 1).then_some(()) }).await;
    let before = generation().await;
    std::fs::write(&file, off).unwrap();
    until("another configuration", || async { (generation().await > before).then_some(()) }).await;
    gateway.send(call()).await;
    settled(&gateway).await;
    assert_eq!(rows().await, 1);
}

#[tokio::test]
async fn a_flood_of_strangers_leaves_a_bounded_number_of_rows() {
    let (grants, peer) = (Grants::of(&[]).await, peer().await);
    let gateway = grants.setup().server("alpha", &peer.url()).start().await;
    let mut sent = 0;
    while gateway.metrics().await.sum("portcullis_audit_left_out_total", &[]) == 0.0 {
        let nobody = || gateway.send(gateway.client.post(gateway.url("/alpha/search")));
        let answers = futures_util::future::join_all((0..300).map(|_| nobody())).await;
        assert!(answers.iter().all(|answer| answer.status == 401));
        sent += answers.len();
    }
    settled(&gateway).await;
    let metrics = gateway.metrics().await;
    let [written, left_out] = ["portcullis_audit_written_total", "portcullis_audit_left_out_total"]
        .map(|name| metrics.sum(name, &[]) as usize);
    assert!(
        written >= 100 && written + left_out == sent,
        "{sent} sent, {written} written, {left_out} left out"
    );
}
