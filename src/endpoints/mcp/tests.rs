//! Facts about lists and greetings: what is shown, in which order, on which page, and for how long.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    access::{ToolScope, tools::ToolRule},
    catalog::{
        Catalog,
        offers::{Kind, read},
        server::tests_support::server,
        tools::{ToolIndex, ToolList},
    },
    snapshot::Current,
};

const REFRESH: Duration = Duration::from_secs(300);

fn id(text: &str) -> ServerId {
    ServerId::parse(text).unwrap()
}

fn about() -> About {
    About {
        is_modern: true,
        versions: Vec::new(),
        capabilities: "{}".into(),
        instructions: None,
        info: None,
        ttl_ms: 0,
        is_public: false,
        read_at: SystemTime::UNIX_EPOCH,
        is_stale: false,
    }
}

fn tool_list(tools: &[&str]) -> Arc<ToolList> {
    let tools: Vec<_> = tools
        .iter()
        .map(|name| json!({"name": name, "inputSchema": {"type": "object"}, "x": 1.50}))
        .collect();
    Arc::new(ToolList::from_mcp(&[json!({"tools": tools}).to_string()]).unwrap().0)
}

fn offers(prompts: &[&str], resources: &[&str], about: About) -> Arc<Offers> {
    let entries = |kind: Kind, member: &str, key: &str, keys: &[&str]| {
        let entries: Vec<_> = keys.iter().map(|value| json!({key: value, "name": "n", "x": 1.50})).collect();
        read(kind, &[json!({member: entries}).to_string()]).unwrap().0
    };
    let named: Vec<_> = prompts.iter().map(|name| json!({"name": name})).collect();
    Arc::new(Offers {
        prompts: read(Kind::Prompts, &[json!({"prompts": named}).to_string()]).unwrap().0,
        resources: entries(Kind::Resources, "resources", "uri", resources),
        templates: entries(Kind::Templates, "resourceTemplates", "uriTemplate", resources),
        about,
    })
}

/// What is believed of these servers, each with its tools and offers.
fn snapshot(servers: &[(&str, &[&str], Arc<Offers>)]) -> Snapshot {
    let catalog = Catalog::new(servers.iter().map(|(id, ..)| (*server(id)).clone()));
    let mut snapshot = Snapshot::clone(&Current::new(catalog, Duration::from_secs(1)).load());
    for (server, tools, offers) in servers {
        snapshot.tools = Arc::new(snapshot.tools.with(id(server), tool_list(tools)));
        snapshot.offers = Arc::new(snapshot.offers.with(id(server), offers.clone()));
    }
    snapshot
}

fn all_of(snapshot: &Snapshot) -> Vec<Visible> {
    let servers = snapshot.catalog.iter();
    servers.map(|server| Visible { server: server.clone(), tools: ToolScope::default() }).collect()
}

fn shelf<'a>(snapshot: &'a Snapshot, visible: &'a [Visible]) -> Shelf<'a> {
    Shelf {
        scope: Scope::All,
        visible,
        snapshot,
        is_modern: false,
        page_size: 1000,
        has_meta_tools_only: false,
        now: SystemTime::UNIX_EPOCH,
        refresh: REFRESH,
    }
}

type List = fn(&Shelf<'_>, Option<&str>) -> Page;

/// The members and keys of the four lists.
const LISTS: [(List, &str, &str); 4] = [
    (tools, "tools", "name"),
    (prompts, "prompts", "name"),
    (resources, "resources", "uri"),
    (templates, "resourceTemplates", "uriTemplate"),
];

/// What each page shows, page after page.
fn pages(shelf: &Shelf<'_>, (list, member, key): (List, &str, &str)) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let page = list(shelf, cursor.as_deref());
        let result: Value = serde_json::from_str(&page.result).unwrap();
        let items = result[member].as_array().unwrap();
        pages.push(items.iter().map(|item| item[key].as_str().unwrap().to_owned()).collect());
        cursor = page.next;
        if cursor.is_none() {
            return pages;
        }
        assert!(pages.len() < 1000, "paging does not end");
    }
}

