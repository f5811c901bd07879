//! The bytes: every spelling of every kind of hostile request, by the row of README.md that answers it.

use super::{FACES, Face, PAGE};

/// The bytes for a face, with further lines of the head.
type Make = Box<dyn Fn(&Face, &str) -> Vec<u8> + Send + Sync>;

/// A spelling.
pub struct Case {
    /// Its row in README.md.
    pub row: &'static str,
    pub name: String,
    /// Whether what is wrong stands in the head, where a page without a body is as strict.
    pub is_in_head: bool,
    /// Whether it speaks HTTP/1.0 or asks for the connection's end, so that there is no next request.
    pub is_last: bool,
    make: Make,
}

impl Case {
    /// The request for this face; `more` are further lines of its head.
    pub fn bytes(&self, face: &Face, more: &str) -> Vec<u8> {
        (self.make)(face, more)
    }

    /// The faces that are asked.
    pub fn faces(&self) -> Vec<Face> {
        FACES.into_iter().chain(self.is_in_head.then_some(PAGE)).collect()
    }
}

const TWICE: &str = "`Content-Length` and `Transfer-Encoding` together or either twice, in any order";
const LENGTH: &str =
    "a `Content-Length` that is more than digits: sign, list, hex, zero in front, over 64 bits";
const CODING: &str = "a `Transfer-Encoding` other than `chunked`, or with HTTP/1.0";
const HEADERS: &str = "a folded header, a space in or behind its name, NUL or another control character";
const LINES: &str = "a bare LF or CR as the end of a line, in whatever place of the head";
const CHUNKS: &str = "a size of a chunk that is none or over 64 bits, or a chunk without CR LF at its end";
const TARGET: &str =
    "a request line with other spaces, another version, a fragment, another host's URL or none";
const HOST: &str = "no `Host`, two, or one that is no name and no address";
const METHOD: &str = "an unknown method, one in lower case, `TRACE`, `CONNECT`";
const EXTENSIONS: &str = "extensions of chunks, spaces behind a size, zeros in front";
const TRAILERS: &str = "trailers, whatever they say, and whatever stands in their place";
const SPELLINGS: &str = "`chunked` in capitals, spaces and tabs around a value, empty lines in front";
const UPGRADE: &str = "`Upgrade` (h2c, WebSocket), `HTTP2-Settings`, and headers named by `Connection`";
const EXPECT: &str = "an `Expect` other than `100-continue`";

/// The rows that [`all`] has spellings for.
pub const ROWS: [&str; 14] = [
    TWICE, LENGTH, CODING, HEADERS, LINES, CHUNKS, TARGET, HOST, METHOD, EXTENSIONS, TRAILERS, SPELLINGS,
    UPGRADE, EXPECT,
];

/// The body as one chunk, with this behind its size.
fn in_chunks(body: &str, extension: &str) -> String {
    format!("{:x}{extension}\r\n{body}\r\n0\r\n\r\n", body.len())
}

/// A head with this request line and `Host` line, the lines every request has, and these.
fn head(first: &str, host: &str, more: &str, lines: &str) -> String {
    let usual = "content-type: application/json\r\naccept: application/json, text/event-stream\r\n";
    format!("{first}\r\n{host}{usual}{more}{lines}\r\n")
}

fn ordinary(face: &Face, more: &str, lines: &str) -> String {
    head(&format!("{} {} HTTP/1.1", face.method, face.path), "host: gateway\r\n", more, lines)
}

fn length(face: &Face) -> String {
    format!("content-length: {}\r\n", face.body.len())
}

struct Cases(Vec<Case>);

impl Cases {
    fn add(
        &mut self,
        row: &'static str,
        name: impl Into<String>,
        make: impl Fn(&Face, &str) -> Vec<u8> + Send + Sync + 'static,
    ) -> &mut Case {
        let case = Case { row, name: name.into(), is_in_head: true, is_last: false, make: Box::new(make) };
        self.0.push(case);
        self.0.last_mut().unwrap()
    }

    /// These lines, where `@` is the body's length, with the body as it is.
    fn plain(&mut self, row: &'static str, lines: &'static str) -> &mut Case {
        self.add(row, format!("{lines:?}"), move |face, more| {
            let lines = lines.replace('@', &face.body.len().to_string());
            (ordinary(face, more, &lines) + face.body).into_bytes()
        })
    }

    /// These lines with the body in a chunk.
    fn chunked(&mut self, row: &'static str, lines: &'static str) -> &mut Case {
        self.add(row, format!("{lines:?} in chunks"), move |face, more| {
            let lines = lines.replace('@', &in_chunks(face.body, "").len().to_string());
            (ordinary(face, more, &lines) + &in_chunks(face.body, "")).into_bytes()
        })
    }

