"""What stands there while the rows are measured: one upstream, and in front of it nginx, noop and the gateway."""

import os
import re
import subprocess
from functools import cached_property
from itertools import product
from pathlib import Path

from rows.entra import Authority

# People with a grant for everything that is called, and one with none.
CALLERS = [f"caller{number}@example.com" for number in range(16)]
STRANGER = "stranger@example.com"
# Who may use the server with a thousand tools, and nothing else.
READER = "reader@example.com"
# How `servers.toml` says that a server speaks MCP, or REST.
MCP, REST = 'tier = "local"\ndialect = "mcp"', 'tier = "local"'


class Programs:
    """Where the programs are."""

    def __init__(self, folder):
        self.gateway, self.noop, self.peer = (Path(folder) / name for name in ("portcullis", "noop", "peer"))


class Scene:
    """Everything is started when it is first asked for, and stays."""

    def __init__(self, stage, programs, postgres=None):
        """`postgres` is the URL of a server where databases may be made; without one each gateway has SQLite."""
        self.stage, self.programs, self.postgres = stage, programs, postgres
        self.databases = []
        self.peer_url, self.peer = stage.peer(programs.peer)
        self.callers = stage.tokens("callers", CALLERS)
        self.stranger = stage.tokens("stranger", [STRANGER])
        self.reader = stage.tokens("reader", [READER])

    def address(self):
        return self.peer_url.removeprefix("http://")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for database in self.databases:
            self.psql(f"DROP DATABASE {database} WITH (FORCE)")

    def psql(self, statement):
        psql = Path(os.environ["PORTCULLIS_TEST_PG_BIN"]) / "psql"
        subprocess.run([psql, "-qX", "-v", "ON_ERROR_STOP=1", "-c", statement, self.postgres], check=True)

    def database(self, name):
        """The URL of a database of its own."""
        if not self.postgres:
            return f"sqlite:{self.stage.folder}/{name}.db"
        database = f"portcullis_loadtest_{os.getpid()}_{name.replace('-', '_')}"
        self.psql(f"CREATE DATABASE {database}")
        self.databases.append(database)
        return re.sub(r"/[^/?]*(?=$|\?)", f"/{database}", self.postgres)

    @cached_property
    def authority(self):
        return Authority(self.stage)

    def start_nginx(self, name):
        """nginx as a bare proxy. On its second address nothing is held back: for streams."""
        plain, unbuffered = self.stage.port(), self.stage.port()
        proxy = 'proxy_pass http://peer; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_read_timeout 600s;'
        process = self.stage.nginx(name, f"""
            upstream peer {{ server {self.address()}; keepalive 512; keepalive_requests 1000000000; }}
            server {{ listen 127.0.0.1:{plain} backlog=4096; location / {{ {proxy} }} }}
            server {{ listen 127.0.0.1:{unbuffered} backlog=4096; location / {{ {proxy} proxy_buffering off; }} }}""",
                                   connections=16384)
        process.url, process.unbuffered = f"http://127.0.0.1:{plain}", f"http://127.0.0.1:{unbuffered}"
        self.stage.await_answer(process, f"{process.url}/1/openapi.json")
        return process

    def start_noop(self, name):
        port = self.stage.port()
        process = self.stage.start(name, [self.programs.noop, f"127.0.0.1:{port}", self.address()])
        process.url = f"http://127.0.0.1:{port}"
        self.stage.await_answer(process, f"{process.url}/1/openapi.json")
        return process

    def start_gateway(self, name):
        """A server of each kind in front of the same tools, and one with a thousand."""
        place = self.stage.place(
            name, self.programs.gateway, self.database(name),
            {"rest": f"{self.peer_url}/3", "native": f"{self.peer_url}/3/mcp", "thousand": f"{self.peer_url}/1000"},
            self.authority.configuration(), own_keys={"native": MCP})
        for email, server in [*product(CALLERS, ("rest", "native")), (READER, "thousand")]:
            place.command("grant", "--user", email, server)
        process = self.stage.run(place, name)
        for server, tokens in (("rest", self.callers), ("native", self.callers), ("thousand", self.reader)):
            self.stage.await_call(process, f"{process.url}/{server}/echo", tokens.read_text().split()[0])
        return process

    @cached_property
    def entra_callers(self):
        """Tokens of the same people, signed by the authority."""
        return self.authority.tokens("entra-callers", CALLERS)

    @cached_property
    def nginx(self):
        return self.start_nginx("nginx")

    @cached_property
    def noop(self):
        return self.start_noop("noop")

    @cached_property
    def gateway(self):
        return self.start_gateway("gateway")
