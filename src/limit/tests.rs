use std::sync::Arc;

use super::*;
use crate::catalog::{limits::ServerLimits, server::tests_support::server};
use crate::names::{Network, Secret, ToolPattern};

const SECOND: u64 = 1_000_000_000;

fn rate(text: &str) -> Option<Rate> {
    Rate::parse(text).unwrap()
}

fn github(limits: ServerLimits) -> Server {
    Server { limits, ..Server::clone(&server("github")) }
}

fn ann() -> Arc<Caller> {
    Caller::for_test("ann@x.org", &[])
}

/// How many of these calls pass at one moment.
fn passing(limits: &Limits, server: &Server, tool: &str, tries: usize) -> usize {
    let caller = ann();
    let charges = limits.of_calls(&caller, server, &[(tool, 1)]);
    (0..tries).filter(|_| limits.take(&charges, SECOND).is_ok()).count()
}

#[test]
fn each_limit_counts_under_its_own_name() {
    let settings =
        Settings { per_caller: rate("100/min"), per_server: rate("60/min"), ..Settings::default() };
    let limits = Limits::new(settings);
    let own = ServerLimits::new(None, vec![(ToolPattern::parse("delete_*").unwrap(), rate("5/min"))], 0);
    let github = github(own);
    assert_eq!(passing(&limits, &github, "delete_repo", 10), 5, "one caller's calls of one tool");
    assert_eq!(passing(&limits, &github, "delete_file", 10), 5, "another tool counts for itself");
    assert_eq!(passing(&limits, &github, "search", 100), 50, "the server has had ten");
    assert_eq!(passing(&limits, &server("linear"), "search", 100), 40, "the caller has had sixty");
}

#[test]
fn what_one_limit_refuses_costs_nothing_under_the_others() {
    let settings = Settings { per_caller: rate("10/min"), per_server: rate("2/min"), ..Settings::default() };
    let limits = Limits::new(settings);
    assert_eq!(passing(&limits, &server("github"), "search", 50), 2);
    assert_eq!(passing(&limits, &server("linear"), "search", 50), 2);
    let unlimited = github(ServerLimits::new(Some(None), Vec::new(), 0));
    assert_eq!(passing(&limits, &unlimited, "search", 50), 6, "four were counted");
}

#[test]
fn a_refusal_names_the_limit_that_takes_longest() {
    let settings = Settings { per_caller: rate("2/s"), per_server: rate("2/h"), ..Settings::default() };
    let limits = Limits::new(settings);
    let (caller, server) = (ann(), server("github"));
    let charges = limits.of_calls(&caller, &server, &[("search", 2)]);
    assert!(limits.take(&charges, SECOND).is_ok());
    let reached = limits.take(&charges, SECOND).unwrap_err();
    assert_eq!((reached.kind, reached.over), (Kind::Server, Over::Until(Duration::from_secs(3_600))));
}