    /// A body in chunks that is written so: `@` is its size and `$` the body itself.
    fn body(&mut self, row: &'static str, body: &'static str) {
        let case = self.add(row, format!("body {body:?}"), move |face, more| {
            let size = format!("{:x}", face.body.len());
            let body = body.replace('@', &size).replace('$', face.body);
            (ordinary(face, more, "transfer-encoding: chunked\r\n") + &body).into_bytes()
        });
        case.is_in_head = false;
    }

    /// This first line, where `@` is the method and `$` the path.
    fn line(&mut self, row: &'static str, line: &'static str) {
        self.add(row, format!("line {line:?}"), move |face, more| {
            let line = line.replace('@', face.method).replace('$', face.path);
            (head(&line, "host: gateway\r\n", more, &length(face)) + face.body).into_bytes()
        });
    }

    /// This in the place of the `Host` line.
    fn host(&mut self, host: &'static str) {
        self.add(HOST, format!("host {host:?}"), move |face, more| {
            let first = format!("{} {} HTTP/1.1", face.method, face.path);
            (head(&first, host, more, &length(face)) + face.body).into_bytes()
        });
    }
}

/// All of them.
pub fn all() -> Vec<Case> {
    let mut cases = Cases(Vec::new());
    lengths_and_codings(&mut cases);
    headers_and_lines(&mut cases);
    chunks(&mut cases);
    targets(&mut cases);
    taken(&mut cases);
    cases.0
}

fn lengths_and_codings(cases: &mut Cases) {
    const CL: &str = "content-length: @\r\n";
    const TE: &str = "transfer-encoding: chunked\r\n";
    for lines in [
        "content-length: @\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: @\r\n",
        "content-length: 0\r\ntransfer-encoding: chunked\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
        "transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n",
    ] {
        cases.chunked(TWICE, lines);
    }
    for lines in [
        "content-length: @\r\ncontent-length: @\r\n",
        "content-length: @\r\ncontent-length: 999\r\n",
        "content-length: 0\r\ncontent-length: @\r\n",
        "content-length: @\r\ntransfer-encoding: xchunked\r\n",
        "content-length: @\r\ntransfer-encoding: identity\r\n",
        "content-length: @\r\ntransfer-encoding:\r\n",
    ] {
        cases.plain(TWICE, lines);
    }
    for value in [
        "@, @",
        "@,9",
        "+@",
        "-@",
        "0x@",
        "0@",
        "00",
        "@.0",
        "@e0",
        "1_0",
        "@;",
        "",
        ",",
        "\"@\"",
        "18446744073709551616",
        "99999999999999999999999999",
        "\u{b}@",
        "@\u{b}",
        "@\0",
        "2\u{a0}",
        "２",
    ] {
        cases.plain(LENGTH, String::leak(format!("content-length: {value}\r\n")));
    }
    for value in [
        "chunked,",
        ",chunked",
        "chunked, chunked",
        "gzip, chunked",
        "chunked, gzip",
        "identity",
        "identity, chunked",
        "chunked, identity",
        "\"chunked\"",
        "chunked;a=b",
        "xchunked",
        "chunke",
        "",
        "chun ked",
        "deflate",
        "\u{b}chunked",
        "chunked\u{b}",
        "chunked\0",
        "\u{a0}chunked",
    ] {
        cases.chunked(CODING, String::leak(format!("transfer-encoding: {value}\r\n")));
    }
    for (name, lines, is_chunked) in
        [("chunked", TE, true), ("both", "content-length: @\r\ntransfer-encoding: chunked\r\n", true)]
    {
        cases.add(CODING, format!("HTTP/1.0 {name}"), move |face, more| {
            let first = format!("{} {} HTTP/1.0", face.method, face.path);
            let lines = lines.replace('@', &face.body.len().to_string());
            let body = if is_chunked { in_chunks(face.body, "") } else { face.body.to_owned() };
            (head(&first, "host: gateway\r\n", more, &lines) + &body).into_bytes()
        });
    }
    cases.plain(SPELLINGS, CL);
    cases.chunked(SPELLINGS, TE);
}

