//! The files for containers, held against their schemas and against the gateway's own configuration, and the topology of
//! the Compose file run as processes.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{PROGRAM, ROOT, Scene};
use crate::harness::{
    deadline::until,
    gateway::{Answer, Setup, client},
    openwebui,
    postgres::{Database, PrivateCluster},
    redis::Redis,
    tokens,
};

const SPOOL: &str = "PORTCULLIS_AUDIT_SPOOL_DIR";

/// A program of the environment that has schemas.
fn tool(name: &str) -> Command {
    let folder = std::env::var("PORTCULLIS_TEST_SCHEMAS").expect("run by `scripts/with-peers`");
    Command::new(Path::new(&folder).join("bin").join(name))
}

fn path(name: &str) -> PathBuf {
    Path::new(ROOT).join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Runs a command that must end well; what it said on stdout.
fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap());
    assert!(output.status.success(), "{command:?}\n{stdout}{stderr}");
    stdout
}

/// The documents of a YAML file.
fn yaml(name: &str) -> Vec<Value> {
    let program = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    serde_json::from_str(&said(tool("python").args(["-c", program]).arg(path(name)))).unwrap()
}

/// What `docker compose` makes of `${NAME:?}` and `${NAME:-default}`.
fn filled(value: &Value, variables: &BTreeMap<String, String>) -> Value {
    match value {
        Value::String(text) => {
            let (mut done, mut left) = (String::new(), text.as_str());
            while let Some((before, rest)) = left.split_once("${") {
                let (inside, after) = rest.split_once('}').expect("a `}`");
                let (name, default) = inside.split_once(":-").unwrap_or((inside.trim_end_matches(":?"), ""));
                let known = variables.get(name);
                assert!(known.is_some() || inside.contains(":-"), "`{name}` is not in example.env");
                done.push_str(before);
                done.push_str(known.map_or(default, String::as_str));
                left = after;
            }
            (done + left).into()
        }
        Value::Array(items) => items.iter().map(|item| filled(item, variables)).collect(),
        Value::Object(members) => {
            members.iter().map(|(name, value)| (name.clone(), filled(value, variables))).collect()
        }
        other => other.clone(),
    }
}

fn variables(name: &str) -> BTreeMap<String, String> {
    let text = read(name);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn strings(value: &Value) -> BTreeMap<String, String> {
    let members = value.as_object().unwrap().iter();
    members.map(|(name, value)| (name.clone(), value.as_str().expect(name).to_owned())).collect()
}

/// The example, each line with a value of its own, as its first lines say; what was published there was none.
fn example(name: &str) -> BTreeMap<String, String> {
    let lines = variables(name).into_iter().enumerate();
    lines
        .map(|(at, (name, value))| {
            let is_address = value.contains("://") && value.contains(":@");
            assert!(value.is_empty() || is_address, "`{name}` has a value that everybody can read");
            (name, if is_address { value.replace(":@", ":x@") } else { format!("{at:064x}") })
        })
        .collect()
}

/// The services as Compose would start them.
fn services() -> Value {
    let compose = yaml("conf/compose/compose.yaml").remove(0);
    filled(&compose["services"], &example("conf/compose/example.env"))
}

fn toml_of(name: &str) -> toml::Table {
    read(name).parse().unwrap()
}

/// `portcullis check` with exactly this environment, but for the folder of the image.
fn check(folder: &str, environment: &BTreeMap<String, String>) -> String {
    let (mut command, spool) = (Command::new(PROGRAM), tempfile::tempdir().unwrap());
    command.args(["check", "--config", folder]).current_dir(ROOT).env_clear().envs(environment);
    said(command.env(SPOOL, spool.path()))
}

#[test]
fn the_dockerfiles_are_clean_and_build_with_the_compiler_of_the_repository() {
    said(tool("hadolint").arg(path("Dockerfile")));
    let dockerfile = read("Dockerfile");
    let version = toml_of("rust-toolchain.toml")["toolchain"]["channel"].as_str().unwrap().to_owned();
    assert!(dockerfile.contains(&format!("ARG RUST={version}\n")), "rust-toolchain.toml has {version}");
    // Whatever is copied is let in by .dockerignore.
    let ignore = read(".dockerignore");
    let copied = dockerfile.lines().filter(|line| line.starts_with("COPY ") && !line.contains("--from"));
    for source in
        copied.flat_map(|line| line.split(' ').skip(1).filter(|word| word != &"./" && !word.starts_with('/')))
    {
        assert!(path(source).exists(), "{source} is not there");
        let is_let_in = ignore
            .lines()
            .any(|line| line.strip_prefix('!').is_some_and(|let_in| source.starts_with(let_in)));
        assert!(is_let_in || source == "scripts/", "{source} is not let in by .dockerignore");
    }
}

/// Cargo builds from what the image is built of, and asks for nothing else.
#[test]
fn the_files_of_the_image_are_enough_for_cargo() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["Cargo.toml", "Cargo.lock", "LICENSE", "scripts/stub-targets", "scripts/bill"] {
        let to = folder.path().join(name);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(path(name), to).unwrap();
    }
    said(Command::new(folder.path().join("scripts/stub-targets")).current_dir("/"));
    for name in ["src", "migrations"] {
        said(Command::new("cp").arg("-r").arg(path(name)).arg(folder.path()));
    }
    let told = said(
        Command::new("cargo")
            .args(["metadata", "--locked", "--no-deps", "--format-version", "1"])
            .current_dir(folder.path()),
    );
    let told: Value = serde_json::from_str(&told).unwrap();
    let names: Vec<_> =
        told["packages"][0]["targets"].as_array().unwrap().iter().map(|target| &target["name"]).collect();
    assert!(names.contains(&&json!("portcullis")) && names.contains(&&json!("e2e")), "{names:?}");
}

