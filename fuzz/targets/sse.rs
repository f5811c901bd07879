//! A stream has the same events however it is cut, and they are its bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::mcp::sse::{Event, Splitter, first_event_has_id};

const BOUND: usize = 64;

/// The events, and whether one was too long.
fn events(pieces: impl Iterator<Item = Vec<u8>>) -> (Vec<Event>, bool) {
    let (mut splitter, mut events) = (Splitter::new(BOUND), Vec::new());
    for piece in pieces.map(Some).chain([None]) {
        match piece {
            Some(piece) => splitter.feed(&piece),
            None => splitter.end(),
        }
        loop {
            match splitter.next_event() {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(_) => return (events, true),
            }
        }
    }
    (events, false)
}

fuzz_target!(|input: (u8, &[u8])| {
    let (size, stream) = input;
    let whole = events([stream.to_vec()].into_iter());
    assert_eq!(whole, events(stream.chunks(usize::from(size) + 1).map(<[u8]>::to_vec)));
    let (events, is_too_long) = whole;
    let joined: Vec<u8> = events.iter().flat_map(|event| event.raw().to_vec()).collect();
    assert!(stream.starts_with(&joined) && (is_too_long || stream.len() - joined.len() <= BOUND));
    for event in &events {
        assert!(event.data().is_some() || event.with_data("a\nb") == event.raw());
        let _ = (event.name(), event.has_id());
    }
    let _ = first_event_has_id(stream);
});