#[test]
fn a_batch_costs_as_much_as_it_calls_and_each_tool_its_own() {
    let settings = Settings { per_caller: rate("10/min"), per_tool: rate("4/min"), ..Settings::default() };
    let limits = Limits::new(settings);
    let (caller, server) = (ann(), server("github"));
    let batch = |tools: &[(&'static str, u32)]| {
        limits
            .take(&limits.of_calls(&caller, &server, tools), SECOND)
            .map(drop)
            .map_err(|reached| reached.kind)
    };
    assert_eq!(batch(&[("a", 1), ("b", 2), ("c", 4), ("d", 1)]), Ok(()));
    assert_eq!(batch(&[("a", 1), ("e", 2)]), Err(Kind::Caller));
    assert_eq!(batch(&[("c", 1)]), Err(Kind::Tool));
    assert_eq!(batch(&[("a", 1), ("b", 1)]), Ok(()));
}

#[test]
fn counts_outlive_a_change_of_the_settings() {
    let settings = |text: &str| Settings { per_caller: rate(text), ..Settings::default() };
    let limits = Limits::new(settings("10/min"));
    assert_eq!(passing(&limits, &server("github"), "search", 7), 7);
    limits.replace(settings("12/min"));
    let more = passing(&limits, &server("github"), "search", 20);
    assert!((3..=5).contains(&more), "{more}");
    limits.replace(settings("1/min"));
    let caller = ann();
    let charges_of = server("github");
    let charges = limits.of_calls(&caller, &charges_of, &[("search", 1)]);
    let Over::Until(wait) = limits.take(&charges, SECOND).unwrap_err().over else {
        panic!("one is never too much")
    };
    assert!(wait <= Duration::from_secs(60), "nobody waits longer than a burst takes: {wait:?}");
}

#[test]
fn strangers_are_told_apart_by_address_and_by_network_of_64_bits() {
    let settings = Settings {
        per_address: rate("3/min"),
        unlimited_addresses: vec![Network::parse("10.0.0.0/8").unwrap()],
        ..Settings::default()
    };
    let limits = Limits::new(settings);
    let passing = |address: &str| {
        let source = Source::of(address.parse().unwrap());
        (0..10).filter(|_| limits.take(&limits.of_stranger(&source), SECOND).is_ok()).count()
    };
    assert_eq!(passing("192.0.2.1"), 3);
    assert_eq!(passing("::ffff:192.0.2.1"), 0, "the same one");
    assert_eq!(passing("192.0.2.2"), 3);
    assert_eq!(passing("2001:db8:1:2::1"), 3);
    assert_eq!(passing("2001:db8:1:2:ffff::1"), 0);
    assert_eq!(passing("2001:db8:1:3::1"), 3);
    assert_eq!(passing("10.1.2.3"), 10);
    assert_eq!(passing("64:ff9b::198.51.100.1"), 3, "behind a translator each has its own");
    assert_eq!(passing("64:ff9b::198.51.100.2"), 3);
    assert_eq!(passing("198.51.100.2"), 0, "the same one");
}

#[test]
fn what_all_replicas_refuse_is_refused_here_until_its_time_comes() {
    let url = Secret::new("redis://127.0.0.1:1".to_owned());
    let redis = RedisSettings { url, key_prefix: "p".into(), deadline: Duration::from_millis(50) };
    let limits =
        Limits::new(Settings { per_caller: rate("10/min"), redis: Some(redis), ..Settings::default() });
    let (caller, server) = (ann(), server("github"));
    let charges = limits.of_calls(&caller, &server, &[("search", 1)]);
    limits.note_refused(charges.iter().next().unwrap(), Duration::from_secs(2), SECOND);
    let reached = limits.take(&charges, 2 * SECOND).unwrap_err();
    assert_eq!(reached.over, Over::Until(Duration::from_secs(1)));
    assert!(limits.take(&charges, 3 * SECOND).is_ok());
}

#[test]
fn what_all_replicas_refused_by_another_rate_is_asked_anew() {
    let url = Secret::new("redis://127.0.0.1:1".to_owned());
    let redis = RedisSettings { url, key_prefix: "p".into(), deadline: Duration::from_millis(50) };
    let settings =
        |text| Settings { per_caller: rate(text), redis: Some(redis.clone()), ..Settings::default() };
    let limits = Limits::new(settings("2/h"));
    let (caller, server) = (ann(), server("github"));
    let charges = limits.of_calls(&caller, &server, &[("search", 1)]);
    limits.note_refused(charges.iter().next().unwrap(), Duration::from_secs(1_800), SECOND);
    assert!(limits.take(&charges, SECOND).is_err());
    limits.replace(settings("1000/min"));
    let charges = limits.of_calls(&caller, &server, &[("search", 1)]);
    assert_eq!(limits.foresee(&charges, SECOND), Ok(()));
    assert!(limits.take(&charges, SECOND).is_ok(), "a raised limit holds at once");
}

#[test]
fn the_name_that_replicas_share_says_nobody_s_email() {
    let limits = Limits::new(Settings { per_caller: rate("1/s"), ..Settings::default() });
    let (caller, server) = (ann(), server("github"));
    let charges = limits.of_calls(&caller, &server, &[("search", 1)]);
    let name = charges.iter().next().unwrap().shared_name();
    assert!(name.starts_with("caller:") && name.len() == 39, "{name}");
    assert!(!name.contains("ann"));
}