fn headers_and_lines(cases: &mut Cases) {
    for lines in [
        "transfer-encoding:\r\n chunked\r\n",
        "transfer-encoding: chunked\r\n , identity\r\n",
        "transfer-encoding : chunked\r\n",
        "transfer-encoding\t: chunked\r\n",
        " transfer-encoding: chunked\r\n",
    ] {
        cases.chunked(HEADERS, lines);
    }
    for lines in [
        "content-length:\r\n @\r\n",
        "x: a\r\n b\r\ncontent-length: @\r\n",
        "x: a\r\n\tb\r\ncontent-length: @\r\n",
        "x: a\r\n \r\ncontent-length: @\r\n",
        "content-length : @\r\n",
        "content-length\t: @\r\n",
        " content-length: @\r\n",
        "content length: 5\r\ncontent-length: @\r\n",
        "content-length\0: 5\r\ncontent-length: @\r\n",
        "no colon\r\ncontent-length: @\r\n",
        ": no name\r\ncontent-length: @\r\n",
        "x: \0\r\ncontent-length: @\r\n",
        "x: \u{1}\r\ncontent-length: @\r\n",
        "x: \u{7f}\r\ncontent-length: @\r\n",
        "x\u{e9}: a\r\ncontent-length: @\r\n",
        "(x): a\r\ncontent-length: @\r\n",
    ] {
        cases.plain(HEADERS, lines);
    }
    for lines in [
        "x: a\ny: b\r\ncontent-length: @\r\n",
        "x: a\ncontent-length: @\r\n",
        "content-length: @\n",
        "x: a\r\ncontent-length: @\n",
        "x: a\rcontent-length: 5\r\ncontent-length: @\r\n",
        "x: a\rtransfer-encoding: chunked\r\ncontent-length: @\r\n",
        "content-length: @\r\r\n",
        "content-length: @\n\r",
    ] {
        cases.plain(LINES, lines);
    }
    for lines in
        ["x: a\ntransfer-encoding: chunked\r\n", "content-length: @\r\nx: a\ntransfer-encoding: chunked\r\n"]
    {
        cases.chunked(LINES, lines);
    }
    for (name, from, to) in [
        ("LF everywhere", "\r\n", "\n"),
        ("CR everywhere", "\r\n", "\r"),
        ("LF CR everywhere", "\r\n", "\n\r"),
    ] {
        cases.add(LINES, name, move |face, more| {
            (ordinary(face, more, &length(face)).replace(from, to) + face.body).into_bytes()
        });
    }
    cases.add(LINES, "an empty line of LF alone", |face, more| {
        let head = ordinary(face, more, &length(face));
        (head[..head.len() - 2].to_owned() + "\n" + face.body).into_bytes()
    });
    cases.add(LINES, "an LF in front", |face, more| {
        ("\n".to_owned() + &ordinary(face, more, &length(face)) + face.body).into_bytes()
    });
}

fn chunks(cases: &mut Cases) {
    for body in [
        "0x@\r\n$\r\n0\r\n\r\n",
        "+@\r\n$\r\n0\r\n\r\n",
        "-@\r\n$\r\n0\r\n\r\n",
        "0_@\r\n$\r\n0\r\n\r\n",
        " @\r\n$\r\n0\r\n\r\n",
        "g\r\n$\r\n0\r\n\r\n",
        "1000000000000000@\r\n$\r\n0\r\n\r\n",
        "0000000000000000000000000000000000@\r\n$\r\n0\r\n\r\n",
        "ffffffffffffffff\r\n$\r\n0\r\n\r\n",
        "@\n$\r\n0\r\n\r\n",
        "@\r$\r\n0\r\n\r\n",
        "@\r\n$\n0\r\n\r\n",
        "@\r\n$0\r\n\r\n",
        "@\r\n$xx0\r\n\r\n",
        "@\n$\n0\n\n",
        "@;a=\"\r\n\"\r\n$\r\n0\r\n\r\n",
        "1\r\n$\r\n0\r\n\r\n",
        "\r\n\r\n",
        "@\r\n$\r\n\r\n\r\n",
        "@\r\n$\r\n \r\n\r\n",
        "@\r\n$\r\n;a=b\r\n\r\n",
    ] {
        cases.body(CHUNKS, body);
    }
    for body in [
        "@;a=b\r\n$\r\n0\r\n\r\n",
        "@;a=\"b c\"\r\n$\r\n0\r\n\r\n",
        "@ ;a\r\n$\r\n0\r\n\r\n",
        "@;\r\n$\r\n0\r\n\r\n",
        "@;a\nb\r\n$\r\n0\r\n\r\n",
        "@ \r\n$\r\n0\r\n\r\n",
        "@\t\r\n$\r\n0\r\n\r\n",
        "000@\r\n$\r\n000\r\n\r\n",
        "@\r\n$\r\n0;a=b\r\n\r\n",
    ] {
        cases.body(EXTENSIONS, body);
    }
    for body in [
        "@\r\n$\r\n0\r\nx-t: 1\r\n\r\n",
        "@\r\n$\r\n0\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\nx-user-email: admin@example.com\r\n\r\n",
        "@\r\n$\r\n0\r\nno colon\r\n\r\n",
        "@\r\n$\r\n0\r\nPOST /alpha/search HTTP/1.1\r\nhost: smuggled\r\n\r\n",
        "@\r\n$\r\n0\r\n",
    ] {
        cases.body(TRAILERS, body);
    }
}

