//! The command line on the real binary: stdout is data alone, and the exit code says 0 fine, 1 failed, 2 asked wrong.

use serde_json::json;

use crate::harness::{
    commands::{Said, portcullis},
    fake_peer::{Behaviour, FakePeer},
    gateway::Setup,
    grants::Grants,
    openwebui::{self, JANE_EMAIL},
    postgres::Database,
    redis::Redis,
    tokens::SESSION_SECRET,
    wire,
};

#[track_caller]
fn check(said: &Said, code: i32, stdout: &str, stderr: &[&str]) {
    assert_eq!((said.code, said.stdout.as_str()), (code, stdout), "{said:?}");
    for words in stderr {
        assert!(said.stderr.contains(words), "{words:?} is missing: {said:?}");
    }
    assert_eq!(said.stderr.is_empty(), stderr.is_empty(), "{said:?}");
    assert!(!said.stderr.contains(SESSION_SECRET) && !said.stderr.contains("panic"), "{said:?}");
}

/// A configuration whose server is called `github` and lives at this address.
fn setup(database_url: &str, url: &str) -> Setup {
    let mut off = toml::Table::new();
    off.insert("enabled".to_owned(), false.into());
    Setup::new(database_url).server("github", url).server_with("notes", "http://127.0.0.1:1", off)
}

/// How many migrations there are.
fn migrations() -> usize {
    std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/postgres")).unwrap().count()
}

#[tokio::test]
async fn commands_that_need_no_database_print_data_and_exit_0() {
    let folder = setup("postgres://u:p4ssword@127.0.0.1:1/none", "http://127.0.0.1:1").write();
    let run = async |words: &[&str]| portcullis(folder.path(), words).await;
    check(&run(&["version"]).await, 0, concat!("portcullis ", env!("CARGO_PKG_VERSION"), "\n"), &[]);
    check(&run(&["check"]).await, 0, "ok: 2 servers, 1 of them on\n", &[]);
    let servers = "github  on   local  openapi  http://127.0.0.1:1  a server of this test\n\
                   notes   off  local  openapi  http://127.0.0.1:1  a server of this test\n";
    check(&run(&["servers"]).await, 0, servers, &[]);
    let token = run(&["token", "--email", "user@company.com"]).await;
    assert_eq!((token.code, token.stderr.as_str()), (0, ""));
    let token = token.stdout.strip_suffix('\n').unwrap();
    assert!(token.split('.').count() == 3 && !token.contains('\n'), "{token}");
    let help = run(&["--help"]).await;
    assert_eq!((help.code, help.stderr.as_str()), (0, ""));
    assert!(help.stdout.contains("explain"), "{help:?}");
}

#[tokio::test]
async fn a_command_asked_wrong_exits_2_and_says_nothing_on_stdout() {
    let folder = setup("postgres://127.0.0.1:1/none", "http://127.0.0.1:1").write();
    for words in [
        &["dance"][..],
        &["run", "--fast"],
        &["explain", "github"],
        &["explain", "--as", "nobody", "github"],
        &["explain", "--as", "user@company.com", "no such server"],
        &["grant", "github"],
        &["grant", "--user", "user@company.com"],
        &["grant", "--user", "user@company.com", "--group", "g", "github"],
        &["grant", "--group", "g", "--deny", "github"],
        &["grant", "--user", "user@company.com", "--deny", "--member-of", "g"],
        &["grant", "--group", "g", "github/"],
        &["grant", "--group", "g", "github/get repo"],
        &["revoke", "--group", "g", "--deny", "github/search"],
        &["revoke", "--group", "g", "--member-of", "h"],
        &["token", "--email", "user@company.com", "--hours", "0"],
        &["tools"],
        &["tools", "list", "no such server"],
        &["tools", "diff", "github"],
        &["tools", "diff", "github/get repo"],
        &["tools", "approve"],
        &["tools", "approve", "--all", "github"],
        &["tools", "approve", "github", "--hash", "0123456789ab"],
        &["tools", "approve", "github/search", "--hash", "0123"],
    ] {
        let said = portcullis(folder.path(), words).await;
        assert_eq!((said.code, said.stdout.as_str()), (2, ""), "{words:?}: {said:?}");
        assert!(!said.stderr.is_empty(), "{words:?}");
    }
}

