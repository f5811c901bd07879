"""What memory does an open stream cost on which nothing comes? Resident memory, beside that of nginx and noop."""

import re
import socket
import statistics
from urllib.parse import urlsplit

from stage import fail, say
from rows import mcp
from rows.row import Row

SIZES = (2_000, 5_000)


def opened(url, lines, body=""):
    """A stream that has said its one event; its connection and the answer's head."""
    parts = urlsplit(url)
    method = "POST" if body else "GET"
    head = [f"{method} {parts.path} HTTP/1.1", f"Host: {parts.netloc}", *lines]
    if body:
        head += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    connection = socket.create_connection((parts.hostname, parts.port), timeout=30)
    connection.sendall(("\r\n".join(head) + "\r\n\r\n" + body).encode())
    answer = b""
    while b'"sent":' not in answer and b'"result":' not in answer:
        piece = connection.recv(65536)
        answer += piece
        if not piece or not answer.startswith(b"HTTP/1.1 200"):
            fail(f"{method} {url}: {answer[:500]!r}")
    return connection, answer


class Kind:
    """One kind of stream through one process of its own."""

    def __init__(self, name, start, path, lines, body="", before=None):
        self.name, self.start, self.path, self.lines, self.body, self.before = name, start, path, lines, body, before
        self.rounds = []

    def round(self):
        process = self.start()
        lines = [*self.lines, *(self.before(process) if self.before else [])]
        # What comes with the first streams is not theirs: pools, threads, pages of the program.
        warm = [opened(process.url + self.path, lines, self.body)[0] for _ in range(50)]
        at_first, streams, found = process.memory_mb(), list(warm), {}
        for size in SIZES:
            while len(streams) < size:
                streams.append(opened(process.url + self.path, lines, self.body)[0])
            found[size] = (process.memory_mb() - at_first) * 1024 / (size - len(warm))
        for connection in streams:
            connection.close()
        process.stop()
        self.rounds.append(found)


def kinds(scene):
    """Standing streams of MCP clients with sessions, and calls over REST whose answer is a stream."""
    bearer = f"Authorization: Bearer {scene.callers.read_text().split()[0]}"
    listens, counter = ["Accept: text/event-stream"], iter(range(1_000_000))

    def session(process):
        """A session of an older client, who has standing streams."""
        lines = [bearer, "Accept: application/json, text/event-stream"]
        connection, answer = opened(f"{process.url}/native/mcp", lines, mcp.HELLO)
        connection.close()
        id = re.search(rb"(?im)^mcp-session-id: (\S+)", answer)
        if not id:
            fail(f"a session was asked for and none was given: {answer[:500]!r}")
        return [f"Mcp-Session-Id: {id[1].decode()}", "MCP-Protocol-Version: 2025-11-25"]

    def fresh(start):
        return lambda: start(f"idle-{next(counter)}")
    return [
        Kind("gateway, REST", fresh(scene.start_gateway), "/rest/idle", [bearer, *listens], "{}"),
        Kind("gateway, MCP", fresh(scene.start_gateway), "/native/mcp", [bearer, *listens], before=session),
        Kind("noop", fresh(scene.start_noop), "/3/idle", listens, "{}"),
        Kind("nginx", fresh(scene.start_nginx), "/3/idle", listens, "{}"),
    ]


def measure(scene, rounds):
    """The rows, and the lines of a table with everything."""
    all_kinds = kinds(scene)
    for number in range(rounds):
        for kind in all_kinds:
            kind.round()
        say(f"idle streams: round {number + 1} of {rounds}")
    rows = [Row(f"RSS per idle open stream, {size:,} of them, {face}", "≤ 56", "≤ 20",
                [found[size] for found in kind.rounds], " KiB")
            for kind, face in ((all_kinds[0], "REST"), (all_kinds[1], "standing, MCP")) for size in SIZES]
    lines = [[kind.name, *(f"{statistics.median(found[size] for found in kind.rounds):.1f}" for size in SIZES)]
             for kind in all_kinds]
    return rows, lines


DETAILS = ["idle streams", *(f"KiB each, {size:,} of them" for size in SIZES)]
