#!/usr/bin/env python3
"""A tool server in one file, to copy: three tools over notes kept in memory.

    python3 conf/examples/notes_server.py --port 8100

A tool is a function and the JSON Schema of its arguments. `GET /openapi.json` describes them all, and
`POST /{tool}` with a JSON object runs one: that is everything the gateway asks of a server with `tier = "local"`.
Who may call is the gateway's business; keep a server like this on an address only the gateway reaches.
"""

import argparse
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MAX_BODY_BYTES = 1 << 20
TEXT = {"type": "string"}

notes: list[dict] = []
notes_lock = threading.Lock()


def add_note(title: str, text: str = "") -> dict:
    """Saves a note and returns it with its id."""
    with notes_lock:
        note = {"id": len(notes) + 1, "title": title, "text": text}
        notes.append(note)
    return note


def list_notes() -> list[dict]:
    """Lists all notes, oldest first."""
    with notes_lock:
        return list(notes)


def search_notes(query: str) -> list[dict]:
    """Finds the notes whose title or text contains the query, in any case."""
    wanted = query.casefold()
    return [note for note in list_notes() if wanted in f"{note['title']}\n{note['text']}".casefold()]


# name: (function, properties of its arguments, those that must be there)
TOOLS = {
    "add_note": (add_note, {"title": TEXT, "text": {**TEXT, "default": ""}}, ["title"]),
    "list_notes": (list_notes, {}, []),
    "search_notes": (search_notes, {"query": TEXT}, ["query"]),
}


def openapi() -> dict:
    paths = {}
    for name, (function, properties, required) in TOOLS.items():
        schema = {"type": "object", "properties": properties, "required": required}
        paths[f"/{name}"] = {
            "post": {
                "operationId": name,
                "description": function.__doc__,
                "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
                "responses": {"200": {"description": "The tool's result."}, "422": {"description": "Bad arguments."}},
            }
        }
    return {"openapi": "3.1.0", "info": {"title": "notes", "version": "1.0.0"}, "paths": paths}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open between calls
    disable_nagle_algorithm = True  # head and body are two writes
    timeout = 60  # seconds until an idle connection is closed

    def do_GET(self):
        if self.path == "/openapi.json":
            return self.reply(200, openapi())
        self.reply(404, {"detail": "Not Found"})

    def do_POST(self):
        body = self.read_body()
        if body is None:
            return
        if self.path.removeprefix("/") not in TOOLS:
            return self.reply(404, {"detail": "Not Found"})
        function, properties, required = TOOLS[self.path.removeprefix("/")]
        try:
            arguments = json.loads(body or b"{}")
        except ValueError:
            return self.reply(422, {"detail": "the body is not JSON"})
        if not isinstance(arguments, dict):
            return self.reply(422, {"detail": "the arguments are not an object"})
        for name in required:
            if name not in arguments:
                return self.reply(422, {"detail": f"`{name}` is missing"})
        for name, value in arguments.items():
            if name not in properties:
                return self.reply(422, {"detail": f"`{name}` is not an argument of this tool"})
            if not isinstance(value, str):  # the only type used above
                return self.reply(422, {"detail": f"`{name}` is not a string"})
        self.reply(200, function(**arguments))

    def read_body(self):
        """The whole body, or None once a refusal has been sent."""
        chunked = self.headers.get("Transfer-Encoding", "").lower() == "chunked"
        length = self.headers.get("Content-Length", "0")
        if not chunked and length.isascii() and length.isdigit() and int(length) <= MAX_BODY_BYTES:
            return self.rfile.read(int(length))
        if chunked:
            body = b""
            while size := self.chunk_size():
                if len(body) + size > MAX_BODY_BYTES:
                    break
                body += self.rfile.read(size)
                self.rfile.readline()
            if size == 0:
                self.rfile.readline()
                return body
        self.close_connection = True  # what follows cannot be told from the rest of this body
        self.reply(413, {"detail": "the body is too large or its length is not said"})
        return None

    def chunk_size(self):
        digits = self.rfile.readline(64).split(b";")[0].strip()
        is_hex = digits and all(digit in b"0123456789abcdefABCDEF" for digit in digits)
        return int(digits, 16) if is_hex else MAX_BODY_BYTES + 1

    def reply(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)


def main():
    parser = argparse.ArgumentParser(description="A tool server that keeps notes in memory.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8100)
    options = parser.parse_args()
    with ThreadingHTTPServer((options.host, options.port), Handler) as server:
        server.daemon_threads = True
        # Printed with the port in use: `--port 0` takes any free one.
        print(f"notes server on http://{options.host}:{server.server_port}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
