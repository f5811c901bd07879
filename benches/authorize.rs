//! Does a decision take the same time with three million grant rows as with a hundred?
//!
//! Three rows a user (two servers, one group), 70 servers, 200 groups. The same number of callers is asked about at
//! every size: 33, which is all there are in a hundred rows, or 3,333 spread over all users, whose rows lie in memory
//! that the processor does not hold.

use std::{
    cell::Cell,
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use divan::{AllocProfiler, Bencher, black_box};
use pingora::http::ResponseHeader;
use portcullis::{
    access::{
        Access, KnownGrants, Settings,
        grants::{Grants, GrantsBuilder},
    },
    catalog::server::{Deadlines, Dialect, PeerUrl, Server, Tier},
    gateway::limiting,
    identity::Caller,
    limit::{self, Limits},
    names::{Email, GroupName, Rate, ServerId},
    refusal::Quota,
    store::{GrantRow, Subject},
};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const ROWS: [usize; 4] = [100, 10_000, 1_000_000, 3_000_000];
const SERVERS: usize = 70;
const GROUPS: usize = 200;
const FEW: usize = 33;
const MANY: usize = 3_333;

fn email(user: usize) -> String {
    format!("user{user}@example.com")
}

/// Made once for all benchmarks here: three million rows take a while.
fn grants(rows: usize) -> Arc<Grants> {
    static MADE: LazyLock<Mutex<HashMap<usize, Arc<Grants>>>> = LazyLock::new(Mutex::default);
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    made.entry(rows).or_insert_with(|| Arc::new(build(rows))).clone()
}

fn build(rows: usize) -> Grants {
    let servers: Vec<_> = (0..SERVERS).map(|server| format!("server-{server}")).collect();
    let groups: Vec<_> = (0..GROUPS).map(|group| format!("MCP-Group-{group}")).collect();
    let mut builder = GrantsBuilder::default();
    for user in 0..rows / 3 {
        let email = email(user);
        builder.add(GrantRow::User { email: &email, server: &servers[user % SERVERS] });
        builder.add(GrantRow::User { email: &email, server: &servers[(user + 7) % SERVERS] });
        builder.add(GrantRow::Membership { email: &email, group: &groups[user % GROUPS] });
    }
    for (at, group) in groups.iter().enumerate() {
        builder.add(GrantRow::Group { group, server: &servers[(at * 3) % SERVERS] });
    }
    builder.finish()
}

fn callers(rows: usize, count: usize) -> Vec<Arc<Caller>> {
    let step = rows / 3 / count;
    (0..count)
        .map(|at| {
            let email = Email::parse(&email(at * step)).expect("an email");
            Caller::hypothetical(email, Vec::new())
        })
        .collect()
}

fn server(id: usize) -> Arc<Server> {
    let peer = PeerUrl { is_tls: false, host: "127.0.0.1".into(), port: 9, base_path: String::new() };
    Arc::new(Server {
        id: ServerId::parse(&format!("server-{id}")).expect("a server id"),
        name: "Server".into(),
        tier: Tier::Local,
        dialect: Dialect::OpenApi,
        mcp_versions: None,
        peers: [peer].into(),
        credential: None,
        own_credential: None,
        sharing: Default::default(),
        discovery_credential: None,
        is_session_shared: true,
        is_pinned: false,
        audits_arguments: false,
        is_enabled: true,
        missing_variables: Vec::new(),
        description: String::new(),
        deadlines: Deadlines::of(Duration::from_secs(5), Duration::from_secs(60)),
        care: Default::default(),
        limits: Default::default(),
    })
}

fn access() -> Access {
    let admin_group = GroupName::parse("MCP-Admin").expect("a group name");
    Access::new(Settings {
        admin_group,
        max_stale: Duration::from_secs(3600),
        is_concealing: false,
        tenant_order: Vec::new(),
    })
}

/// Gives each of these in turn, without end.
fn in_turn<'a, T>(all: &'a [T]) -> impl Fn() -> &'a T {
    let next = Cell::new(0);
    move || {
        let at = next.get();
        next.set((at + 1) % all.len());
        &all[at]
    }
}

fn ask_again(bencher: Bencher, rows: usize, count: usize) {
    let (access, server, callers) = (access(), server(1), callers(rows, count));
    let known = KnownGrants { version: 1, grants: grants(rows) };
    for caller in &callers {
        access.reach(caller, &known);
    }
    let next = in_turn(&callers);
    bencher.bench_local(|| access.authorize(next(), black_box(&server), &known).is_ok());
}

