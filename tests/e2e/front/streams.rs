//! Streams through a proxy: each event when it is sent, and the end on either side when it comes.

use super::*;
use crate::harness::raw::RawClient;

#[tokio::test]
async fn events_pass_one_by_one_and_a_client_that_leaves_is_noticed() {
    for kind in BOTH {
        let scene = Scene::start(kind).await;
        let request = scene.of_jane(Method::POST, "/github/events").build().unwrap();
        let mut head = format!("POST /github/events HTTP/1.1\r\nhost: {}\r\n", scene.proxy.address());
        for (name, value) in request.headers() {
            head += &format!("{name}: {}\r\n", value.to_str().unwrap());
        }
        head += "content-type: application/json\r\ncontent-length: 2\r\n\r\n{}";

        let mut client = RawClient::connect(&scene.proxy.address()).await;
        client.send(&head).await;
        let held = scene.peer.held().await;
        let (status, answer) = client.read_head().await;
        assert_eq!((status, answer.header("content-type")), (200, Some("text/event-stream")), "{kind:?}");
        for number in 0..3 {
            let event = format!("data: {number}\n\n");
            held.send(event.as_str());
            assert_eq!(client.read_chunk().await.as_deref(), Some(event.as_bytes()), "{kind:?}");
        }
        held.end();
        assert_eq!(client.read_chunk().await, None, "{kind:?}");

        let mut client = RawClient::connect(&scene.proxy.address()).await;
        client.send(&head).await;
        let held = scene.peer.held().await;
        drop(client);
        held.closed().await;
    }
}
