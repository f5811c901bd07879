//! What does the look into a call's body cost, for small bodies and up to the 64 KiB it reads at most?
//!
//! Beside it: serde_json saying whether the same bytes are JSON, without building anything.

use divan::{AllocProfiler, Bencher, black_box, counter::BytesCount};
use portcullis::upstream::arguments::{Peek, Whole};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const SIZES: [usize; 3] = [34, 4096, 65536];

/// A JSON object of exactly `bytes` bytes: short texts, numbers and nesting, as arguments of a tool are.
fn arguments(bytes: usize, letter: char) -> String {
    let mut body = String::from("{\"query\":\"rust\"");
    while body.len() + 48 < bytes {
        let field = format!(",\"key_{}\":{{\"id\":12345,\"on\":true}}", body.len());
        body.push_str(&field);
    }
    body.push_str(",\"text\":\"");
    while body.len() + 2 + letter.len_utf8() <= bytes {
        body.push(letter);
    }
    while body.len() + 2 < bytes {
        body.push('x');
    }
    body + "\"}"
}

fn peek(body: &[u8]) -> Whole {
    let mut peek = Peek::new(true);
    peek.feed(body).and_then(|_| peek.finish()).expect("the bodies here are JSON")
}

#[divan::bench(args = SIZES)]
fn plain(bencher: Bencher, bytes: usize) {
    let body = arguments(bytes, 'x');
    bencher.counter(BytesCount::new(body.len())).bench(|| peek(black_box(body.as_bytes())));
}

/// Wrapped in `{"arguments":…}`, to be unwrapped.
#[divan::bench(args = SIZES)]
fn wrapped(bencher: Bencher, bytes: usize) {
    let body = format!("{{\"arguments\":{}}}", arguments(bytes, 'x'));
    bencher.counter(BytesCount::new(body.len())).bench(|| peek(black_box(body.as_bytes())));
}

/// With one text that is not ASCII.
#[divan::bench(args = SIZES)]
fn not_ascii(bencher: Bencher, bytes: usize) {
    let body = arguments(bytes, 'é');
    bencher.counter(BytesCount::new(body.len())).bench(|| peek(black_box(body.as_bytes())));
}

/// In the pieces of an ordinary network: 1460 bytes each.
#[divan::bench(args = SIZES)]
fn plain_in_packets(bencher: Bencher, bytes: usize) {
    let body = arguments(bytes, 'x');
    bencher.counter(BytesCount::new(body.len())).bench(|| {
        let mut peek = Peek::new(true);
        for packet in black_box(body.as_bytes()).chunks(1460) {
            peek.feed(packet).expect("the bodies here are JSON");
        }
        peek.finish()
    });
}

#[divan::bench(args = SIZES)]
fn serde_json_on_plain(bencher: Bencher, bytes: usize) {
    let body = arguments(bytes, 'x');
    bencher
        .counter(BytesCount::new(body.len()))
        .bench(|| serde_json::from_slice::<serde::de::IgnoredAny>(black_box(body.as_bytes())).is_ok());
}