fn two() -> Snapshot {
    let resources = offers(&["greet"], &["file:///b", "file:///a"], about());
    snapshot(&[("beta", &["b", "a"], resources.clone()), ("alpha", &["z", "odd.name"], resources)])
}

#[test]
fn lists_of_all_servers_have_names_that_tell_them_apart() {
    let snapshot = two();
    let visible = all_of(&snapshot);
    let shelf = shelf(&snapshot, &visible);
    let tools = pages(&shelf, LISTS[0]).concat();
    assert!(tools[0].starts_with("alpha_odd_name_"), "{tools:?}");
    assert_eq!(tools[1..], ["alpha_z", "beta_a", "beta_b"]);
    assert_eq!(pages(&shelf, LISTS[1]).concat(), ["alpha_greet", "beta_greet"]);
    let addresses: Vec<_> = ["alpha", "beta"]
        .iter()
        .flat_map(|server| ["file:///a", "file:///b"].map(|address| uri::outward(server, address)))
        .collect();
    assert_eq!(pages(&shelf, LISTS[2]).concat(), addresses);
    assert_eq!(pages(&shelf, LISTS[3]).concat(), addresses);
}

#[test]
fn lists_of_one_server_have_its_own_names() {
    let snapshot = two();
    let (visible, only) = (all_of(&snapshot), id("alpha"));
    let shelf = Shelf { scope: Scope::One(&only), ..shelf(&snapshot, &visible) };
    let shown = LISTS.map(|list| pages(&shelf, list).concat());
    assert_eq!(
        shown,
        [
            vec!["odd.name", "z"],
            vec!["greet"],
            vec!["file:///a", "file:///b"],
            vec!["file:///a", "file:///b"]
        ]
    );
}

