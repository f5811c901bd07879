"""How much later does an event of a stream arrive because something stands between? One stream at a time, nobody hurries.

The upstream writes into each event when it was sent, by a clock that this process reads too. What the reader takes to wake
up is in all figures alike, and goes out with those of the upstream called directly.
"""

import json
import re
import socket
import statistics
import time
from urllib.parse import urlsplit

from stage import fail, say
from rows import mcp
from rows.row import Row

EVENTS, MICROS = 20, 2000
SENT = re.compile(rb'"(?:sent|progress)":(\d+)')


class Stream:
    """Where streams are asked for, on one connection that is kept, and how late their events were."""

    def __init__(self, name, url, token, headers, body):
        self.name, parts = name, urlsplit(url)
        lines = [f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}", f"Authorization: Bearer {token}",
                 *(f"{key}: {value}" for key, value in headers.items()), f"Content-Length: {len(body)}"]
        self.request = ("\r\n".join(lines) + "\r\n\r\n" + body).encode()
        self.address = (parts.hostname, parts.port)
        self.rounds = []

    def round(self, seconds):
        """Streams one after the other, for so long; microseconds until the first event, and how old the others were."""
        first, later = [], []
        with socket.create_connection(self.address, timeout=30) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.read(connection)
            ends = time.monotonic() + seconds
            while time.monotonic() < ends:
                one, others = self.read(connection)
                first.append(one)
                later += others
        self.rounds.append({"first": statistics.median(first), "later": statistics.median(later),
                            "first p99": worst(first), "later p99": worst(later)})

    def read(self, connection):
        asked = time.monotonic_ns()
        connection.sendall(self.request)
        answer, found, latencies = b"", 0, []
        while not answer.endswith(b"\r\n0\r\n\r\n"):
            piece = connection.recv(65536)
            now = time.monotonic_ns()
            if not piece:
                fail(f"{self.name}: the stream broke off: {answer[-500:]!r}")
            answer += piece
            sent = [int(at) for at in SENT.findall(answer)]
            latencies += [(now - (at if found + place else asked)) / 1000 for place, at in enumerate(sent[found:])]
            found = len(sent)
        if found != EVENTS or not answer.startswith(b"HTTP/1.1 200"):
            fail(f"{self.name}: {found} events instead of {EVENTS}: {answer[:500]!r}")
        return latencies[0], latencies[1:]


def worst(latencies):
    return sorted(latencies)[len(latencies) * 99 // 100]


def streams(scene):
    """Each face, directly and through nginx (which holds nothing back), noop and the gateway."""
    token = scene.callers.read_text().split()[0]
    pace = {"count": EVENTS, "micros": MICROS}
    rest = {"headers": {"Content-Type": "application/json", "Accept": "text/event-stream"}, "body": json.dumps(pace)}
    call = mcp.call("events", pace, progressToken="loadtest")
    made = {}
    for face, request, path, ours in (("REST", rest, "/3/events", "/rest/events"), ("MCP", call, "/3/mcp", "/native/mcp")):
        for name, url in (("direct", scene.peer_url + path), ("nginx", scene.nginx.unbuffered + path),
                          ("noop", scene.noop.url + path), ("gateway", scene.gateway.url + ours)):
            made[face, name] = Stream(f"{name}, {face}", url, token, **request)
    return made


def one_round(all_streams, number, seconds):
    """A round of all of them. Where nginx seems to make events earlier than they were without it, the machine did something
    else meanwhile, and it is measured again."""
    for _ in range(5):
        for stream in list(all_streams.values())[::1 if number % 2 == 0 else -1]:
            stream.round(seconds)
        if all(added(all_streams, face, "nginx", key)[-1] > 0 for face in ("REST", "MCP") for key in ("first", "later")):
            return
        say("events came earlier through nginx than without it: again")
        for stream in all_streams.values():
            stream.rounds.pop()
    fail("events keep coming earlier through nginx than without it: the machine is too busy for this")


def added(all_streams, face, name, key):
    """What stands between adds, round by round."""
    pairs = zip(all_streams[face, name].rounds, all_streams[face, "direct"].rounds)
    return [one[key] - direct[key] for one, direct in pairs]


def measure(scene, rounds, seconds):
    """The rows, and the lines of a table with what each one did by itself."""
    all_streams = streams(scene)
    for number in range(rounds):
        one_round(all_streams, number, seconds)
        say(f"events: round {number + 1} of {rounds}")
    rows = []
    for face in ("REST", "MCP"):
        for key, what in (("first", "first event"), ("later", "each later event")):
            ours, theirs = (added(all_streams, face, name, key) for name in ("gateway", "nginx"))
            rows.append(Row(f"{what} of a stream, {face}: added time ÷ nginx's", "≤ 1.5", "≤ 1.0",
                            [one / other for one, other in zip(ours, theirs)]))
    lines = [[stream.name, *(f"{statistics.median(found[key] for found in stream.rounds):.0f}"
                             for key in ("first", "first p99", "later", "later p99"))] for stream in all_streams.values()]
    return rows, lines


DETAILS = ["stream", "first event, µs", "its p99", "later events, µs", "their p99"]
