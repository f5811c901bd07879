use super::*;
use crate::{catalog::server::tests_support::server, store::GrantRow};

fn access(is_concealing: bool) -> Access {
    Access::new(Settings {
        admin_group: GroupName::parse("MCP-Admin").unwrap(),
        max_stale: Duration::from_secs(3600),
        is_concealing,
    })
}

fn known(version: u64, rows: &[GrantRow<'static>]) -> KnownGrants {
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