fn ask_first(bencher: Bencher, rows: usize, count: usize) {
    let (access, server, callers) = (access(), server(1), callers(rows, count));
    let version = Cell::new(0);
    let next = in_turn(&callers);
    let grants = grants(rows);
    bencher
        .with_inputs(|| {
            version.set(version.get() + 1);
            (next(), KnownGrants { version: version.get(), grants: grants.clone() })
        })
        .bench_local_refs(|(caller, known)| access.authorize(caller, black_box(&server), known).is_ok());
}

/// A caller who has asked before under these grants: what nearly every call pays.
#[divan::bench(args = ROWS, sample_size = 1000)]
fn asked_before(bencher: Bencher, rows: usize) {
    ask_again(bencher, rows, FEW);
}

#[divan::bench(args = &ROWS[1..], sample_size = 3333)]
fn asked_before_by_many(bencher: Bencher, rows: usize) {
    ask_again(bencher, rows, MANY);
}

/// A caller's first question under these grants: every change of a grant makes one for everybody.
#[divan::bench(args = ROWS, sample_size = 100)]
fn first_decision(bencher: Bencher, rows: usize) {
    ask_first(bencher, rows, FEW);
}

#[divan::bench(args = &ROWS[1..], sample_size = 100)]
fn first_decision_of_many(bencher: Bencher, rows: usize) {
    ask_first(bencher, rows, MANY);
}

/// A caller whom so many rules narrow, asked before: the decision, and whether one tool is left to them.
#[divan::bench(args = [0, 1, 10, 100], sample_size = 1000)]
fn tool_decided(bencher: Bencher, rules: usize) {
    let (access, server, callers) = (access(), server(1), callers(100, 1));
    let (email, server_id) = (email(0), server.id.as_str());
    let mut builder = GrantsBuilder::default();
    builder.add(GrantRow::User { email: &email, server: server_id });
    for number in 0..rules {
        let (kind, pattern, effect) = ("user", format!("*delete_{number}_*_all"), "deny");
        builder.add(GrantRow::Rule { kind, subject: &email, server: server_id, pattern: &pattern, effect });
    }
    let known = KnownGrants { version: 1, grants: Arc::new(builder.finish()) };
    bencher.bench_local(|| {
        let permit = access.authorize(&callers[0], black_box(&server), &known);
        permit.is_ok_and(|permit| permit.tools().allows(black_box("search_repositories")))
    });
}

/// A call counted under so many limits, and what is left of the tightest written into an answer's headers: what every call of
/// a limited caller pays besides the decision.
#[divan::bench(args = [0, 1, 3], sample_size = 1000)]
fn call_counted(bencher: Bencher, limits: usize) {
    let rate = |at: usize| (at < limits).then(|| Rate::parse("1000000/s").expect("a rate")).flatten();
    let settings =
        limit::Settings { per_caller: rate(0), per_server: rate(1), per_tool: rate(2), ..Default::default() };
    let (counts, server, callers) = (Limits::new(settings), server(1), callers(10_000, MANY));
    let next = in_turn(&callers);
    bencher.bench_local(|| {
        let charges = counts.of_calls(next(), black_box(&server), &[("search_repositories", 1)]);
        counts.take(&charges, counts.now()).is_ok()
    });
}

/// What is left, written into the head of an answer.
#[divan::bench(sample_size = 1000)]
fn quota_told(bencher: Bencher) {
    let window = Duration::from_secs(60);
    let quota = Quota { name: "caller", count: 100, window, left: 42, next: Duration::from_millis(400) };
    bencher
        .with_inputs(|| ResponseHeader::build(200, Some(12)).expect("a head"))
        .bench_local_values(|mut header| limiting::mark(&mut header, Some(black_box(quota))).is_ok());
}

/// One caller's rows replaced: what a revocation costs the background task.
#[divan::bench(args = ROWS, sample_size = 10)]
fn patch_of_one_user(bencher: Bencher, rows: usize) {
    let (grants, subject) = (grants(rows), email(7));
    let subjects = [Subject::User(subject.clone())];
    bencher.bench_local(|| {
        let left = [GrantRow::User { email: &subject, server: "server-7" }];
        black_box(&grants).patched(&subjects, left)
    });
}
