//! Facts about rules on tools: told like grants, set once, and refused where nobody could read them.

use super::*;

#[tokio::test]
async fn every_way_to_change_a_rule_is_told_once() {
    on_both(async |scratch| {
        let store = scratch.store().await;
        let (_, mut cursor) = load(&store).await;
        let (scratch, store, cursor) = (&scratch, &store, &mut cursor);
        check(scratch, store, cursor, OPERATORS_RULE, "[MCP-GitHub]").await;
        assert_eq!(load(store).await.0, ["rule group MCP-GitHub github delete_* deny"]);
        let users = "INSERT INTO tool_rules VALUES \
             ('user','New@x','git','a','allow'), ('user','New@x','git','b','allow'), ('group','G','git','*','deny')";
        check(scratch, store, cursor, users, "New@x [G]").await;
        check(scratch, store, cursor, "UPDATE tool_rules SET effect = 'deny' WHERE tool_pattern = 'a'", "New@x")
            .await;
        check(scratch, store, cursor, "UPDATE tool_rules SET tenant_id = 'none' WHERE subject = 'G'", "[G]").await;
        let other_kind = "UPDATE tool_rules SET subject_kind = 'user', subject = 'g@x' WHERE subject = 'G'";
        check(scratch, store, cursor, other_kind, "g@x [G]").await;
        check(scratch, store, cursor, "DELETE FROM tool_rules WHERE subject = 'none'", "nothing").await;
        let rows = about(store, &[user("new@X"), user("G@x"), Subject::Group("MCP-GitHub".into())]).await;
        let expected = [
            "rule group MCP-GitHub github delete_* deny",
            "rule user New@x git a deny",
            "rule user New@x git b allow",
            "rule user g@x none * deny",
        ];
        assert_eq!((rows, load(store).await.0), (expected.map(String::from).into(), expected.map(String::from).into()));
        assert_eq!(about(store, &[user("mcp-github@x"), Subject::Group("New@x".into())]).await, [""; 0]);
        check(scratch, store, cursor, "DELETE FROM tool_rules", "New@x g@x [MCP-GitHub]").await;
        let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 6000) \
             INSERT INTO tool_rules SELECT 'user', 'u' || i || '@x', 'git', '*', 'deny' FROM n";
        check(scratch, store, cursor, many, "everything").await;
    })
    .await;
}

#[tokio::test]
async fn a_rule_is_set_once_and_removed_whatever_it_does() {
    on_both(async |scratch| {
        let store = scratch.store().await;
        scratch.execute("INSERT INTO tool_rules VALUES ('user','Jane@X.org','git','push','deny')").await;
        let (jane, group, git) = (email("jane@x.org"), group("G"), server("git"));
        let pattern = |text: &str| ToolPattern::parse(text).unwrap();
        let (jane, group) = (Whom::User(&jane), Whom::Group(&group));
        let set = async |whom, tool: &str, effect| {
            store.set_rule(whom, &git, &pattern(tool), effect).await.unwrap()
        };
        assert!(!set(jane, "push", Effect::Deny).await, "was there already, in other letters");
        assert!(set(jane, "push", Effect::Allow).await, "and does something else now");
        assert!(!set(jane, "push", Effect::Allow).await);
        assert!(set(jane, "pull", Effect::Deny).await);
        assert!(set(group, "*", Effect::Deny).await);
        assert!(set(group, "*", Effect::Allow).await);
        assert!(!set(group, "*", Effect::Allow).await);
        let expected = [
            "rule group G git * allow",
            "rule user Jane@X.org git push allow",
            "rule user jane@x.org git pull deny",
        ];
        assert_eq!(load(&store).await.0, expected);
        let remove = async |whom, tool: &str| store.remove_rule(whom, &git, &pattern(tool)).await.unwrap();
        assert_eq!((remove(jane, "push").await, remove(jane, "push").await), (1, 0));
        assert_eq!((remove(group, "pull").await, remove(group, "*").await), (0, 1));
        assert_eq!(load(&store).await.0, ["rule user jane@x.org git pull deny"]);
    })
    .await;
}

#[tokio::test]
async fn a_rule_that_no_reader_would_understand_is_refused_by_the_table() {
    on_both(async |scratch| {
        let store = scratch.store().await;
        for (row, column) in [
            ("'User','a@x','git','*','deny'", "subject_kind"),
            ("'user','G','git','*','deny'", "subject_is_an_email_or_a_group_name"),
            ("'user','a b@x','git','*','deny'", "subject_is_an_email_or_a_group_name"),
            ("'group','G ','git','*','deny'", "subject_is_an_email_or_a_group_name"),
            ("'group','','git','*','deny'", "subject_is_an_email_or_a_group_name"),
            ("'group','G','GitHub','*','deny'", "tenant_id"),
            ("'group','G','','*','deny'", "tenant_id"),
            ("'group','G','git hub','*','deny'", "tenant_id"),
            ("'group','G','git','','deny'", "tool_pattern"),
            ("'group','G','git','get repo','deny'", "tool_pattern"),
            ("'group','G','git','get%','deny'", "tool_pattern"),
            ("'group','G','git','caf\u{e9}','deny'", "tool_pattern"),
            ("'group','G','git','*','forbid'", "effect"),
            ("'group','G','git','*','Deny'", "effect"),
        ] {
            let error =
                scratch.try_execute(&format!("INSERT INTO tool_rules VALUES ({row})")).await.unwrap_err();
            assert!(error.to_string().contains(column), "{row}: {error}");
        }
        for row in
            ["'user','a@x','0_a-z','A.z_0-9*','allow'", "'group','Zesp\u{f3}\u{142}, QA','git','*','deny'"]
        {
            scratch.execute(&format!("INSERT INTO tool_rules VALUES ({row})")).await;
        }
        assert_eq!(load(&store).await.0.len(), 2);
    })
    .await;
}
