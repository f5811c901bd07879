//! The package, from its making to its purging, on a machine with dpkg and systemd; and the bill of what is in it.

use std::{
    collections::BTreeSet,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use super::{PROGRAM, ROOT, Scene};
use crate::harness::{deadline::until_so, guide};

const README_TEST: &str = "the_package_installs_upgrades_and_goes_as_its_readme_says";

/// Runs `scripts/package` and gives back what it made.
fn package(words: &[&str]) -> PathBuf {
    let script = Path::new(ROOT).join("scripts/package");
    let output = Command::new(script).args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().into()
}

/// A package of this build's program.
fn make(out: &Path, version: &str) -> PathBuf {
    package(&["deb", "--binary", PROGRAM, "--version", version, "--out", out.to_str().unwrap()])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_package_installs_upgrades_and_goes_as_its_readme_says() {
    let Some(scene) = Scene::bare().await else { return };
    let (machine, out) = (&scene.machine, tempfile::tempdir().unwrap());
    let first = make(out.path(), "0.1.0");
    machine.copy(&first, "/root/portcullis_0.1.0_test.deb");
    let [install, begin, back] = <[_; 3]>::try_from(guide::blocks_of(README_TEST)).expect("three blocks");

    let said = machine.must_meanwhile(&format!("cd /root && {} 2>&1", install.text)).await;
    assert!(said.contains("not started, because it says no to its configuration"), "{said}");
    assert_eq!(machine.must("systemctl is-enabled portcullis"), "enabled");
    let stat = "stat --format '%n %U:%G %a' /etc/portcullis /etc/portcullis/* /usr/bin/portcullis";
    let expected = "/etc/portcullis root:portcullis 750\n/etc/portcullis/environment root:portcullis 640\n\
                    /etc/portcullis/gateway.toml root:portcullis 640\n/etc/portcullis/servers.toml root:portcullis 640\n\
                    /usr/bin/portcullis root:root 755";
    assert_eq!(machine.must(stat), expected);
    assert_eq!(machine.must("dpkg --verify portcullis"), "");
    machine.must("ls /usr/share/doc/portcullis/{copyright,third-party-licences.txt.gz,portcullis.cdx.json}");
    machine.must("systemd-analyze verify portcullis.service");

    // The operator's own configuration, and what the README has them do.
    for (name, text) in scene.configuration() {
        let path = machine.path(&format!("/etc/portcullis/{name}"));
        std::fs::write(path, format!("# ours\n{text}")).unwrap();
    }
    let begin = begin.text.replace("the-one-of-open-webui", crate::harness::tokens::SESSION_SECRET);
    machine.must_meanwhile(&begin).await;
    scene.grant().await;

    it_upgrades_without_closing_anything(&scene, out.path()).await;
    // The way back, which closes nothing either.
    let (mut client, held) = scene.stream().await;
    machine.must_meanwhile(&format!("cd /root && {}", back.text)).await;
    assert_eq!(machine.must("dpkg-query --show --showformat '${Version}' portcullis"), "0.1.0");
    held.send("data: second\n\n");
    assert_eq!(client.read_chunk().await.as_deref(), Some(&b"data: second\n\n"[..]));
    held.end();
    scene.is_well().await;
    it_goes(&scene).await;
}

async fn it_upgrades_without_closing_anything(scene: &Scene, out: &Path) {
    let machine = &scene.machine;
    let (mut client, held) = scene.stream().await;
    let before = machine.property("MainPID");
    machine.copy(&make(out, "0.1.1"), "/root/new.deb");
    machine.must_meanwhile("dpkg --install /root/new.deb").await;
    assert_eq!(
        machine.must("dpkg-query --show --showformat '${Version} ${Status}' portcullis"),
        "0.1.1 install ok installed"
    );
    assert_ne!(machine.property("MainPID"), before, "{}", machine.journal());
    assert_eq!(machine.property("NRestarts"), "0");
    scene.is_well().await;
    held.send("data: second\n\n");
    assert_eq!(client.read_chunk().await.as_deref(), Some(&b"data: second\n\n"[..]));
    held.end();
    assert_eq!(client.read_chunk().await, None, "the stream ends whole");
    assert!(machine.must("head -1 /etc/portcullis/gateway.toml") == "# ours", "an edited file is kept");

    // One that the new program would not start with: the old process goes on, and somebody is told.
    let path = machine.path("/etc/portcullis/gateway.toml");
    let good = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{good}\n[nonsense]\n")).unwrap();
    let before = machine.property("MainPID");
    let said = machine.must_meanwhile("dpkg --install /root/new.deb 2>&1").await;
    assert!(said.contains("the new program did not take over, and the old one goes on"), "{said}");
    assert_eq!(machine.property("MainPID"), before);
    scene.is_well().await;
    std::fs::write(&path, good).unwrap();
}

/// Removed, it leaves what is the operator's; purged, nothing but the user.
async fn it_goes(scene: &Scene) {
    let machine = &scene.machine;
    machine.must_meanwhile("dpkg --remove portcullis").await;
    assert_eq!(machine.property("ActiveState"), "inactive", "{}", machine.journal());
    machine.must("test ! -e /usr/bin/portcullis && test -e /var/lib/portcullis/portcullis.db");
    assert_eq!(machine.must("head -1 /etc/portcullis/gateway.toml"), "# ours");
    machine.must_meanwhile("dpkg --install /root/new.deb").await;
    until_so("a gateway that is back, with its secrets", || machine.property("ActiveState") == "active")
        .await;
    scene.becomes_well().await;
    machine.must_meanwhile("dpkg --purge portcullis").await;
    machine.must("test ! -e /etc/portcullis && test ! -e /var/lib/portcullis && id portcullis");
    assert_eq!(machine.run("find /etc/systemd /var/lib/systemd -name '*portcullis*'").said, "");
}

#[test]
fn the_same_commit_gives_the_same_package() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    // Any program will do, and a small one is quick.
    let [one, other] = folders.each_ref().map(|folder| {
        let path = package(&["deb", "--binary", "/bin/true", "--out", folder.path().to_str().unwrap()]);
        std::fs::read(path).unwrap()
    });
    assert!(one == other && !one.is_empty());
}

/// One in the middle, which another step follows that works.
#[test]
fn a_step_that_fails_makes_no_package() {
    let folder = tempfile::tempdir().unwrap();
    let (programs, out) = (folder.path().join("bin"), folder.path().join("out"));
    std::fs::create_dir(&programs).unwrap();
    std::fs::write(programs.join("strip"), "#!/bin/sh\nexit 3\n").unwrap();
    std::fs::set_permissions(programs.join("strip"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut script = Command::new(Path::new(ROOT).join("scripts/package"));
    script.env("PATH", format!("{}:{}", programs.display(), std::env::var("PATH").unwrap()));
    let output = script.args(["deb", "--binary", "/bin/true", "--out"]).arg(&out).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0, "a package was made all the same");
}

/// Everything of `Cargo.lock` that is in the program, and nothing that only builds or tests it.
#[test]
fn the_bill_names_what_is_in_the_program_and_each_has_its_licence() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let bill = std::fs::read_to_string(package(&["sbom", "--out", out])).unwrap();
    let bill: Value = serde_json::from_str(&bill).unwrap();
    let names: BTreeSet<&str> = bill["components"]
        .as_array()
        .unwrap()
        .iter()
        .map(|crate_| crate_["name"].as_str().unwrap())
        .collect();
    for name in ["pingora", "tokio", "rustls", "sqlx", "tantivy", "aws-lc-sys"] {
        assert!(names.contains(name), "{name} is missing");
    }
    for name in ["proptest", "rmcp", "divan", "rcgen", "cc", "cmake"] {
        assert!(!names.contains(name), "{name} is not in the program");
    }
    let schema = Path::new(&std::env::var("PORTCULLIS_TEST_SCHEMAS").expect("run by `scripts/with-peers`"))
        .join("bin/python");
    let validate = "import sys\nfrom cyclonedx.schema import SchemaVersion\nfrom cyclonedx.validation.json import JsonStrictValidator\n\
                    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(sys.argv[1]).read())\n\
                    sys.exit(str(error) if error else 0)";
    let validated = |path: &Path| {
        let output = Command::new(&schema).args(["-c", validate]).arg(path).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let path = folder.path().join("portcullis.cdx.json");
    assert_eq!(validated(&path), (true, String::new()));
    let broken = folder.path().join("broken.json");
    std::fs::write(&broken, std::fs::read_to_string(&path).unwrap().replace("\"library\"", "\"book\""))
        .unwrap();
    assert!(!validated(&broken).0, "the validator says no to what is none");

    let licences = std::fs::read_to_string(package(&["licences", "--out", out])).unwrap();
    for component in bill["components"].as_array().unwrap() {
        let (name, version) = (component["name"].as_str().unwrap(), component["version"].as_str().unwrap());
        let line = licences.lines().find(|line| line.starts_with(&format!("{name} {version}")));
        assert!(line.is_some_and(|line| line.ends_with(']')), "{name} {version} has no text");
    }
}
