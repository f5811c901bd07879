//! No path makes the router panic, and what is routed can be read in one way only.
#![no_main]

use http::Method;
use libfuzzer_sys::fuzz_target;
use portcullis::route::{Route, legacy_readings, resolve};

fuzz_target!(|input: (bool, &str)| {
    let (is_post, path) = input;
    let method = if is_post { Method::POST } else { Method::GET };
    let Ok(route) = resolve(&method, path) else { return };
    assert!(
        path.starts_with('/') && !path.contains("//") && !path.contains(['%', '\\', '\0', ' ', '?', '#'])
    );
    assert!(path.split('/').skip(1).all(|segment| segment.is_empty() || segment.bytes().any(|b| b != b'.')));
    match route {
        Route::Call { server, tool } => assert_eq!(format!("/{server}/{tool}"), path),
        Route::LegacyCall(name) => {
            for (server, tool) in legacy_readings(name) {
                assert_eq!(format!("/{server}_{tool}"), path);
            }
        }
        Route::Native(server) => assert_eq!(format!("/{server}/mcp"), path),
        Route::Aggregate => assert_eq!(path, "/mcp"),
        Route::Page(_) | Route::ServerPage(..) | Route::OtherMethod(_) | Route::Nothing => {}
    }
});
