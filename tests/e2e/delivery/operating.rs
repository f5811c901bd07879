//! `conf/OPERATING.md`, carried out: two gateways behind a balancer, backup, new keys, upgrade and the way back.

use std::{path::Path, process::Command, time::Duration};

use reqwest::StatusCode;
use serde_json::json;

use super::{PROGRAM, Scene, as_gateway};
use crate::harness::{
    commands::portcullis,
    deadline::{until, until_so},
    fake_peer::FakePeer,
    gateway::{Gateway, Setup},
    grants::{CALLER, STRANGER},
    guide,
    load::Plan,
    postgres::{Database, PrivateCluster},
    proxies::Proxy,
    request::post,
    tokens::email_token,
};

async fn peer() -> FakePeer {
    FakePeer::start().await.with_json("search", json!(1))
}

/// A gateway on a database, whose caller may use `alpha`.
async fn on(url: &str, peer: &FakePeer, set: impl Fn(Setup) -> Setup) -> Gateway {
    let gateway = set(Setup::new(url).server("alpha", &peer.url())).start().await;
    grant(&gateway, CALLER).await;
    called_by(&gateway, CALLER, StatusCode::OK).await;
    gateway
}

async fn grant(gateway: &Gateway, email: &str) {
    let granted = portcullis(gateway.folder.path(), &["grant", "--user", email, "alpha"]).await;
    assert_eq!(granted.code, 0, "{granted:?}");
}

/// Waits until a call of this caller has this status.
async fn called_by(gateway: &Gateway, email: &str, status: StatusCode) {
    let token = email_token(email);
    until("the status of a call", || async {
        // One that runs when its grant goes is cut.
        let answer = gateway.call_request("/alpha/search", &token, &json!({})).send().await;
        answer.is_ok_and(|answer| answer.status() == status).then_some(())
    })
    .await;
}

/// Runs a block of the guide in a folder, with Postgres' own programs in the path.
fn carry_out(text: &str, folder: &Path, environment: &[(&str, &str)]) -> String {
    let bin = std::env::var("PORTCULLIS_TEST_PG_BIN").unwrap();
    let mut command = Command::new("bash");
    command.args(["-e", "-c", text]).current_dir(folder).envs(environment.iter().copied());
    command.env("PATH", format!("{bin}:{}", std::env::var("PATH").unwrap()));
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap()).concat();
    assert!(output.status.success(), "{text}\n{said}");
    said
}

