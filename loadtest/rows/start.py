"""How long after its start does a gateway with 100 servers, whose tools it has never seen, take a call?"""

import socket
import sqlite3
import subprocess
import time
from urllib.parse import urlsplit

from stage import fail, say
from rows.row import Row
from rows.scene import CALLERS

SERVERS, DEADLINE = 100, 60


def first_call(process, place, path, token):
    """Asks until a call is answered with 200; milliseconds since `began`."""
    parts = urlsplit(place.url)
    body = '{"text":"ready?"}'
    request = (f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {token}\r\n"
               f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}").encode()
    said = b""
    ends = time.monotonic() + DEADLINE
    while time.monotonic() < ends:
        try:
            with socket.create_connection((parts.hostname, parts.port), timeout=DEADLINE) as connection:
                connection.sendall(request)
                said = connection.recv(65536)
        except ConnectionError:
            # Nobody listens yet.
            if process.popen.poll() is not None:
                fail(f"the gateway ended: {process.written()[-2000:]}")
        if said.startswith(b"HTTP/1.1 200"):
            return time.monotonic()
        time.sleep(0.0005)
    fail(f"no call was accepted within {DEADLINE} s: {said[:500]!r}: {process.written()[-2000:]}")


def measure(scene, times):
    """The row, and what was started."""
    stage = scene.stage
    database = stage.folder / "start.db"
    servers = {f"server-{number}": f"{scene.peer_url}/3" for number in range(SERVERS)}
    place = stage.place("start", scene.programs.gateway, f"sqlite:{database}", servers)
    with sqlite3.connect(database) as connection:
        connection.executemany("INSERT INTO user_tenant_access (user_email, tenant_id) VALUES (?, ?)",
                               [(CALLERS[0], server) for server in servers])
    connection.close()
    place.command("check")
    token = scene.callers.read_text().split()[0]
    found = []
    for number in range(times):
        server = f"server-{number * 37 % SERVERS}"
        began = time.monotonic()
        process = stage.start(f"start-{number}", [place.program, "run", "--config", place.folder], **place.environment)
        found.append((first_call(process, place, f"/{server}/echo", token) - began) * 1000)
        process.stop()
    say(f"start: {times} starts")
    version = subprocess.run([place.program, "--version"], capture_output=True, text=True).stdout.strip()
    said = f"started: {place.program} ({version}), whose `check` finds nothing wrong with the configuration, {times} times"
    row = Row(f"start to first accepted call, {SERVERS} servers, tool lists cold", "≤ 200", "≤ 50", found, " ms")
    return [row], said