#[tokio::test]
async fn a_database_that_is_away_fails_a_command_with_a_sentence() {
    let folder = setup("postgres://u:p4ssword@127.0.0.1:1/none", "http://127.0.0.1:1").write();
    let commands = [
        &["migrate"][..],
        &["grant", "--user", "user@company.com", "github"],
        &["revoke", "--user", "user@company.com", "github"],
        &["explain", "--as", "user@company.com", "github"],
        &["tools", "list"],
        &["tools", "approve", "--all"],
        &["check", "--connect"],
    ];
    // Side by side: each waits some seconds for the database.
    let saying = commands.map(|words| portcullis(folder.path(), words));
    for (words, said) in commands.iter().zip(futures_util::future::join_all(saying).await) {
        assert_eq!((said.code, said.stdout.as_str()), (1, ""), "{words:?}: {said:?}");
        assert!(
            !said.stderr.contains("p4ssword") && !said.stderr.contains("panicked"),
            "{words:?}: {said:?}"
        );
        assert!(said.stderr.contains("the database cannot be reached"), "{words:?}: {said:?}");
    }
}

#[tokio::test]
async fn check_reports_every_problem_with_its_line_and_exits_1() {
    let folder = setup("sqlite:grants.db", "http://127.0.0.1:1").write();
    std::fs::write(
        folder.path().join("gateway.toml"),
        "[listen]\nhtp = 'x'\n\n[access]\nmax_stale_secs = 0\n",
    )
    .unwrap();
    std::fs::write(folder.path().join("servers.toml"), "[servers.a]\nname = 'A'\ntier = 'loca'\nurl = 'x'\n")
        .unwrap();
    let said = portcullis(folder.path(), &["check"]).await;
    check(&said, 1, "", &["gateway.toml:2: ", "gateway.toml:5: ", "servers.toml:3: ", "hint: ", "problems"]);
    let run = portcullis(folder.path(), &["run"]).await;
    check(&run, 1, "", &["gateway.toml:2: ", "servers.toml:3: "]);
    let missing = portcullis(tempfile::tempdir().unwrap().path(), &["servers"]).await;
    assert_eq!((missing.code, missing.stdout.as_str()), (1, ""), "{missing:?}");
}

#[tokio::test]
async fn check_and_run_refuse_with_its_line_what_only_shows_when_it_is_tried() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    std::fs::write(&text, "not a database at all").unwrap();
    let good = "sqlite:portcullis.db";
    // TEST-NET-1: no machine has it.
    let elsewhere = setup(good, "http://127.0.0.1:9").set("listen.http", "192.0.2.1:80");
    let no_database = setup(&format!("sqlite:{}", text.display()), "http://127.0.0.1:9");
    for (setup, key, words) in [
        (elsewhere, "http", "`listen.http` is `192.0.2.1:80`, where this process cannot listen"),
        (no_database, "url", "`database.url` names a file that is no SQLite database"),
    ] {
        let folder = setup.write();
        let file = folder.path().join("gateway.toml");
        let written = std::fs::read_to_string(&file).unwrap();
        let is_it = |line: &str| line.starts_with(&format!("{key} = "));
        let line = written.lines().position(is_it).unwrap() + 1;
        let expected = format!("{}:{line}: {words}", file.display());
        for command in ["check", "run"] {
            check(&portcullis(folder.path(), &[command]).await, 1, "", &[&expected]);
        }
    }
}

#[tokio::test]
async fn check_says_when_there_is_nothing_to_call() {
    let folder = setup("sqlite:portcullis.db", "http://127.0.0.1:9").servers("").write();
    let said = portcullis(folder.path(), &["check"]).await;
    check(&said, 0, "ok: 0 servers, 0 of them on\n", &["servers.toml has no server"]);
}

#[tokio::test]
async fn check_tells_of_sessions_that_end_with_the_process_where_there_are_any() {
    let grants = Grants::of(&[]).await;
    let check_with = async |dialect: &str, is_enabled: bool, key: &str, is_told: bool| {
        let keys = [("dialect".to_owned(), dialect.into()), ("enabled".to_owned(), is_enabled.into())];
        let setup = grants.setup().server_with("x", "http://127.0.0.1:1", toml::Table::from_iter(keys));
        let folder = setup.set("mcp.session_keys", vec![key.to_owned()]).write();
        let words = ["note: `mcp.session_keys` is empty, so MCP sessions end with this process"];
        let said = format!("ok: 1 servers, {} of them on\n", u8::from(is_enabled));
        check(&portcullis(folder.path(), &["check"]).await, 0, &said, if is_told { &words } else { &[] });
    };
    check_with("mcp", true, "", true).await;
    check_with("mcp-sse", true, "", true).await;
    check_with("mcp", true, &"5f".repeat(32), false).await;
    check_with("mcp", false, "", false).await;
    check_with("openapi", true, "", false).await;
}