fn targets(cases: &mut Cases) {
    for line in [
        "@  $ HTTP/1.1",
        "@ $  HTTP/1.1",
        "@ $ HTTP/1.1 ",
        " @ $ HTTP/1.1",
        "@\t$\tHTTP/1.1",
        "@ $ HTTP/1.2",
        "@ $ HTTP/2.0",
        "@ $ HTTP/1.10",
        "@ $ HTTP/0.9",
        "@ $ http/1.1",
        "@ $",
        "@ $HTTP/1.1",
        "@ $ x HTTP/1.1",
        "@ $\r HTTP/1.1",
        "@ $\0 HTTP/1.1",
        "@ $#x HTTP/1.1",
        "@ $?a=b c HTTP/1.1",
        "@ $?a=b  HTTP/1.1",
        "@ $?a=b\tc HTTP/1.1",
        "@ http://evil.example.com$ HTTP/1.1",
        "@ http://gateway:81$ HTTP/1.1",
        "@ http://u@gateway$ HTTP/1.1",
        "@ gateway$ HTTP/1.1",
        "@ * HTTP/1.1",
        "PRI * HTTP/2.0",
        "@( $ HTTP/1.1",
    ] {
        cases.line(TARGET, line);
    }
    for line in ["post $ HTTP/1.1", "TRACE $ HTTP/1.1", "SMUGGLE $ HTTP/1.1"] {
        cases.line(METHOD, line);
    }
    cases
        .add(METHOD, "CONNECT", |_, more| {
            head("CONNECT gateway:80 HTTP/1.1", "host: gateway:80\r\n", more, "").into_bytes()
        })
        .is_last = true;
    for host in [
        "",
        "host: gateway\r\nhost: gateway\r\n",
        "host: gateway\r\nHost: evil.example.com\r\n",
        "host: gateway, evil.example.com\r\n",
        "host: user@gateway\r\n",
        "host: gateway/x\r\n",
        "host: gate way\r\n",
        "host: gateway:port\r\n",
        "host: gateway:80:80\r\n",
        "host: gateway?x\r\n",
        "host: [::1\r\n",
    ] {
        cases.host(host);
    }
}

/// What is taken, without what is odd about it.
fn taken(cases: &mut Cases) {
    for lines in [
        "content-length:@\r\n",
        "content-length: @ \r\n",
        "content-length:\t@\t\r\n",
        "CONTENT-LENGTH: @\r\n",
    ] {
        cases.plain(SPELLINGS, lines);
    }
    for lines in [
        "transfer-encoding: Chunked\r\n",
        "Transfer-Encoding: CHUNKED\r\n",
        "transfer-encoding:chunked \r\n",
        "transfer-encoding: \tchunked\t\r\n",
        "transfer_encoding: identity\r\ntransfer-encoding: chunked\r\n",
    ] {
        cases.chunked(SPELLINGS, lines);
    }
    cases.plain(SPELLINGS, "content_length: 5\r\ncontent-length: @\r\n");
    cases.add(SPELLINGS, "empty lines in front", |face, more| {
        ("\r\n\r\n".to_owned() + &ordinary(face, more, &length(face)) + face.body).into_bytes()
    });
    cases
        .add(SPELLINGS, "HTTP/1.0", |face, more| {
            let first = format!("{} {} HTTP/1.0", face.method, face.path);
            (head(&first, "host: gateway\r\n", more, &length(face)) + face.body).into_bytes()
        })
        .is_last = true;
    for lines in [
        "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQCAAAAAAIAAAAA\r\ncontent-length: @\r\n",
        "upgrade: h2c\r\nhttp2-settings: AAMAAABkAAQCAAAAAAIAAAAA\r\ncontent-length: @\r\n",
        "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\ncontent-length: @\r\n",
        "connection: authorization, content-length\r\ncontent-length: @\r\n",
        "te: trailers, chunked\r\ncontent-length: @\r\n",
    ] {
        cases.plain(UPGRADE, lines);
    }
    cases.chunked(UPGRADE, "transfer-encoding: chunked\r\nconnection: transfer-encoding\r\n");
    cases.plain(UPGRADE, "connection: close, keep-alive\r\ncontent-length: @\r\n").is_last = true;
    for lines in
        ["expect: 200-ok\r\ncontent-length: @\r\n", "expect: 100-continue, x\r\ncontent-length: @\r\n"]
    {
        cases.plain(EXPECT, lines);
    }
}