#[test]
fn the_compose_file_is_one_by_its_specification_and_its_parts_know_each_other() {
    let schema = std::env::var("PORTCULLIS_TEST_COMPOSE_SCHEMA").expect("run by `scripts/with-peers`");
    let program = "import json, sys, jsonschema, yaml\n\
                   jsonschema.validate(yaml.safe_load(open(sys.argv[1])), json.load(open(sys.argv[2])))";
    let compose = path("conf/compose/compose.yaml");
    said(tool("python").args(["-c", program]).args([compose.as_os_str(), schema.as_ref()]));

    let services = services();
    let gateway = strings(&services["portcullis"]["environment"]);
    let web = strings(&services["open-webui"]["environment"]);
    for name in ["WEBUI_SECRET_KEY", "FORWARD_USER_INFO_HEADER_JWT_SECRET", "REDIS_URL"] {
        assert_eq!(gateway[name], web[name], "{name} is the same on both sides");
    }
    assert_eq!(web["ENABLE_FORWARD_USER_INFO_HEADERS"], "true");
    // The connection is the one of conf/openwebui, filled in.
    let connections: Value = serde_json::from_str(&web["TOOL_SERVER_CONNECTIONS"]).unwrap();
    let keys = [
        ("PORTCULLIS_URL", "http://portcullis:8000"),
        ("OPENWEBUI_SERVICE_KEY", &gateway["OPENWEBUI_SERVICE_KEY"]),
    ];
    let keys = keys.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let shipped: Value = serde_json::from_str(&read("conf/openwebui/service-key.json")).unwrap();
    assert_eq!(connections, filled(&shipped, &keys));

    // Who is named in an address is a service of a network that both are in, and listens there.
    let members = services.as_object().unwrap();
    for (who, environment) in [("portcullis", &gateway), ("open-webui", &web)] {
        for (name, value) in environment {
            let Ok(url) = reqwest::Url::parse(value) else { continue };
            let host = url.host_str().unwrap_or_default();
            let service = members.get(host).unwrap_or_else(|| panic!("{name}: there is no service `{host}`"));
            let networks = |of: &Value| of["networks"].as_array().unwrap().clone();
            let is_shared = networks(service).iter().any(|network| networks(&members[who]).contains(network));
            assert!(is_shared, "{who} and {host} share no network");
        }
    }
    for (name, service) in members.iter().filter(|(name, _)| name.starts_with("mcp-")) {
        let id = service["build"]["args"]["PEER"].as_str().unwrap();
        let recipe = variables(&format!("conf/peers/recipes/{id}.env"));
        assert_eq!(
            service["environment"]["PEER_PORT"].as_str(),
            Some(recipe["PEER_PORT"].as_str()),
            "{name}"
        );
        let variable = format!("MCP_{}_URL", id.to_uppercase().replace('-', "_"));
        assert_eq!(gateway[&variable], format!("http://{name}:{}", recipe["PEER_PORT"]));
    }
    assert_eq!(check("conf/compose/portcullis", &gateway), "ok: 2 servers, 2 of them on\n");
    for (id, server) in toml_of("conf/compose/portcullis/servers.toml")["servers"].as_table().unwrap() {
        assert_eq!(
            Some(server),
            toml_of("conf/servers.toml")["servers"].get(id),
            "`{id}` is not as the catalog has it"
        );
    }
    let shutdown = &toml_of("conf/compose/portcullis/gateway.toml")["shutdown"];
    let longest = shutdown["delay_secs"].as_integer().unwrap() + shutdown["grace_secs"].as_integer().unwrap();
    let stop = services["portcullis"]["stop_grace_period"].as_str().unwrap().trim_end_matches('s');
    assert!(stop.parse::<i64>().unwrap() > longest + 5);
}

