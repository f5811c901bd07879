use super::{tests_support::rule, *};
use crate::{catalog::server::tests_support::server, names::ToolName, store::GrantRow};

fn access(is_concealing: bool) -> Access {
    Access::new(Settings {
        admin_group: GroupName::parse("MCP-Admin").unwrap(),
        max_stale: Duration::from_secs(3600),
        is_concealing,
        tenant_order: Vec::new(),
    })
}

fn known(version: u64, rows: &[GrantRow<'_>]) -> KnownGrants {
    KnownGrants { version, grants: Arc::new(rows.iter().copied().collect()) }
}

const ROWS: [GrantRow<'static>; 5] = [
    GrantRow::User { email: "ann@x.org", server: "github" },
    GrantRow::Membership { email: "bob@x.org", group: "Dev" },
    GrantRow::Group { group: "Dev", server: "github" },
    GrantRow::Membership { email: "root@x.org", group: "MCP-Admin" },
    GrantRow::Group { group: "dev", server: "jenkins" },
];

#[track_caller]
fn check(email: &str, groups: &[&str], server_id: &str, is_allowed: bool) {
    let caller = Caller::for_test(email, groups);
    let access = access(false);
    let known = known(1, &ROWS);
    let decision = access.authorize(&caller, &server(server_id), &known);
    assert_eq!(decision.is_ok(), is_allowed, "{email} {groups:?} -> {server_id}");
    let id = ServerId::parse(server_id).unwrap();
    let explanation = explain(access.settings(), &caller, &id, &known.grants);
    assert_eq!(explanation.is_allowed(), is_allowed, "explain must agree: {explanation}");
    assert_eq!(access.reach(&caller, &known).includes(&id), is_allowed);
}

#[test]
fn a_grant_to_the_user_to_a_group_or_admin_lets_in_and_nothing_else_does() {
    check("ann@x.org", &[], "github", true);
    check("Ann@X.org", &[], "github", true);
    check("ann@x.org", &[], "jenkins", false);
    check("bob@x.org", &[], "github", true);
    check("bob@x.org", &[], "jenkins", false);
    check("eve@x.org", &[], "github", false);
    check("eve@x.org", &["Dev"], "github", true);
    check("eve@x.org", &["DEV"], "github", false);
    check("eve@x.org", &["MCP-Admin"], "jenkins", true);
    check("eve@x.org", &["mcp-admin"], "jenkins", false);
    check("root@x.org", &[], "unheard-of", true);
}

#[test]
fn a_new_version_of_the_grants_is_a_new_decision() {
    let access = access(false);
    let caller = Caller::for_test("ann@x.org", &[]);
    assert!(access.authorize(&caller, &server("github"), &known(1, &ROWS)).is_ok());
    assert!(access.authorize(&caller, &server("github"), &known(2, &[])).is_err());
}

#[test]
fn callers_who_differ_in_groups_only_are_decided_apart() {
    let access = access(false);
    let known = known(1, &ROWS);
    assert!(access.authorize(&Caller::for_test("eve@x.org", &["Dev"]), &server("github"), &known).is_ok());
    assert!(access.authorize(&Caller::for_test("eve@x.org", &[]), &server("github"), &known).is_err());
}

#[test]
fn concealment_makes_a_missing_grant_look_like_a_missing_server() {
    let caller = Caller::for_test("eve@x.org", &[]);
    let refusal = |is_concealing| {
        access(is_concealing).authorize(&caller, &server("github"), &known(1, &ROWS)).unwrap_err()
    };
    assert_eq!(refusal(false).code(), Code::NotGranted);
    assert_eq!(refusal(true).code(), Code::UnknownServer);
    assert_eq!(refusal(true).sentence(), unknown_server().sentence());
}

const RULES: [GrantRow<'static>; 6] = [
    rule("user", "Ann@x.org", "delete_*", "deny"),
    rule("user", "bob@x.org", "search", "deny"),
    rule("group", "Dev", "search*", "allow"),
    rule("group", "Dev", "*_repo", "allow"),
    rule("group", "Night", "get_repo", "deny"),
    rule("group", "MCP-Admin", "delete_repo", "deny"),
];

/// Checks which of `delete_repo`, `get_repo` and `search` of `github` are left to a caller.
#[track_caller]
fn check_tools(email: &str, groups: &[&str], left: &[&str]) {
    let (access, caller, server) = (access(false), Caller::for_test(email, groups), server("github"));
    let rows: Vec<_> = ROWS.into_iter().chain(RULES).collect();
    let known = known(1, &rows);
    let permit = access.authorize(&caller, &server, &known).unwrap();
    let tools = ["delete_repo", "get_repo", "search"];
    let allowed: Vec<_> = tools.into_iter().filter(|tool| permit.tools().allows(tool)).collect();
    assert_eq!(allowed, left, "{email} {groups:?}");
    assert_eq!(access.reach(&caller, &known).tools(&server.id), permit.tools());
    let explanation = explain(access.settings(), &caller, &server.id, &known.grants);
    for tool in tools.map(|tool| ToolName::parse(tool).unwrap()) {
        assert_eq!(explanation.allows(&tool), permit.tools().allows(tool.as_str()), "explain must agree");
        let is_a_no = explanation.ruling(&tool).starts_with("but ");
        assert_eq!(is_a_no, !explanation.allows(&tool), "{}", explanation.ruling(&tool));
    }
    assert_eq!(permit.tools().is_everything(), explanation.rules().count() == 0);
}

#[test]
fn rules_about_the_caller_and_all_their_groups_narrow_what_a_grant_gives() {
    check_tools("ann@x.org", &[], &["get_repo", "search"]);
    check_tools("ANN@x.org", &["Dev"], &["get_repo", "search"]);
    check_tools("bob@x.org", &[], &["delete_repo", "get_repo"]);
    check_tools("eve@x.org", &["Dev"], &["delete_repo", "get_repo", "search"]);
    check_tools("eve@x.org", &["Dev", "Night"], &["delete_repo", "search"]);
    check_tools("bob@x.org", &["Night"], &["delete_repo"]);
    check_tools("root@x.org", &[], &["get_repo", "search"]);
    check_tools("eve@x.org", &["MCP-Admin", "Night"], &["search"]);
}

#[test]
fn a_rule_gives_no_server_and_counts_for_its_own_alone() {
    let access = access(false);
    let rules = [rule("user", "eve@x.org", "*", "allow"), rule("group", "dev", "*", "deny")];
    let known = known(1, &[&ROWS[..], &rules].concat());
    assert!(access.authorize(&Caller::for_test("eve@x.org", &[]), &server("github"), &known).is_err());
    let of_other_server =
        access.authorize(&Caller::for_test("eve@x.org", &["dev"]), &server("jenkins"), &known);
    assert!(of_other_server.unwrap().tools().is_everything());
}

#[test]
fn the_deciding_rule_is_named_with_whom_it_is_about() {
    let caller = Caller::for_test("bob@x.org", &["MCP-Admin"]);
    let access = access(false);
    let rows: Vec<_> =
        ROWS.into_iter().chain(RULES).chain([rule("user", "bob@x.org", "x y", "deny")]).collect();
    let explain = |rows: &[GrantRow<'static>], tool: &str| {
        let explanation = explain(access.settings(), &caller, &server("github").id, &known(1, rows).grants);
        explanation.ruling(&ToolName::parse(tool).unwrap())
    };
    let without = &rows[..rows.len() - 1];
    for (rows, tool, sentence) in [
        (without, "search", "but `search` is denied: `tool_rules` denies `search` to `bob@x.org`"),
        (
            without,
            "searching",
            "`searching` is allowed: `tool_rules` allows `search*` to group `Dev` (from `user_group_membership`)",
        ),
        (
            without,
            "list",
            "but `list` is denied, for rules allow only others: `tool_rules` allows `*_repo` to group `Dev` (from \
             `user_group_membership`); and `tool_rules` allows `search*` to group `Dev` (from `user_group_membership`)",
        ),
        (
            without,
            "delete_repo",
            "but `delete_repo` is denied: `tool_rules` denies `delete_repo` to group `MCP-Admin` (from their \
             credential or Open WebUI)",
        ),
        (
            &rows,
            "get_repo",
            "but `get_repo` is denied: a malformed row of `tool_rules` denies every tool to `bob@x.org`",
        ),
        (&rows[..7], "list", "no rule denies `list`, and a grant for the server covers its other tools"),
        (&ROWS, "list", "a grant for the server covers all its tools, `list` too if the server has it"),
    ] {
        assert_eq!(explain(rows, tool), sentence);
    }
}

mod tenants {
    use super::*;
    use crate::{
        access::tenant::Tenancy,
        catalog::server::{OwnCredential, Server},
        names::Secret,
    };

    fn taking(key_name: &str) -> Arc<Server> {
        let own = OwnCredential {
            header: http::header::AUTHORIZATION,
            scheme: String::new(),
            key_name: key_name.into(),
        };
        Arc::new(Server { own_credential: Some(own), ..Server::clone(&server("github")) })
    }

    /// Which group counts for a caller in these groups, with these groups' keys and addresses: `-` none, `?` several.
    #[track_caller]
    fn check(order: &[&str], groups: &[&str], keys: &[(&str, &str)], endpoints: &[&str], expected: &str) {
        let value = Secret::new("k".to_owned());
        let key = |(group, name)| GrantRow::Key { group, server: "github", name, value: Ok(&value) };
        let endpoint = |group| GrantRow::Endpoint { group, server: "github", url: "http://h" };
        let others = [GrantRow::Key { group: "A", server: "gitlab", name: "token", value: Ok(&value) }];
        let grant = GrantRow::User { email: "ann@x.org", server: "github" };
        let keys = keys.iter().map(|(group, name)| key((*group, *name)));
        let endpoints = endpoints.iter().map(|group| endpoint(*group));
        let rows: Vec<_> = keys.chain(endpoints).chain(others).chain([grant]).collect();
        let group = |name: &&str| GroupName::parse(name).unwrap();
        let settings = Settings {
            admin_group: group(&"MCP-Admin"),
            max_stale: Duration::from_secs(1),
            is_concealing: false,
            tenant_order: order.iter().map(group).collect(),
        };
        let caller = Caller::for_test("ann@x.org", groups);
        let permit = Access::new(settings).authorize(&caller, &taking("token"), &known(1, &rows)).unwrap();
        let found = match permit.tenancy() {
            Tenancy::Shared { is_keyed: false } => "-",
            Tenancy::Shared { is_keyed: true } => "- keyed",
            Tenancy::Own(own) => own.group().as_str(),
            Tenancy::Ambiguous => "?",
        };
        assert_eq!(found, expected, "{order:?} {groups:?}");
    }

    #[test]
    fn the_group_that_counts_is_the_only_one_or_the_first_in_order() {
        check(&[], &["A", "B"], &[], &[], "-");
        check(&[], &["A", "B"], &[("A", "token")], &[], "A");
        check(&[], &["B"], &[("A", "token")], &[], "- keyed");
        check(&[], &["A", "B"], &[("A", "other")], &[], "- keyed");
        check(&[], &["A", "B"], &[("A", "other"), ("B", "token")], &[], "B");
        check(&[], &["A", "B"], &[], &["B"], "B");
        check(&[], &["A", "B"], &[("A", "token")], &["B"], "?");
        check(&[], &["A", "B"], &[("A", "token"), ("B", "token")], &[], "?");
        check(&["B"], &["A", "B"], &[("A", "token"), ("B", "token")], &[], "B");
        check(&["C", "B", "A"], &["A", "B", "C"], &[("A", "token"), ("B", "token")], &[], "B");
        check(&["C"], &["A", "B", "C"], &[("A", "token"), ("B", "token")], &[], "?");
        check(&["B"], &["A", "C"], &[("A", "token"), ("B", "token"), ("C", "token")], &[], "?");
        check(&["B"], &["A"], &[("A", "token"), ("B", "token")], &[], "A");
    }
}