#[tokio::test]
async fn check_connect_reaches_the_database_and_every_server_that_is_on() {
    let database = openwebui::database().await;
    let peer = FakePeer::start().await.with_json("search", json!([]));
    let good = setup(&database.url(), &peer.url()).set("auth.openwebui.database_url", database.url()).write();
    let said = portcullis(good.path(), &["check", "--connect"]).await;
    check(
        &said,
        0,
        "ok: 2 servers, 1 of them on\n",
        &[&format!("{} migrations are pending", migrations()), "server `github` offers 1 tools"],
    );
    let dead = setup(&database.url(), "http://127.0.0.1:1").write();
    let said = portcullis(dead.path(), &["check", "--connect"]).await;
    check(&said, 1, "", &["server `github`"]);
}

#[tokio::test]
async fn check_connect_reaches_the_redis_of_open_webui() {
    let grants = Grants::of(&[]).await;
    let redis = Redis::start().await;
    let good = grants.setup().set("auth.openwebui.redis_url", redis.url()).write();
    let said = portcullis(good.path(), &["check", "--connect"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let dead = grants.setup().set("auth.openwebui.redis_url", "redis://:p4ssword@127.0.0.1:1").write();
    let said = portcullis(dead.path(), &["check", "--connect"]).await;
    check(&said, 1, "", &["Open WebUI's Redis: "]);
    assert!(!said.stderr.contains("p4ssword"), "{said:?}");
}

#[tokio::test]
async fn check_connect_asks_servers_of_mcp_whether_they_are_there() {
    let grants = Grants::of(&[]).await;
    let peer = FakePeer::start().await;
    let answer = |status: &str| Behaviour::Answer(wire::answer(status, "text/plain", b"so"));
    let check_with = async |dialect: &str, path: &str, code: i32, words: &str| {
        let keys = toml::Table::from_iter([("dialect".to_owned(), dialect.into())]);
        let setup = grants.setup().server_with("x", &format!("{}{path}", peer.url()), keys);
        let setup = setup.set("tools.deadline_secs", 1);
        let folder = setup.set("mcp.session_keys", vec!["5f".repeat(32)]).write();
        let said = portcullis(folder.path(), &["check", "--connect"]).await;
        let words = [words].into_iter().filter(|words| !words.is_empty()).collect::<Vec<_>>();
        check(&said, code, if code == 0 { "ok: 1 servers, 1 of them on\n" } else { "" }, &words);
    };
    let unread = "warning: server `x`: its tools cannot be read: ";
    for (status, code, words) in [
        ("200 OK", 0, unread),
        // Servers without `server/discover` refuse it in ways of their own.
        ("400 Bad Request", 0, unread),
        ("405 Method Not Allowed", 0, unread),
        ("404 Not Found", 0, "warning: server `x`: `http://"),
        ("401 Unauthorized", 1, "look at the `credential`"),
        ("307 Temporary Redirect", 1, "the slash at its end"),
        ("502 Bad Gateway", 1, "answered 502"),
    ] {
        peer.set("/mcp/", answer(status));
        check_with("mcp", "/mcp/", code, words).await;
    }
    let asked = &peer.requests()[0];
    assert_eq!((asked.method.as_str(), asked.json()["method"].as_str()), ("POST", Some("server/discover")));
    assert_eq!(asked.head.header("mcp-method"), Some("server/discover"));
    for (status, code, words) in [("200 OK", 0, unread), ("404 Not Found", 1, "404"), ("405 No", 1, "405")] {
        peer.set("/sse", answer(status));
        check_with("mcp-sse", "/sse", code, words).await;
    }
    peer.set("/sse", Behaviour::Hold);
    check_with("mcp-sse", "/sse", 0, unread).await;
}

#[tokio::test]
async fn migrate_makes_the_tables_and_can_be_repeated() {
    let database = Database::create().await;
    let folder = setup(&database.url(), "http://127.0.0.1:1").set("database.schema", "gate").write();
    check(
        &portcullis(folder.path(), &["migrate"]).await,
        0,
        "",
        &[&format!("applied {} migrations", migrations())],
    );
    check(&portcullis(folder.path(), &["migrate"]).await, 0, "", &["applied 0 migrations"]);
    database.execute("INSERT INTO gate.user_tenant_access VALUES ('user@company.com', 'github')").await;
}

#[tokio::test]
async fn explain_says_which_grant_lets_somebody_in_or_what_is_missing() {
    let database = Database::create().await;
    let folder = setup(&database.url(), "http://127.0.0.1:1").write();
    let run = async |words: &[&str]| portcullis(folder.path(), words).await;
    let explain = async |target: &str| run(&["explain", "--as", "User@Company.com", target]).await;
    assert_eq!(run(&["migrate"]).await.code, 0);
    check(
        &explain("github").await,
        1,
        "`user@company.com` may not use `github`: no row of `user_tenant_access` gives it to them, and they are in no \
         group known here\n",
        &[],
    );
    for words in [
        &["grant", "--user", "user@company.com", "github"][..],
        &["grant", "--user", "user@company.com", "notes"],
        &["grant", "--user", "user@company.com", "elsewhere"],
        &["grant", "--user", "user@company.com", "--member-of", "MCP-GitHub"],
        &["grant", "--group", "MCP-GitHub", "github"],
    ] {
        assert_eq!(run(words).await.code, 0, "{words:?}");
    }
    let reasons = "`user@company.com` may use `github`: they are in group `MCP-GitHub` (from `user_group_membership`), \
                   which `group_tenant_mapping` gives `github`; and `user_tenant_access` gives them `github`\n";
    check(&explain("github").await, 0, reasons, &[]);
    let tool = explain("github/search").await;
    assert_eq!((tool.code, tool.stdout.lines().count()), (0, 2), "{tool:?}");
    for (target, trouble) in [("notes", "switched off"), ("elsewhere", "not in servers.toml")] {
        let said = explain(target).await;
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.stdout.contains(trouble) && said.stderr.is_empty(), "{said:?}");
    }
    let as_member = run(&["explain", "--as", "new@company.com", "--group", "MCP-GitHub", "github"]).await;
    assert_eq!(as_member.code, 0, "{as_member:?}");
}

#[tokio::test]
async fn a_rule_about_tools_is_made_changed_and_removed() {
    let database = Database::create().await;
    let folder = setup(&database.url(), "http://127.0.0.1:1").write();
    let run = async |words: &[&str]| portcullis(folder.path(), words).await;
    let rule = |words: &[&'static str]| [words, &["--group", "MCP-GitHub", "github/search_*"]].concat();
    let allowed =
        "tools `search_*` of `github` are allowed to group `MCP-GitHub`, and none that no rule allows";
    let narrows = "this narrows what group `MCP-GitHub` may use of `github`; they also need a grant";
    check(&run(&rule(&["grant"])).await, 0, "", &[&format!("{allowed}\n{narrows}")]);
    assert_eq!(run(&["grant", "--group", "MCP-GitHub", "github"]).await.code, 0);
    let again = run(&rule(&["grant"])).await;
    check(&again, 0, "", &[&format!("{allowed} (and was before)\n")]);
    assert!(!again.stderr.contains("narrows"), "{again:?}");
    let denied = "tools `search_*` of `github` are denied to group `MCP-GitHub`";
    check(&run(&rule(&["grant", "--deny"])).await, 0, "", &[&format!("{denied}\n")]);
    check(&run(&rule(&["grant", "--deny"])).await, 0, "", &[&format!("{denied} (and was before)\n")]);
    let none = "group `MCP-GitHub` has no rule about `search_*` of `github` any more";
    check(&run(&rule(&["revoke"])).await, 0, "", &[&format!("{none}; 1 rows removed\n")]);
    check(&run(&rule(&["revoke"])).await, 0, "", &[&format!("{none}; 0 rows removed\n")]);
    // A grant through a group, or the admin group, is one too.
    assert_eq!(run(&["grant", "--user", "user@company.com", "--member-of", "MCP-GitHub"]).await.code, 0);
    for who in [["--user", "user@company.com"], ["--group", "MCP-Admin"]] {
        let said = run(&[&["grant"], &who[..], &["github/get_*"]].concat()).await;
        assert!(said.code == 0 && !said.stderr.contains("narrows"), "{said:?}");
    }
    let said = run(&["grant", "--user", "other@company.com", "github/get_*"]).await;
    assert!(said.code == 0 && said.stderr.contains("narrows what `other@company.com` may use"), "{said:?}");
}

#[tokio::test]
async fn explain_names_the_rule_that_decides_about_a_tool() {
    let database = Database::create().await;
    let folder = setup(&database.url(), "http://127.0.0.1:1").write();
    let run = async |words: &[&str]| portcullis(folder.path(), words).await;
    let explain = async |target: &str| run(&["explain", "--as", "user@company.com", target]).await;
    for words in [
        &["grant", "--user", "user@company.com", "github"][..],
        &["grant", "--user", "user@company.com", "--member-of", "Interns"],
        &["grant", "--group", "Interns", "--deny", "github/delete_*"],
        &["grant", "--user", "user@company.com", "github/*_repo"],
        &["grant", "--user", "user@company.com", "--deny", "notes/*"],
        &["grant", "--user", "other@company.com", "--deny", "github/*"],
    ] {
        assert_eq!(run(words).await.code, 0, "{words:?}");
    }
    let granted = "`user@company.com` may use `github`: `user_tenant_access` gives them `github`\n";
    let denial = "`tool_rules` denies `delete_*` to group `Interns` (from `user_group_membership`)\n";
    let allowance = "`tool_rules` allows `*_repo` to `user@company.com`\n";
    check(&explain("github").await, 0, &format!("{granted}{denial}{allowance}"), &[]);
    let get = format!("{granted}`get_repo` is allowed: {allowance}");
    check(&explain("github/get_repo").await, 0, &get, &[]);
    let delete = format!("{granted}but `delete_repo` is denied: {denial}");
    check(&explain("github/delete_repo").await, 1, &delete, &[]);
    let search = format!("{granted}but `search` is denied, for rules allow only others: {allowance}");
    check(&explain("github/search").await, 1, &search, &[]);
    let as_admin = run(&[
        "explain",
        "--as",
        "new@company.com",
        "--group",
        "MCP-Admin",
        "--group",
        "Interns",
        "github/delete_x",
    ]);
    assert_eq!(as_admin.await.code, 1, "rules narrow what admins may use too");
}

#[tokio::test]
async fn explain_and_token_ask_open_webuis_tables() {
    let database = openwebui::database().await;
    let peer = FakePeer::start().await.with_json("search", json!([]));
    openwebui::add_group(&database, "MCP-GitHub", None).await;
    openwebui::add_group(&database, "Backend", Some("MCP-GitHub")).await;
    openwebui::join(&database, openwebui::JANE, "Backend").await;
    let setup = setup(&database.url(), &peer.url()).set("auth.openwebui.database_url", database.url());
    let gateway = setup.start().await;
    let run = async |words: &[&str]| portcullis(gateway.folder.path(), words).await;
    assert_eq!(run(&["grant", "--group", "MCP-GitHub", "github"]).await.code, 0);
    gateway.await_grants(1).await;

    let explained = run(&["explain", "--as", JANE_EMAIL, "github"]).await;
    assert_eq!(explained.code, 0, "{explained:?}");
    let token = run(&["token", "--email", JANE_EMAIL]).await;
    assert_eq!((token.code, token.stderr.as_str()), (0, ""));
    let answer = gateway.call("/github/search", token.stdout.trim_end(), &json!({})).await;
    assert_eq!(answer.status, 200, "{}", answer.text());

    assert_eq!(run(&["token", "--email", "nobody@example.com"]).await.code, 1);
    database.execute("UPDATE auth SET active = false").await;
    let inactive = run(&["token", "--email", JANE_EMAIL]).await;
    assert_eq!((inactive.code, inactive.stdout.as_str()), (1, ""), "{inactive:?}");
    let explained = run(&["explain", "--as", JANE_EMAIL, "github"]).await;
    assert!(explained.stdout.contains("not active in Open WebUI"), "{explained:?}");
    assert_eq!(explained.code, 1, "a user whose tokens are refused can reach nothing: {explained:?}");
}

#[tokio::test]
async fn health_says_what_a_load_balancer_hears() {
    let peer = FakePeer::start().await;
    let grants = Grants::of(&["github"]).await;
    let mut gateway = grants.setup().server("github", &peer.url()).start().await;
    let folder = tempfile::tempdir().unwrap();
    let config = gateway.folder.path().to_owned();
    let ready = portcullis(&config, &["health"]).await;
    check(&ready, 0, "{\"status\":\"ready\"}\n", &[]);
    let live = portcullis(&config, &["health", "--live"]).await;
    check(&live, 0, "{\"status\":\"live\"}\n", &[]);
    // A configuration with problems does not make a gateway that goes on with the one before unhealthy.
    let ops = gateway.ops_url("");
    let ops = ops.trim_start_matches("http://");
    check(&portcullis(folder.path(), &["health", "--ops", ops]).await, 0, "{\"status\":\"ready\"}\n", &[]);

    gateway.signal("TERM");
    assert!(gateway.ended().await.success());
    let gone = portcullis(&config, &["health"]).await;
    check(&gone, 1, "", &["nothing answers at http://127.0.0.1:", "`listen.ops`"]);
}