/// The same topology, as processes: a Postgres that `databases.sh` has made ready, Redis, a tool server under mcpo, and
/// whoever speaks as Open WebUI does. Open WebUI itself is not among them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_compose_file_wires_works_together() {
    let (portcullis, web) = (Database::create().await, openwebui::database().await);
    let (redis, spool) = (Redis::start().await, tempfile::tempdir().unwrap());
    let mut environment = strings(&services()["portcullis"]["environment"]);
    let mut put =
        |name: &str, value: String| environment.insert(name.to_owned(), value).expect("it was there");
    put("DATABASE_URL", portcullis.url());
    put("OPENWEBUI_DATABASE_URL", web.url());
    put("REDIS_URL", redis.url());
    put(SPOOL, spool.path().display().to_string());
    put("PORTCULLIS_LIMITS_REDIS_URL", redis.url().replace("/0", "/1"));
    put("MCP_TIME_URL", std::env::var("PORTCULLIS_TEST_MCPO_TIME").unwrap());
    put("MCP_MEMORY_URL", "http://127.0.0.1:9".to_owned());

    let text = read("conf/compose/portcullis/gateway.toml");
    let mut setup = Setup::of_text(&text).servers(&read("conf/compose/portcullis/servers.toml"));
    for (name, value) in &environment {
        setup = setup.environment(name, value);
    }
    let gateway = setup.start().await;
    gateway.knows_tools("time", 2).await;
    let granted = |words: Vec<String>| {
        let mut command = Command::new(PROGRAM);
        command.args(words).arg("--config").arg(gateway.folder.path()).env_clear().envs(&environment);
        said(&mut command)
    };
    for whom in [["--group", "MCP-Services"], ["--user", openwebui::JANE_EMAIL]] {
        granted(["grant", whom[0], whom[1], "time"].map(str::to_owned).to_vec());
    }

    let key = &environment["OPENWEBUI_SERVICE_KEY"];
    let document = async || {
        let request = client().get(gateway.url("/openapi.json")).bearer_auth(key);
        Answer::read(request.send().await.unwrap()).await
    };
    let document = until("the document of the service", || async {
        let answer = document().await;
        answer.text().contains("/time/get_current_time").then_some(answer)
    });
    assert_eq!(document.await.status, StatusCode::OK);
    let claims = json!({"sub": openwebui::JANE, "email": openwebui::JANE_EMAIL,
        "name": "Jane", "role": "user", "iss": "open-webui", "iat": tokens::now(0), "exp": tokens::now(300)});
    let signed = tokens::sign(&claims, &environment["FORWARD_USER_INFO_HEADER_JWT_SECRET"]);
    let call = client().post(gateway.url("/time/get_current_time")).bearer_auth(key);
    let call = call.header("x-openwebui-user-jwt", signed).header("content-type", "application/json");
    let answer = Answer::read(call.body(r#"{"timezone":"Etc/UTC"}"#).send().await.unwrap()).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert!(answer.text().contains("Etc/UTC"), "{}", answer.text());
}

#[test]
fn the_databases_of_the_compose_file_let_the_gateway_read_who_the_users_are_and_no_more() {
    let cluster = PrivateCluster::start();
    let server = reqwest::Url::parse(&cluster.url()).unwrap();
    let (host, port) = (server.host_str().unwrap().to_owned(), server.port().unwrap().to_string());
    let bin = std::env::var("PORTCULLIS_TEST_PG_BIN").unwrap();
    let in_place = |program: &str| {
        let mut command = Command::new(program);
        command.env("PATH", format!("{bin}:{}", std::env::var("PATH").unwrap()));
        command.env("PGHOST", &host).env("PGPORT", &port);
        command
    };
    let mut script = in_place("bash");
    script
        .arg(path("conf/compose/databases.sh"))
        .env("OPENWEBUI_PASSWORD", "x'y")
        .env("PORTCULLIS_PASSWORD", "x");
    said(&mut script);
    let may = |who: &str, database: &str, sql: &str| {
        let mut psql = in_place("psql");
        psql.args(["--username", who, "--dbname", database, "--set", "ON_ERROR_STOP=1", "--command", sql]);
        psql.output().unwrap().status.success()
    };
    assert!(may("openwebui", "openwebui", "CREATE TABLE people (id text)"));
    assert!(may("portcullis", "openwebui", "SELECT * FROM people"), "made after the grant");
    assert!(!may("portcullis", "openwebui", "INSERT INTO people VALUES ('me')"));
    assert!(may("portcullis", "portcullis", "CREATE TABLE own (id text)"));
    assert!(!may("openwebui", "portcullis", "SELECT 1"), "the other way round there is none");
}

/// What stands at a path of JSON, as a number.
#[track_caller]
fn number(value: &Value, pointer: &str) -> i64 {
    value.pointer(pointer).and_then(Value::as_i64).unwrap_or_else(|| panic!("no number at {pointer}"))
}

#[test]
fn the_manifests_are_some_by_the_schemas_of_kubernetes_and_agree_with_the_gateway() {
    let kustomization = yaml("conf/kubernetes/kustomization.yaml").remove(0);
    let files: Vec<String> = kustomization["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| format!("conf/kubernetes/{}", file.as_str().unwrap()))
        .collect();
    let validate = || {
        // Its first line names the folder that it was made in, which may be another by now.
        let (mut command, program) = (tool("python"), tool("kubernetes-validate"));
        command.arg(program.get_program()).args(["--strict", "-k", "1.32.0"]);
        command
    };
    said(validate().args(files.iter().map(|file| path(file))));
    // It can fail.
    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("wrong.yaml");
    std::fs::write(&wrong, read("conf/kubernetes/deployment.yaml").replace("periodSeconds", "periodSecs"))
        .unwrap();
    assert!(!validate().arg(&wrong).output().unwrap().status.success());

    let deployment = yaml("conf/kubernetes/deployment.yaml").remove(0);
    let gateway = toml_of("conf/kubernetes/portcullis/gateway.toml");
    let pod = &deployment["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let shutdown = &gateway["shutdown"];
    let longest = shutdown["delay_secs"].as_integer().unwrap() + shutdown["grace_secs"].as_integer().unwrap();
    assert!(number(pod, "/terminationGracePeriodSeconds") >= longest + 10);
    // Not ready is noticed, and told everywhere, before the listener closes.
    let noticed = number(container, "/readinessProbe/periodSeconds")
        * number(container, "/readinessProbe/failureThreshold");
    assert!(shutdown["delay_secs"].as_integer().unwrap() >= noticed + 5);
    let port = |key: &str| {
        gateway["listen"][key].as_str().unwrap().rsplit_once(':').unwrap().1.parse::<i64>().unwrap()
    };
    for (name, key) in [("http", "http"), ("ops", "ops")] {
        let ports = container["ports"].as_array().unwrap();
        let told = ports.iter().find(|port| port["name"] == name).unwrap();
        assert_eq!(number(told, "/containerPort"), port(key));
    }
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert_eq!(container[probe]["httpGet"]["port"], "ops");
    }
    let user = number(pod, "/securityContext/runAsUser");
    assert!(read("Dockerfile").contains(&format!("\nUSER {user}:{user}\n")), "the image's user");
    let arguments = serde_json::to_string(&container["args"]).unwrap().replace(',', ", ");
    assert!(read("Dockerfile").contains(&format!("CMD {arguments}")), "{arguments}");

    let (spool, mounts) = (&container["env"][0], container["volumeMounts"].as_array().unwrap());
    assert_eq!(spool["name"], SPOOL);
    let folder = Path::new(spool["value"].as_str().unwrap());
    let is_writable =
        |mount: &Value| mount["readOnly"] != true && folder.starts_with(mount["mountPath"].as_str().unwrap());
    assert!(mounts.iter().any(is_writable), "nothing can be written at {}", folder.display());
    let monitor = yaml("conf/kubernetes/monitoring/servicemonitor.yaml").remove(0);
    assert_eq!(monitor["spec"]["jobLabel"], "app.kubernetes.io/name", "the alerts expect a job `portcullis`");

    // Everything that selects the gateway selects the same pods.
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    let of = |name: &str, pointer: &str| {
        yaml(&format!("conf/kubernetes/{name}"))[0].pointer(pointer).cloned().unwrap()
    };
    for (file, pointer) in [
        ("deployment.yaml", "/spec/selector/matchLabels"),
        ("service.yaml", "/spec/selector"),
        ("disruption.yaml", "/spec/selector/matchLabels"),
        ("network.yaml", "/spec/podSelector/matchLabels"),
    ] {
        assert_eq!(of(file, pointer), *labels, "{file}");
    }
    assert_eq!(of("autoscaling.yaml", "/spec/scaleTargetRef/name"), deployment["metadata"]["name"]);
    assert_eq!(
        check("conf/kubernetes/portcullis", &example("conf/kubernetes/example.env")),
        "ok: 1 servers, 1 of them on\n"
    );
}

/// The `RUN` of the Dockerfile that gathers what the image has, as the shell gets it.
fn gathering() -> String {
    let dockerfile = read("Dockerfile");
    let (_, from) = dockerfile.split_once("\nRUN mkdir -p /image/").expect("the step that gathers files");
    let mut lines = Vec::new();
    for line in from.lines().filter(|line| !line.trim_start().starts_with('#')) {
        lines.push(line.trim_end_matches('\\'));
        if !line.ends_with('\\') {
            break;
        }
    }
    format!("mkdir -p /image/{}", lines.concat())
}

/// On a Debian that has little else: what the Dockerfile gathers is all that the program needs, as the image's user.
#[tokio::test]
async fn the_program_runs_with_the_files_of_the_image_alone_and_says_that_it_is_well() {
    let Some(scene) = Scene::bare().await else { return };
    let machine = &scene.machine;
    machine.must(&format!("set -e -o pipefail; {}", gathering()));
    machine.copy(Path::new(PROGRAM), "/image/usr/local/bin/portcullis");
    for (name, text) in scene.configuration() {
        machine.write(&format!("/image/etc/portcullis/{name}"), &text);
    }
    let run = |words: &str| {
        format!(
            "cd /image/var/lib/portcullis && exec env -i PATH=/usr/local/bin WEBUI_SECRET_KEY=a-secret-of-some-length \
             DATABASE_URL=sqlite:/var/lib/portcullis/portcullis.db \
             /usr/sbin/chroot --userspec=10001:10001 /image /usr/local/bin/portcullis {words} --config /etc/portcullis"
        )
    };
    assert!(machine.must(&run("check")).contains("ok: "));
    machine.must(&format!("({}) >/root/said 2>&1 & echo $! >/root/pid", run("run")));
    until("word that it is well", || async {
        let said = machine.run(&run("health"));
        (said.code == 0 && said.said.contains(r#"{"status":"ready"}"#)).then_some(())
    })
    .await;
    machine.must("kill -TERM $(cat /root/pid)");
    until("its end", || async { (machine.run("test -e /proc/$(cat /root/pid)").code != 0).then_some(()) })
        .await;
    assert!(machine.must("cat /root/said").contains("drained"));
}