#[test]
fn all_but_the_name_of_an_item_is_its_server_s_own_bytes() {
    let snapshot = two();
    let visible = all_of(&snapshot);
    let shelf = shelf(&snapshot, &visible);
    for (list, ..) in [LISTS[0], LISTS[2], LISTS[3]] {
        let page = list(&shelf, None).result;
        assert_eq!(page.matches(r#""x":1.5"#).count(), 4, "{page}");
    }
}

#[test]
fn what_is_not_the_caller_s_is_on_no_list() {
    let snapshot = two();
    let rules = vec![ToolRule::parse("z", "deny")];
    let mut off = (*server("beta")).clone();
    off.is_enabled = false;
    let narrowed = Visible { server: server("alpha"), tools: ToolScope::of(rules) };
    for visible in [
        vec![narrowed.clone()],
        vec![narrowed.clone(), Visible { server: Arc::new(off), tools: ToolScope::default() }],
    ] {
        let shelf = shelf(&snapshot, &visible);
        let shown = LISTS.map(|list| pages(&shelf, list).concat());
        assert_eq!(shown.each_ref().map(Vec::len), [1, 1, 2, 2], "{shown:?}");
        assert!(shown[0][0].starts_with("alpha_odd_name_"));
        assert!(shown.iter().flatten().all(|name| !name.contains("beta")));
    }
    let beta = id("beta");
    let visible = [narrowed];
    let other = Shelf { scope: Scope::One(&beta), ..shelf(&snapshot, &visible) };
    assert!(LISTS.iter().all(|list| pages(&other, *list).concat().is_empty()));
    let nobody = shelf(&snapshot, &[]);
    assert_eq!(tools(&nobody, None).result, r#"{"tools":[]}"#);
}

#[test]
fn a_page_is_the_same_whatever_order_things_were_read_or_granted_in() {
    let one = two();
    let none = offers(&["greet"], &["file:///a", "file:///b"], about());
    let other = snapshot(&[("alpha", &["odd.name", "z"], none.clone()), ("beta", &["a", "b"], none)]);
    let (visible, mut turned) = (all_of(&one), all_of(&other));
    turned.reverse();
    turned.push(turned[0].clone());
    for (list, ..) in LISTS {
        assert_eq!(list(&shelf(&one, &visible), None), list(&shelf(&other, &turned), None));
    }
}

#[test]
fn a_page_goes_on_behind_what_has_vanished_meanwhile() {
    let before = two();
    let visible = all_of(&before);
    let paged = Shelf { page_size: 2, ..shelf(&before, &visible) };
    let cursor = tools(&paged, None).next.unwrap();
    assert_eq!(cursor, "alpha/z");
    let none = offers(&[], &[], about());
    let after = snapshot(&[("alpha", &["zz"], none.clone()), ("beta", &["b"], none)]);
    let next = tools(&Shelf { snapshot: &after, ..paged }, Some(&cursor));
    assert_eq!(next.result.matches("alpha_zz").count(), 1);
    assert_eq!(next.result.matches("beta_b").count(), 1);
    let gone = [visible[1].clone()];
    let next = tools(&Shelf { visible: &gone, ..paged }, Some(&cursor));
    assert_eq!(next.result.matches("beta_").count(), 2);
}

#[test]
fn no_page_ends_behind_an_address_too_long_for_a_cursor() {
    let long: Vec<String> = (0..4).map(|number| format!("file:///{}{number}", "x".repeat(1_950))).collect();
    let addresses: Vec<&str> = long.iter().map(String::as_str).chain(["file:///a", "file:///z"]).collect();
    let snapshot = snapshot(&[("alpha", &[], offers(&[], &addresses, about()))]);
    let visible = all_of(&snapshot);
    let shelf = Shelf { page_size: 1, ..shelf(&snapshot, &visible) };
    let counts: Vec<_> = pages(&shelf, LISTS[2]).iter().map(Vec::len).collect();
    assert_eq!(counts, [1, 5]);
}

#[test]
fn a_cursor_is_quoted_into_the_result() {
    let snapshot = two();
    let visible = all_of(&snapshot);
    for is_modern in [false, true] {
        let page = tools(&Shelf { is_modern, ..shelf(&snapshot, &visible) }, None);
        let without: Value = serde_json::from_str(&page.result).unwrap();
        let mut with: Value = serde_json::from_str(&page.with_cursor("a\"b")).unwrap();
        assert_eq!(with.as_object_mut().unwrap().remove("nextCursor"), Some(json!("a\"b")));
        assert_eq!(with, without);
    }
}

/// Checks for how long a list of servers with these ages (seconds), hints (milliseconds) and staleness holds.
#[track_caller]
fn check_ttl(servers: &[(u64, u64, bool)], expected: u64) {
    let ids: Vec<_> = (0..servers.len()).map(|number| format!("s{number}")).collect();
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let servers: Vec<(&str, &[&str], Arc<Offers>)> = ids
        .iter()
        .zip(servers)
        .map(|(id, (age, ttl_ms, is_stale))| {
            let read_at = now - Duration::from_secs(*age);
            let about = About { ttl_ms: *ttl_ms, read_at, is_stale: *is_stale, ..about() };
            (id.as_str(), &["a"][..], offers(&[], &[], about))
        })
        .collect();
    let snapshot = snapshot(&servers);
    let visible = all_of(&snapshot);
    let shelf = Shelf { is_modern: true, now, ..shelf(&snapshot, &visible) };
    for answer in [tools(&shelf, None).result, templates(&shelf, None).result, discover(&shelf)] {
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let hints = (&answer["resultType"], &answer["ttlMs"], &answer["cacheScope"]);
        assert_eq!(hints, (&json!("complete"), &json!(expected), &json!("private")), "{servers:?}");
    }
}

#[test]
fn a_list_is_called_fresh_no_longer_than_each_of_its_parts_is() {
    check_ttl(&[], 0);
    check_ttl(&[(0, 0, false)], 0);
    check_ttl(&[(0, 5_000, false)], 5_000);
    check_ttl(&[(2, 5_000, false)], 3_000);
    check_ttl(&[(5, 5_000, false)], 0);
    check_ttl(&[(9, 5_000, false)], 0);
    check_ttl(&[(0, 5_000, true)], 0);
    check_ttl(&[(0, 5_000, false), (1, 9_000, false)], 5_000);
    check_ttl(&[(0, 5_000, false), (0, 0, false)], 0);
    check_ttl(&[(0, u64::MAX, false)], REFRESH.as_millis() as u64);
}

#[test]
fn clients_with_sessions_get_no_hints_of_later_revisions() {
    let snapshot = two();
    let visible = all_of(&snapshot);
    for (list, member, _) in LISTS {
        let result: Value = serde_json::from_str(&list(&shelf(&snapshot, &visible), None).result).unwrap();
        assert_eq!(result.as_object().unwrap().keys().collect::<Vec<_>>(), [member]);
    }
}

#[test]
fn a_greeting_promises_what_some_server_of_the_caller_has() {
    let with = |capabilities: &str| offers(&[], &[], About { capabilities: capabilities.into(), ..about() });
    let snapshot = snapshot(&[
        ("alpha", &[], with(r#"{"tools":{},"prompts":{},"experimental":{"x":{}}}"#)),
        ("beta", &[], with(r#"{"resources":{"subscribe":true},"logging":{},"completions":{}}"#)),
        ("gamma", &[], with(r#"{"resources":{}}"#)),
    ]);
    let visible = all_of(&snapshot);
    let promised = |visible: &[Visible]| {
        let hello: Value = serde_json::from_str(&hello(&shelf(&snapshot, visible), "2025-11-25")).unwrap();
        assert_eq!(hello["protocolVersion"], "2025-11-25");
        assert_eq!(hello["serverInfo"], json!({"name": "portcullis", "version": env!("CARGO_PKG_VERSION")}));
        let discovered: Value = serde_json::from_str(&discover(&shelf(&snapshot, visible))).unwrap();
        assert_eq!(discovered["capabilities"], hello["capabilities"]);
        assert_eq!(discovered["supportedVersions"], json!(["2026-07-28"]));
        assert_eq!(discovered["_meta"][greeting::SERVER_INFO], hello["serverInfo"]);
        hello["capabilities"].clone()
    };
    let tools = json!({"listChanged": true});
    assert_eq!(promised(&[]), json!({"tools": tools}));
    assert_eq!(promised(&visible[..1]), json!({"tools": tools, "prompts": {"listChanged": true}}));
    assert_eq!(promised(&visible[2..]), json!({"tools": tools, "resources": {"listChanged": true}}));
    assert_eq!(
        promised(&visible),
        json!({"tools": tools, "prompts": {"listChanged": true}, "completions": {}, "logging": {},
            "resources": {"listChanged": true, "subscribe": true}})
    );
}

#[test]
fn instructions_are_those_of_the_caller_s_servers_within_bounds() {
    let with = |text: &str| {
        let info = Some(r#"{"name":"own","x":1.50}"#.to_owned());
        offers(&[], &[], About { instructions: Some(text.to_owned()), info, ..about() })
    };
    let long = "é".repeat(5_000);
    let snapshot =
        snapshot(&[("alpha", &[], with("Be kind.")), ("beta", &[], with(&long)), ("gamma", &[], with(" "))]);
    let visible = all_of(&snapshot);
    let greeting = |shelf: &Shelf<'_>| serde_json::from_str::<Value>(&hello(shelf, "2025-11-25")).unwrap();
    let all = greeting(&shelf(&snapshot, &visible));
    let text = all["instructions"].as_str().unwrap();
    assert!(text.starts_with("# alpha (`alpha_…`)\nBe kind.\n\n# beta (`beta_…`)\né"), "{text}");
    assert!(text.ends_with("é…") && text.len() < 2_200 && !text.contains("gamma"), "{text}");
    let searching = Shelf { has_meta_tools_only: true, ..shelf(&snapshot, &visible[..1]) };
    assert!(greeting(&searching)["instructions"].as_str().unwrap().contains("meta_search_tools"));
    assert_eq!(greeting(&shelf(&snapshot, &visible[2..])).get("instructions"), None);

    let only = id("beta");
    let one = Shelf { scope: Scope::One(&only), ..shelf(&snapshot, &visible) };
    let hello = hello(&one, "2025-11-25");
    assert!(hello.contains(r#""serverInfo":{"name":"own","x":1.50}"#), "{hello}");
    assert_eq!(greeting(&one)["instructions"], json!(long));
    let stranger = Shelf { visible: &visible[..1], ..one };
    assert_eq!(greeting(&stranger).get("instructions"), None);
}

#[test]
fn in_meta_mode_the_list_of_all_servers_has_the_meta_tools_alone() {
    let snapshot = two();
    let visible = all_of(&snapshot);
    let shelf = Shelf { has_meta_tools_only: true, is_modern: true, ..shelf(&snapshot, &visible) };
    let names = pages(&shelf, LISTS[0]).concat();
    assert_eq!(names, ["meta_search_tools", "meta_describe_tools", "meta_call_tool"]);
    assert_eq!(pages(&shelf, LISTS[1]).concat().len(), 2, "prompts are not tools");
    let only = id("beta");
    assert_eq!(pages(&Shelf { scope: Scope::One(&only), ..shelf }, LISTS[0]).concat(), ["a", "b"]);
}

proptest! {
    #[test]
    fn every_item_is_on_one_page_whatever_their_size(
        servers in proptest::collection::btree_map(
            "[a-c]{1,2}|a_b", proptest::collection::btree_set("[ab_.]{1,3}|[a-z]{60,70}", 0..6), 0..5),
        page_size in 1_usize..8,
        denied in "[ab]",
        is_one in any::<bool>(),
    ) {
        let servers: Vec<(String, Vec<String>)> = servers
            .into_iter()
            .map(|(server, names)| (server, names.into_iter().filter(|name| crate::names::ToolName::parse(name).is_ok()).collect()))
            .collect();
        let names: Vec<Vec<&str>> = servers.iter().map(|(_, names)| names.iter().map(String::as_str).collect()).collect();
        let parts: Vec<(&str, &[&str], Arc<Offers>)> = servers
            .iter()
            .zip(&names)
            .map(|((server, _), names)| (server.as_str(), &names[..], offers(names, names, about())))
            .collect();
        let snapshot = snapshot(&parts);
        let rule = || ToolScope::of(vec![ToolRule::parse(&format!("{denied}*"), "deny")]);
        let visible: Vec<_> = all_of(&snapshot).into_iter().map(|visible| Visible { tools: rule(), ..visible }).collect();
        let only = id("a");
        let scope = if is_one { Scope::One(&only) } else { Scope::All };
        let shelf = Shelf { scope, page_size, ..shelf(&snapshot, &visible) };
        for (place, list) in LISTS.into_iter().enumerate() {
            let pages = pages(&shelf, list);
            let is_full = |page: &Vec<String>| page.len() == page_size;
            prop_assert!(pages[..pages.len() - 1].iter().all(is_full), "{:?}", pages);
            prop_assert!(pages.last().unwrap().len() <= page_size);
            prop_assert!(pages.len() == 1 || !pages.last().unwrap().is_empty());
            let shown = pages.concat();
            prop_assert_eq!(shown.iter().collect::<BTreeSet<_>>().len(), shown.len(), "{:?}", shown);
            let whole = super::tests::pages(&Shelf { page_size: usize::MAX, ..shelf }, list).concat();
            prop_assert_eq!(&whole, &shown);
            let expected: usize = servers
                .iter()
                .filter(|(server, _)| !is_one || server == "a")
                .flat_map(|(_, names)| names)
                .filter(|name| place != 0 || !name.starts_with(&denied))
                .count();
            prop_assert_eq!(shown.len(), expected);
            if place < 2 && !is_one {
                let fits = |name: &String| name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
                prop_assert!(shown.iter().all(fits), "{:?}", shown);
            }
        }
    }

    #[test]
    fn any_cursor_is_a_place_in_the_list(cursor in ".{0,12}|(alpha|beta|b)/?[a-z]{0,2}") {
        let snapshot = two();
        let visible = all_of(&snapshot);
        let page = tools(&shelf(&snapshot, &visible), Some(&cursor));
        prop_assert!(serde_json::from_str::<Value>(&page.result).is_ok());
    }
}

#[test]
fn an_index_of_nothing_is_an_empty_list() {
    let mut snapshot = two();
    snapshot.tools = Arc::new(ToolIndex::default());
    let visible = all_of(&snapshot);
    assert_eq!(tools(&shelf(&snapshot, &visible), Some("zz/z")).result, r#"{"tools":[]}"#);
}
