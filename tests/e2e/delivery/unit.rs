//! The unit under a real systemd: each line of its hardening, readiness, reload as upgrade, restart.

use std::{cell::Cell, path::Path};

use futures_util::future::join_all;

use super::{PROGRAM, ROOT, Scene};
use crate::harness::{deadline::until_so, gateway::client, guide};

/// Exposure that `systemd-analyze security` may find at most, times ten (systemd 252 finds 1.4).
const EXPOSURE: u32 = 15;

/// Puts what a clone has after a build to `/src`, and carries the blocks of `systemd/README.md` out there.
pub(super) fn install(scene: &Scene) {
    let machine = &scene.machine;
    machine.copy(Path::new(PROGRAM), "/src/target/release/portcullis");
    machine.copy(&Path::new(ROOT).join("systemd/portcullis.service"), "/src/systemd/portcullis.service");
    for (name, text) in scene.configuration() {
        machine.write(&format!("/src/conf/{name}"), &text);
    }
    let blocks =
        guide::blocks_of("the_unit_is_installed_and_reload_brings_a_new_program_without_closing_anything");
    let [install, start, ..] = blocks.as_slice() else { panic!("two blocks at least") };
    machine.must(&format!("cd /src && set -e\n{}", install.text));
    scene.write_secrets();
    machine.must(&start.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_unit_is_installed_and_reload_brings_a_new_program_without_closing_anything() {
    let Some(scene) = Scene::bare().await else { return };
    install(&scene);
    let machine = &scene.machine;
    assert_eq!(machine.must("systemctl is-active portcullis"), "active");
    scene.grant().await;
    let (mut client, held) = scene.stream().await;

    // Another program in the same place; the README says how.
    let test = "the_unit_is_installed_and_reload_brings_a_new_program_without_closing_anything";
    let upgrade = &guide::blocks_of(test)[2].text;
    let before = machine.property("MainPID");
    machine.must_meanwhile(&format!("cd /src && set -e\n{upgrade}")).await;
    assert_ne!(machine.property("MainPID"), before, "another process is the main one\n{}", machine.journal());
    assert!(machine.journal().contains("a new process has taken over"), "{}", machine.journal());
    scene.is_well().await;
    held.send("data: second\n\n");
    assert_eq!(client.read_chunk().await.as_deref(), Some(&b"data: second\n\n"[..]), "the stream goes on");

    a_reload_that_cannot_be_fails(&scene).await;
    held.end();
    assert_eq!(client.read_chunk().await, None, "the stream ends whole");
    let processes = "wc --lines < /sys/fs/cgroup/system.slice/portcullis.service/cgroup.procs";
    until_so("the end of the process before", || machine.must(processes) == "1").await;
    assert_eq!(machine.property("NRestarts"), "0", "{}", machine.journal());

    a_gateway_that_dies_is_back(&scene).await;
}

/// systemd did not start the process itself that serves after an upgrade, and kills such a one at once where it is left to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_after_an_upgrade_waits_for_what_still_runs() {
    let Some(scene) = Scene::bare().await else { return };
    install(&scene);
    scene.grant().await;
    let machine = &scene.machine;
    machine.must_meanwhile("systemctl reload portcullis").await;
    let (mut client, held) = scene.stream().await;
    let stop = machine.must_meanwhile("systemctl stop portcullis");
    let stream = async {
        until_so("word of the signal", || machine.journal().contains("SIGTERM: not ready from now on")).await;
        until_so("what it waits for", || {
            machine.journal().contains("1 requests are running, 1 of them streams")
        })
        .await;
        held.send("data: second\n\n");
        assert_eq!(client.read_chunk().await.as_deref(), Some(&b"data: second\n\n"[..]));
        held.end();
        assert_eq!(client.read_chunk().await, None, "the stream ends whole");
    };
    tokio::join!(stop, stream);
    assert_eq!(machine.property("Result"), "success", "{}", machine.journal());
    assert!(machine.journal().contains("drained"), "{}", machine.journal());
}

/// Nothing is done, systemctl says so, and the gateway goes on.
async fn a_reload_that_cannot_be_fails(scene: &Scene) {
    let machine = &scene.machine;
    let (path, before) = (machine.path("/etc/portcullis/gateway.toml"), machine.property("MainPID"));
    let good = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{good}\n[nonsense]\n")).unwrap();
    let reloaded = machine.run("systemctl reload portcullis");
    assert_ne!(reloaded.code, 0, "{reloaded:?}");
    let journal = machine.journal();
    for words in
        ["nothing was done: the new process would refuse this configuration", "`nonsense` is not a known key"]
    {
        assert!(journal.contains(words), "{words:?} is missing: {journal}");
    }
    assert_eq!(
        (machine.property("MainPID"), machine.property("ActiveState")),
        (before.clone(), "active".into())
    );
    std::fs::write(&path, good).unwrap();

    // The files are good, and the program is none.
    let program = "/usr/local/bin/portcullis";
    machine.must(&format!("mv {program} {program}.kept && cp /bin/false {program}"));
    assert_ne!(machine.run("systemctl reload portcullis").code, 0);
    machine.must(&format!("mv {program}.kept {program}"));
    assert_eq!(machine.property("MainPID"), before);
    scene.is_well().await;
}

async fn a_gateway_that_dies_is_back(scene: &Scene) {
    let machine = &scene.machine;
    machine.must("systemctl kill --kill-who=main --signal=KILL portcullis");
    until_so("a restart", || {
        machine.property("NRestarts") == "1" && machine.property("ActiveState") == "active"
    })
    .await;
    scene.becomes_well().await;
}

#[tokio::test]
async fn systemd_finds_nothing_wrong_with_the_unit_and_little_exposed() {
    let Some(scene) = Scene::bare().await else { return };
    install(&scene);
    let machine = &scene.machine;
    assert_eq!(machine.must("systemd-analyze verify portcullis.service"), "");
    let unit = "/etc/systemd/system/portcullis.service";
    let analyze = format!("systemd-analyze security --no-pager --offline=yes --threshold={EXPOSURE} {unit}");
    let said = machine.must(&analyze);
    assert!(said.contains("Overall exposure level for portcullis.service"), "{said}");
    // It can fail.
    let open =
        machine.run(&format!("sed -i '/^ProtectSystem\\|^SystemCallFilter\\|^NoNew/d' {unit} && {analyze}"));
    assert_ne!(open.code, 0, "{}", open.said);
}

/// Each line is in force for the process that serves, as the kernel tells it.
#[tokio::test]
async fn the_gateway_lives_with_every_line_of_its_hardening() {
    let Some(scene) = Scene::bare().await else { return };
    install(&scene);
    scene.grant().await;
    let id = scene.machine.gateway_id();
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000"] {
        assert!(status.contains(line), "{line} is missing:\n{status}");
    }
    let mounts = std::fs::read_to_string(format!("/proc/{id}/mountinfo")).unwrap();
    let options = |place: &str| {
        let line = mounts.lines().rev().find(|line| line.split(' ').nth(4) == Some(place));
        line.and_then(|line| line.split(' ').nth(5))
            .unwrap_or_else(|| panic!("{place} is not mounted:\n{mounts}"))
    };
    assert!(options("/").starts_with("ro"), "{mounts}");
    assert!(options("/var/lib/portcullis").starts_with("rw"), "{mounts}");
    // A restart with the whole filter logged as fatal would have ended it; it answers.
    scene.is_well().await;
    let limits = std::fs::read_to_string(format!("/proc/{id}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert!(core.split_whitespace().rev().nth(1) == Some("0"), "{core}");
}

/// How many call at once, and how often the gateway is started again under them.
const CALLERS: usize = 2;
const RESTARTS: usize = 8;

/// Calls go on, each on a connection of its own, while `work` does; none fails.
async fn calls_go_on_during(scene: &Scene, work: impl Future<Output = String>) -> usize {
    let calls = Cell::new(0);
    let caller = || async {
        loop {
            let answer = scene.call().await;
            assert_eq!(answer.status, reqwest::StatusCode::OK, "{}", answer.text());
            calls.set(calls.get() + 1);
        }
    };
    tokio::select! {
        _ = work => calls.get(),
        _ = join_all((0..CALLERS).map(|_| caller())) => unreachable!("nobody stops calling"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_wait_while_a_gateway_with_a_socket_unit_restarts() {
    let Some(scene) = Scene::bare().await else { return };
    install(&scene);
    scene.grant().await;
    let machine = &scene.machine;
    for block in guide::blocks_of("connections_wait_while_a_gateway_with_a_socket_unit_restarts") {
        let text = block.text.replace(":8000", &format!(":{}", scene.http.number()));
        let text = text.replace(":9090", &format!(":{}", scene.ops.number()));
        machine.write("/etc/systemd/system/portcullis.socket", &text);
    }
    let switch = "systemctl daemon-reload && systemctl stop portcullis && systemctl start portcullis.socket portcullis";
    machine.must_meanwhile(switch).await;
    assert!(!machine.journal().contains("nothing in gateway.toml names it"), "{}", machine.journal());
    for _ in 0..RESTARTS {
        let before = machine.property("MainPID");
        let calls = calls_go_on_during(&scene, machine.must_meanwhile("systemctl restart portcullis")).await;
        assert_ne!(machine.property("MainPID"), before);
        assert!(calls > 0);
        scene.is_well().await;
    }
}

#[tokio::test]
async fn a_port_below_1024_takes_one_capability() {
    let Some(scene) = Scene::bare().await else { return };
    install(&scene);
    let machine = &scene.machine;
    machine.must("sed -i 's|^http = .*|http = \"127.0.0.1:443\"|' /etc/portcullis/gateway.toml");
    assert_ne!(machine.run("systemctl stop portcullis; systemctl start portcullis").code, 0);
    for block in guide::blocks_of("a_port_below_1024_takes_one_capability") {
        machine.write("/etc/systemd/system/portcullis.service.d/override.conf", &block.text);
    }
    machine.must("systemctl daemon-reload; systemctl stop portcullis; systemctl start portcullis");
    let answer = client().get("http://127.0.0.1:443/health").send().await.unwrap();
    assert_eq!(answer.status(), 200);
}
