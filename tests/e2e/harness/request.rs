//! Requests as text, for the raw client.

/// The head of a request, closed: `host`, a bearer token when there is one, and further lines.
pub fn head(method: &str, path: &str, token: &str, lines: &[&str]) -> String {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: gateway\r\n");
    if !token.is_empty() {
        head += &format!("authorization: Bearer {token}\r\n");
    }
    for line in lines {
        head += line;
        head += "\r\n";
    }
    head + "\r\n"
}

/// A GET.
pub fn get(path: &str, token: &str) -> String {
    head("GET", path, token, &[])
}

/// A POST of these bytes with their length.
pub fn post(path: &str, token: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    post_with(path, token, &["content-type: application/json"], body)
}

/// A POST of these bytes with their length and these header lines.
pub fn post_with(path: &str, token: &str, lines: &[&str], body: impl AsRef<[u8]>) -> Vec<u8> {
    let length = format!("content-length: {}", body.as_ref().len());
    let lines: Vec<_> = lines.iter().copied().chain([length.as_str()]).collect();
    [head("POST", path, token, &lines).as_bytes(), body.as_ref()].concat()
}

/// The head of a POST whose body is sent in chunks.
pub fn chunked(path: &str, token: &str) -> String {
    head("POST", path, token, &["content-type: application/json", "transfer-encoding: chunked"])
}
