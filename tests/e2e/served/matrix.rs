//! The same tool called through each face gives the same answer, whatever is spoken at the server.

use serde_json::{Value, json};

use super::{
    Served, World,
    client::{FACES, Said},
    everything, python_server,
};
use crate::harness::{
    mcp::{Fixture, Server},
    postgres::given,
};

/// The tool says the same through every face: that.
async fn same(world: &World, server: &str, tool: &str, arguments: &Value) -> Said {
    let mut first: Option<Said> = None;
    for face in FACES {
        let said = world.say(face, server, tool, arguments).await;
        let first = first.get_or_insert_with(|| said.clone());
        assert_eq!(said, *first, "{tool} of {server} through {face:?}");
    }
    first.unwrap()
}

#[tokio::test]
async fn a_tool_of_the_fixture_says_the_same_through_every_face_in_every_dialect() {
    let manners: [(&str, &str, &str, &[&str]); 6] = [
        ("dual", "mcp", "/mcp", &[]),
        ("modern", "mcp", "/mcp", &["--era", "modern"]),
        ("streams", "mcp", "/mcp", &["--era", "modern", "--answers", "sse"]),
        ("legacy", "mcp", "/mcp", &["--era", "legacy"]),
        ("stateless", "mcp", "/mcp", &["--era", "legacy", "--sessions", "stateless"]),
        ("events", "mcp-sse", "/sse", &[]),
    ];
    let mut fixtures = Vec::new();
    for (.., options) in manners {
        fixtures.push(Fixture::with(options).await);
    }
    let served: Vec<Served<'_>> = manners
        .iter()
        .zip(&fixtures)
        .map(|((id, dialect, path, _), fixture)| (*id, *dialect, fixture.url(path)))
        .collect();
    let world = World::of(&served).await;
    let yes = [
        ("echo", json!({"message": "é \u{1F600} \"quoted\""})),
        ("test_simple_text", json!({})),
        ("test_image_content", json!({})),
        ("test_audio_content", json!({})),
        ("empty", json!({})),
        ("json_schema_2020_12_tool", json!({"name": "a", "email": "b"})),
        ("slow", json!({"ms": 20, "step": 10})),
        ("test_header_param", json!({"region": "eu ü", "query": "q"})),
    ];
    for (id, ..) in manners {
        for (tool, arguments) in &yes {
            let said = same(&world, id, tool, arguments).await;
            assert!(matches!(said, Said::Yes(_)), "{id} {tool}: {said:?}");
        }
        let no = same(&world, id, "test_error_handling", &json!({})).await;
        assert_eq!(no, Said::No("This tool intentionally returns an error for testing".to_owned()), "{id}");
    }
}

#[tokio::test]
async fn a_tool_of_a_real_server_says_the_same_through_every_face() {
    let folder = given("PORTCULLIS_TEST_FOLDER");
    let every = Server::start(everything("streamableHttp")).await;
    let one = Server::start(python_server("V1", &[])).await;
    let two = Server::start(python_server("V2", &[])).await;
    let world = World::of(&[
        ("every", "mcp", every.url("/mcp")),
        ("one", "mcp", one.url("/mcp")),
        ("two", "mcp", two.url("/mcp")),
        ("filesystem", "openapi", given("PORTCULLIS_TEST_MCPO_FILESYSTEM")),
        ("time", "openapi", given("PORTCULLIS_TEST_MCPO_TIME")),
    ])
    .await;
    let hi = json!({"message": "hi"});
    for (server, tool, arguments) in [
        ("every", "echo", hi.clone()),
        ("one", "echo", hi.clone()),
        ("two", "echo", hi.clone()),
        ("one", "slow", json!({"ms": 20, "step": 10})),
        ("two", "slow", json!({"ms": 20, "step": 10})),
        ("filesystem", "list_directory", json!({"path": folder})),
        ("filesystem", "read_text_file", json!({"path": format!("{folder}/hello.txt")})),
        (
            "time",
            "convert_time",
            json!({"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}),
        ),
    ] {
        let said = same(&world, server, tool, &arguments).await;
        assert!(matches!(said, Said::Yes(_)), "{server} {tool}: {said:?}");
    }
}
