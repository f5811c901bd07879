//! What does it cost to read a method and a path, and does a path that is refused cost more than one that is routed?

use divan::{AllocProfiler, Bencher, black_box};
use http::Method;
use portcullis::route;

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// What is asked for, and the method and path that ask for it.
const ROUTED: [(&str, Method, &str); 7] = [
    ("health", Method::GET, "/health"),
    ("servers", Method::GET, "/"),
    ("document", Method::GET, "/openapi.json"),
    ("server", Method::GET, "/github"),
    ("call", Method::POST, "/github/search_repositories"),
    ("legacy call", Method::POST, "/github_search_repositories"),
    ("nothing", Method::POST, "/a/b/c/d"),
];

const REFUSED: [(&str, &str); 3] = [
    ("encoded", "/github/%2e%2e/search_repositories"),
    ("dots", "/github/../search_repositories"),
    ("doubled slash", "/github//search_repositories"),
];

#[divan::bench(args = ROUTED.map(|(name, ..)| name))]
fn routed(bencher: Bencher, name: &str) {
    let (_, method, path) = ROUTED.into_iter().find(|(known, ..)| *known == name).expect("one of them");
    bencher.bench(|| route::resolve(black_box(&method), black_box(path)).is_ok());
}

#[divan::bench(args = REFUSED.map(|(name, _)| name))]
fn refused(bencher: Bencher, name: &str) {
    let (_, path) = REFUSED.into_iter().find(|(known, _)| *known == name).expect("one of them");
    bencher.bench(|| route::resolve(black_box(&Method::POST), black_box(path)).is_err());
}

/// As the gateway reads `{server}_{tool}` where none of the readings is known.
#[divan::bench]
fn readings_of_a_legacy_name() -> usize {
    route::legacy_readings(black_box("github_search_repositories_by_name")).count()
}
