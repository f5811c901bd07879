//! No list of an MCP server makes the readers panic or grow without bound, and what is offered is told as it was said.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::{
    catalog::{
        offers::{self, Kind},
        tools::{Definition, MAX_TOOLS, ToolList},
    },
    names::ToolName,
};
use serde_json::Value;

fuzz_target!(|input: (bool, &str)| {
    let (is_entry, text) = input;
    // The frame is far to guess, byte by byte: half of the texts are one entry.
    let page = |list: &str| if is_entry { format!(r#"{{"{list}":[{text}]}}"#) } else { text.to_owned() };
    if let Ok((list, skipped)) = ToolList::from_mcp(&[page("tools")]) {
        assert!(list.len() <= MAX_TOOLS);
        assert!(skipped.iter().all(|skipped| !skipped.operation.contains(char::is_control)));
        for tool in list.iter() {
            assert!(ToolName::parse(tool.name.as_str()).is_ok() && tool.post().is_none());
            for is_modern in [false, true] {
                let told = written(tool.definition_for(is_modern));
                assert!(told["name"] == "n" && told["inputSchema"]["type"] == "object");
            }
        }
    }
    for (kind, list) in [(Kind::Prompts, "prompts"), (Kind::Resources, "resources"), (Kind::Templates, "resourceTemplates")] {
        let Ok((offers, _)) = offers::read(kind, &[page(list)]) else { continue };
        assert!(offers.is_sorted_by(|one, next| one.key < next.key));
        assert!(offers.iter().all(|offer| written(&offer.definition).is_object()));
    }
});

fn written(definition: &Definition) -> Value {
    let mut told = Vec::new();
    definition.write("n", &mut told);
    serde_json::from_slice(&told).expect("what is told is JSON")
}