/// Under load, each of two gateways is stopped and started again; `front` makes the proxy before them.
async fn replaced_one_by_one<F: Future<Output = Proxy>>(
    delay_secs: i64,
    front: impl FnOnce([String; 2], [String; 2]) -> F,
) {
    let (peer, database) = (peer().await, Database::create().await);
    let set = |setup: Setup| setup.set("shutdown.delay_secs", delay_secs).set("log.access", false);
    let mut gateways = [on(&database.url(), &peer, set).await, on(&database.url(), &peer, set).await];
    let addresses = gateways.each_ref().map(Gateway::address);
    let ops = gateways.each_ref().map(|gateway| gateway.ops_url("").trim_start_matches("http://").to_owned());
    let proxy = front(addresses, ops).await;
    let call = post("/alpha/search", &email_token(CALLER), "{}");
    let load = Plan::of(proxy.address(), vec![call]).start();
    load.run_for(Duration::from_millis(500)).await.all_worked("before");
    for gateway in &mut gateways {
        gateway.signal("TERM");
        assert!(gateway.ended().await.success());
        load.take().all_worked("while one gateway goes");
        gateway.start_again().await;
        called_by(gateway, CALLER, StatusCode::OK).await;
        // Until the proxy has found it again, or its turn would come while the other one goes.
        let metric = async || gateway.metrics().await.sum("portcullis_requests_total", &[("route", "call")]);
        let before = metric().await;
        until("calls at the new gateway", || async { (metric().await > before + 10.0).then_some(()) }).await;
        load.take().all_worked("while one gateway comes");
    }
    load.end().await.none_failed("at the end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_behind_haproxy_are_replaced_one_by_one_and_no_call_fails() {
    replaced_one_by_one(4, async |[one, other], [one_ops, other_ops]| {
        let port = |address: &str| format!("port {}", address.rsplit_once(':').unwrap().1);
        let (one_ops, other_ops) = (port(&one_ops), port(&other_ops));
        let replaced =
            [("127.0.0.1:8001", other.as_str()), ("port 9090", &one_ops), ("port 9091", &other_ops)];
        Proxy::haproxy("replicas-haproxy.cfg", &one, &[], &replaced, &[]).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_behind_nginx_are_replaced_one_by_one_and_no_call_fails() {
    replaced_one_by_one(1, async |[one, other], _| {
        Proxy::nginx("replicas-nginx.conf", &one, &[], &[("127.0.0.1:8001", other.as_str())]).await
    })
    .await;
}

#[tokio::test]
async fn a_gateway_is_replaced_as_the_guide_says() {
    let Some(scene) = Scene::bare().await else { return };
    super::unit::install(&scene);
    scene.grant().await;
    let before = scene.machine.property("MainPID");
    for block in guide::blocks_of("a_gateway_is_replaced_as_the_guide_says") {
        scene.machine.must_meanwhile(&block.text).await;
    }
    assert_ne!(scene.machine.property("MainPID"), before);
    scene.is_well().await;
}

#[tokio::test]
async fn a_backup_of_postgres_is_restored_as_the_guide_says() {
    let (peer, database, folder) = (peer().await, Database::create().await, tempfile::tempdir().unwrap());
    let gateway = on(&database.url(), &peer, |setup| setup).await;
    let [dump, restore, lost] =
        <[_; 3]>::try_from(guide::blocks_of("a_backup_of_postgres_is_restored_as_the_guide_says")).unwrap();
    let rows = async |database: &Database| {
        let counting = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM api_analytics");
        counting.fetch_one(&mut database.connect().await).await.unwrap()
    };
    until("a row of the audit", || async { (rows(&database).await > 0).then_some(()) }).await;
    let url = database.url();
    carry_out(&dump.text, folder.path(), &[("DATABASE_URL", &url)]);
    // What came after the backup is gone with it, and what was taken back is there again.
    grant(&gateway, STRANGER).await;
    called_by(&gateway, STRANGER, StatusCode::OK).await;
    assert_eq!(portcullis(gateway.folder.path(), &["revoke", "--user", CALLER, "alpha"]).await.code, 0);
    called_by(&gateway, CALLER, StatusCode::FORBIDDEN).await;
    let written = rows(&database).await;
    carry_out(&restore.text, folder.path(), &[("DATABASE_URL", &url)]);
    called_by(&gateway, CALLER, StatusCode::OK).await;
    called_by(&gateway, STRANGER, StatusCode::FORBIDDEN).await;
    // And the feed goes on, and nothing that was written down is undone.
    grant(&gateway, STRANGER).await;
    called_by(&gateway, STRANGER, StatusCode::OK).await;
    until("further rows of the audit", || async { (rows(&database).await > written).then_some(()) }).await;
    let another = Database::create().await;
    carry_out(&lost.text, folder.path(), &[("DATABASE_URL", &another.url())]);
    assert!((1..=written).contains(&rows(&another).await));
    let gateway = Setup::new(&another.url()).server("alpha", &peer.url()).start().await;
    called_by(&gateway, CALLER, StatusCode::OK).await;
}

#[tokio::test]
async fn a_backup_of_sqlite_is_restored_as_the_guide_says() {
    let (peer, folder) = (peer().await, tempfile::tempdir().unwrap());
    let url = format!("sqlite:{}", folder.path().join("portcullis.db").display());
    let mut gateway = on(&url, &peer, |setup| setup).await;
    let [copy, restore] =
        <[_; 2]>::try_from(guide::blocks_of("a_backup_of_sqlite_is_restored_as_the_guide_says")).unwrap();
    carry_out(&copy.text, folder.path(), &[]);
    grant(&gateway, STRANGER).await;
    called_by(&gateway, STRANGER, StatusCode::OK).await;
    gateway.signal("TERM");
    assert!(gateway.ended().await.success());
    carry_out(&restore.text, folder.path(), &[]);
    gateway.start_again().await;
    called_by(&gateway, CALLER, StatusCode::OK).await;
    called_by(&gateway, STRANGER, StatusCode::FORBIDDEN).await;
}

#[tokio::test]
async fn the_password_of_the_database_is_changed_by_a_second_role_one_gateway_at_a_time() {
    let (peer, cluster) = (peer().await, PrivateCluster::start());
    let database = Database::create_on(&cluster.url()).await;
    for role in ["first", "second"] {
        database
            .execute(&format!(
                "CREATE ROLE {role} LOGIN PASSWORD '{role}'; GRANT ALL ON SCHEMA public TO {role}"
            ))
            .await;
    }
    // The tables are the first one's, and the second is in it, so it may do all that the first may.
    database.execute("GRANT first TO second").await;
    let of = |role: &str| database.url().replace("//postgres@", &format!("//{role}:{role}@"));
    let mut gateways =
        [on(&of("first"), &peer, |setup| setup).await, on(&of("first"), &peer, |setup| setup).await];
    for gateway in &mut gateways {
        gateway.signal("TERM");
        assert!(gateway.ended().await.success());
        let file = gateway.folder.path().join("gateway.toml");
        let text = std::fs::read_to_string(&file).unwrap().replace("first:first", "second:second");
        std::fs::write(&file, text).unwrap();
        gateway.start_again().await;
        called_by(gateway, CALLER, StatusCode::OK).await;
    }
    database.execute("REASSIGN OWNED BY first TO second; DROP OWNED BY first; DROP ROLE first").await;
    for gateway in &gateways {
        grant(gateway, STRANGER).await;
        called_by(gateway, STRANGER, StatusCode::OK).await;
        assert_eq!(portcullis(gateway.folder.path(), &["revoke", "--user", STRANGER, "alpha"]).await.code, 0);
        called_by(gateway, STRANGER, StatusCode::FORBIDDEN).await;
    }
}

#[tokio::test]
async fn the_keys_that_the_guide_makes_are_keys() {
    let blocks = guide::blocks_of("the_keys_that_the_guide_makes_are_keys");
    let folder = tempfile::tempdir().unwrap();
    let lines: Vec<&str> = blocks.iter().flat_map(|block| block.text.lines()).collect();
    assert_eq!(lines.len(), 2);
    for line in lines {
        let key = carry_out(line, folder.path(), &[]);
        let setup = Setup::new("sqlite:none.db").server("alpha", "http://127.0.0.1:1");
        let setup =
            setup.set("mcp.session_keys", vec![key.trim()]).set("tenants.sealing_keys", vec![key.trim()]);
        let setup = setup.set("auth.service_keys.nightly.key", key.trim());
        let checked = portcullis(setup.write().path(), &["check"]).await;
        assert_eq!((checked.code, checked.stderr.as_str()), (0, ""), "{checked:?}");
    }
}

/// As a newer gateway may leave a schema by the rule of migrations/README.md: migrations, columns, tables and changes that this
/// one does not know.
const NEWER: &str = "
    INSERT INTO portcullis_migrations (version, description, success, checksum, execution_time)
        VALUES (9001, 'newer', true, '', 0), (9002, 'newer still', true, '', 0);
    ALTER TABLE user_tenant_access ADD COLUMN newer_expires_at timestamptz, ADD COLUMN newer_reason text NOT NULL DEFAULT '';
    ALTER TABLE group_tenant_mapping ADD COLUMN newer_note text NOT NULL DEFAULT 'n';
    ALTER TABLE user_group_membership ADD COLUMN newer_source text NOT NULL DEFAULT 'n';
    ALTER TABLE tool_rules ADD COLUMN newer_arguments text;
    ALTER TABLE tenant_server_keys ADD COLUMN newer_expires_at timestamptz;
    ALTER TABLE portcullis_changes ADD COLUMN newer_origin text NOT NULL DEFAULT 'n';
    CREATE TABLE newer_things (id text PRIMARY KEY);
    INSERT INTO portcullis_changes (kind, subject) VALUES ('newer', 'x');
";

#[tokio::test]
async fn a_schema_that_a_newer_gateway_has_added_to_is_served_and_left_alone() {
    let (peer, database) = (peer().await, Database::create().await);
    let mut gateway = on(&database.url(), &peer, |setup| setup).await;
    // Under the running gateway first, as in a rolling update; then under one that starts, as after a way back.
    database.execute(NEWER).await;
    for turn in ["running", "started again"] {
        called_by(&gateway, CALLER, StatusCode::OK).await;
        grant(&gateway, STRANGER).await;
        called_by(&gateway, STRANGER, StatusCode::OK).await;
        assert_eq!(
            portcullis(gateway.folder.path(), &["revoke", "--user", STRANGER, "alpha"]).await.code,
            0,
            "{turn}"
        );
        called_by(&gateway, STRANGER, StatusCode::FORBIDDEN).await;
        let migrated = portcullis(gateway.folder.path(), &["migrate"]).await;
        assert_eq!((migrated.code, migrated.stderr.as_str()), (0, "applied 0 migrations\n"), "{turn}");
        gateway.signal("TERM");
        assert!(gateway.ended().await.success());
        gateway.start_again().await;
    }
    let mut connection = database.connect().await;
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM portcullis_migrations WHERE version > 9000")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(kept, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_programs_in_turns_hand_over_to_each_other_on_one_schema() {
    let (peer, database, folder) = (peer().await, Database::create().await, tempfile::tempdir().unwrap());
    let program = folder.path().join("portcullis");
    let put = |from: &Path| {
        let beside = folder.path().join("new");
        std::fs::copy(from, &beside).unwrap();
        std::fs::rename(&beside, &program).unwrap();
    };
    // Another program where `PORTCULLIS_TEST_OLDER` names one; without it, this one stands for both.
    let older = std::env::var("PORTCULLIS_TEST_OLDER").unwrap_or_else(|_| PROGRAM.to_owned());
    put(Path::new(&older));
    let mut gateway = on(&database.url(), &peer, |setup| setup.program(&program)).await;
    database.execute(NEWER).await;
    let load = Plan::of(gateway.address(), vec![post("/alpha/search", &email_token(CALLER), "{}")]).start();
    let mut serving = gateway.id();
    for (turn, next) in [PROGRAM, &older, PROGRAM].into_iter().enumerate() {
        put(Path::new(next));
        crate::harness::gateway::send_signal(serving, "USR2");
        let words = "has taken over";
        let lines =
            || gateway.stderr.all().into_iter().filter(|line| line.contains(words)).collect::<Vec<_>>();
        until_so("a process that has taken over", || lines().len() > turn).await;
        let line = lines().remove(turn);
        serving = line.split_once("upgrade: process ").unwrap().1.split(' ').next().unwrap().parse().unwrap();
        load.run_for(Duration::from_millis(500)).await.all_worked(&format!("behind {next}"));
        grant(&gateway, STRANGER).await;
        called_by(&gateway, STRANGER, StatusCode::OK).await;
        assert_eq!(portcullis(gateway.folder.path(), &["revoke", "--user", STRANGER, "alpha"]).await.code, 0);
        called_by(&gateway, STRANGER, StatusCode::FORBIDDEN).await;
    }
    load.end().await.none_failed("at the end");
    crate::harness::gateway::send_signal(serving, "TERM");
    assert!(gateway.ended().await.success());
}

#[tokio::test]
async fn the_new_program_checks_what_the_old_one_runs() {
    let Some(scene) = Scene::bare().await else { return };
    super::unit::install(&scene);
    let folder = "/root/new";
    scene.machine.copy(Path::new(PROGRAM), &format!("{folder}/portcullis"));
    for block in guide::blocks_of("the_new_program_checks_what_the_old_one_runs") {
        let environment = "set -a; . /etc/portcullis/environment";
        let said = scene.machine.must(&format!("{environment}; cd {folder} && set -e\n{}", block.text));
        assert!(
            said.contains(concat!("portcullis ", env!("CARGO_PKG_VERSION"))) && said.contains("ok: "),
            "{said}"
        );
    }
}

#[tokio::test]
async fn a_full_disk_under_sqlite_fails_no_call() {
    let Some(scene) = Scene::bare().await else { return };
    let machine = &scene.machine;
    machine.must(
        "mkdir -p /var/lib/portcullis && mount -t tmpfs -o size=4M,mode=0755 tmpfs /var/lib/portcullis",
    );
    super::unit::install(&scene);
    scene.grant().await;
    machine.run("dd if=/dev/zero of=/var/lib/portcullis/filler bs=64k; sync");
    for _ in 0..20 {
        scene.is_well().await;
    }
    let refused = machine.run(&as_gateway(&format!("grant --user {STRANGER} alpha")));
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.said.contains("full"), "{refused:?}");
    scene.is_well().await;
    machine.must("rm /var/lib/portcullis/filler");
    machine.must(&as_gateway(&format!("grant --user {STRANGER} alpha")));
}
