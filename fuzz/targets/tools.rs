//! No tool list makes the reader panic or grow without bound, and every tool read can stand in a document of ours.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::{
    catalog::tools::{MAX_TOOLS, ToolIndex, ToolList},
    names::ServerId,
};

fuzz_target!(|document: &[u8]| {
    let Ok((list, skipped)) = ToolList::parse(document) else { return };
    assert!(list.len() <= MAX_TOOLS);
    assert!(skipped.iter().all(|skipped| !skipped.operation.contains(char::is_control)));
    assert!(list.iter().all(|tool| tool.post().unwrap().path.starts_with('/') && tool.name.as_str() != "mcp"));
    assert_eq!(ToolList::parse(document).map(|(again, _)| again).ok(), Some(list));
    let (list, _) = ToolList::parse(document).expect("it was read twice");
    let server = ServerId::parse("fuzzed").expect("a server id");
    let index = ToolIndex::default().with(server, list.into());
    for listed in index.listed("fuzzed") {
        let id = listed.operation_id;
        assert!(
            (1..=64).contains(&id.len())
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
        );
    }
});
