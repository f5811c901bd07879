"""Draws the dashboard in conf/grafana from what Prometheus answers: see scripts/draw-dashboard."""

import io
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from datetime import datetime

import matplotlib

matplotlib.use("Agg")
import matplotlib.dates
import matplotlib.pyplot as plt
from PIL import Image

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
HTTP, OPS, WEB = 18700, 18701, 18702
SERVERS = {"notes": 18711, "search": 18712, "calendar": 18713}
SECRET = "a-secret-of-nobody-0123456789abcdef"
STEP = 2


def write_files(folder):
    def path(name):
        return os.path.join(folder, name)

    with open(path("gateway.toml"), "w") as file:
        file.write(f'[listen]\nhttp = "127.0.0.1:{HTTP}"\nops = "127.0.0.1:{OPS}"\n')
        file.write(f'[database]\nurl = "sqlite:{path("grants.db")}"\n[auth.openwebui]\nsecret = "{SECRET}"\n')
        file.write('[limits]\ncalls_per_caller = "6000/min"\n[log]\naccess = false\n')
    with open(path("servers.toml"), "w") as file:
        for name, port in SERVERS.items():
            file.write(f'[servers.{name}]\nname = "{name.title()}"\ntier = "local"\nurl = "http://127.0.0.1:{port}"\n')
            file.write(f'enabled = true\ndescription = "{name}"\n')
    with open(path("prometheus.yml"), "w") as file:
        json.dump({
            "global": {"scrape_interval": f"{STEP}s", "scrape_timeout": "1s", "evaluation_interval": f"{STEP}s"},
            "rule_files": [os.path.join(ROOT, "conf/prometheus/alerts.yml")],
            "scrape_configs": [{"job_name": "portcullis", "static_configs": [{"targets": [f"127.0.0.1:{OPS}"]}]}],
        }, file)


def fetch(url, body=None, token=None):
    """The status of a request, whatever it is."""
    request = urllib.request.Request(url, data=body, method="GET" if body is None else "POST")
    request.add_header("Content-Type", "application/json")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            answer.read()
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def await_ok(url):
    for _ in range(200):
        if fetch(url) == 200:
            return
        time.sleep(0.1)
    sys.exit(f"nothing answers at {url}")


def load(tokens, is_over):
    """One client that does what clients do, good and bad."""
    dice = random.Random(threading.get_ident())
    while not is_over.is_set():
        server, tool, body = dice.choice(list(SERVERS)), "echo", {"text": "hello"}
        token, draw = tokens[0], dice.random()
        if draw < 0.12:
            tool, body = "slow", {"seconds": dice.choice([0.05, 0.2, 0.8])}
        elif draw < 0.20:
            tool, body = "add", {"a": 1, "b": 2}
        elif draw < 0.26:
            tool, body = "fail", {}
        elif draw < 0.29:
            tool, body = "stream", {"count": 3, "interval_millis": 300}
        elif draw < 0.31:
            tool = "nothing"
        elif draw < 0.33:
            token = tokens[1]
        elif draw < 0.35:
            token = "nobody.believes.this"
        fetch(f"http://127.0.0.1:{HTTP}/{server}/{tool}", json.dumps(body).encode(), token)
        time.sleep(dice.expovariate(12))


def run(program, minutes, folder):
    """A gateway under load, in which one server dies and comes back; gives the time it began."""
    def portcullis(*arguments):
        return subprocess.run([program, *arguments, "--config", folder], check=True, cwd=folder, capture_output=True, text=True).stdout

    def start(*command):
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        started.append(process)
        return process

    started = []
    try:
        peers = {name: start(program, "sample", "--listen", f"127.0.0.1:{port}") for name, port in SERVERS.items()}
        for name in SERVERS:
            portcullis("grant", "--user", "alice@example.com", name)
        tokens = [portcullis("token", "--email", f"{who}@example.com").strip() for who in ("alice", "bob")]
        start(program, "run", "--config", folder)
        await_ok(f"http://127.0.0.1:{OPS}/health/ready")
        start(os.environ["PROMETHEUS"], f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
              f"--web.listen-address=127.0.0.1:{WEB}", "--log.level=error")
        await_ok(f"http://127.0.0.1:{WEB}/-/ready")
        began, is_over = time.time(), threading.Event()
        clients = [threading.Thread(target=load, args=(tokens, is_over), daemon=True) for _ in range(8)]
        for client in clients:
            client.start()
        time.sleep(minutes * 60 * 0.45)
        peers["calendar"].kill()
        time.sleep(minutes * 60 * 0.2)
        start(program, "sample", "--listen", f"127.0.0.1:{SERVERS['calendar']}")
        time.sleep(minutes * 60 * 0.35)
        is_over.set()
        draw(began + 20, time.time() - 2)
    finally:
        for process in started:
            process.kill()


def ask(path, **query):
    url = f"http://127.0.0.1:{WEB}/api/v1/{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)["data"]["result"]


def expression(target):
    text = target["expr"].replace("$__rate_interval", f"{STEP * 10}s").replace("[5m]", "[1m]").replace("[1h]", "[5m]")
    return re.sub(r"\$(job|instance|server)", ".*", text)


def legend(target, labels):
    return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), target["legendFormat"]) or target["refId"]


def said(value, unit):
    if unit == "percentunit":
        return f"{100 * value:.1f} %"
    if unit == "s":
        return f"{1000 * value:.1f} ms" if value < 1 else f"{value:.1f} s"
    return f"{value:.0f}"


def draw_stat(axes, panel):
    defaults, results = panel["fieldConfig"]["defaults"], ask("query", query=expression(panel["targets"][0]))
    value = float(results[0]["value"][1]) if results else float("nan")
    text, color = said(value, defaults["unit"]) if results else "none", "#4c8c4a"
    for step in defaults.get("thresholds", {}).get("steps", []):
        if step["value"] is None or value >= step["value"]:
            color = {"green": "#4c8c4a", "orange": "#c77700", "red": "#b3261e"}[step["color"]]
    for mapping in defaults.get("mappings", []):
        option = mapping["options"].get(f"{value:.0f}" if results else "")
        if option:
            text, color = option["text"], {"green": "#4c8c4a", "red": "#b3261e"}[option["color"]]
    axes.set_facecolor(color)
    axes.text(0.5, 0.45, text, ha="center", va="center", color="white", fontsize=13, transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])


def draw_lines(axes, panel, since, until):
    unit, lines = panel["fieldConfig"]["defaults"]["unit"], []
    for target in panel["targets"]:
        for result in ask("query_range", query=expression(target), start=since, end=until, step=STEP):
            points = [(datetime.fromtimestamp(at), float(value)) for at, value in result["values"]]
            if any(value != 0 for _, value in points):
                lines.append((legend(target, result["metric"]), points))
    for name, points in lines[:12]:
        axes.plot([at for at, _ in points], [value for _, value in points], linewidth=1, label=name)
    if lines:
        axes.legend(fontsize=5, loc="upper left", ncols=2, frameon=False)
    else:
        axes.text(0.5, 0.5, "nothing", ha="center", va="center", color="grey", fontsize=7, transform=axes.transAxes)
    axes.set_xlim(datetime.fromtimestamp(since), datetime.fromtimestamp(until))
    axes.set_ylim(0, 1.3 * max([value for _, points in lines for _, value in points], default=1))
    axes.xaxis.set_major_formatter(matplotlib.dates.DateFormatter("%H:%M"))
    axes.xaxis.set_major_locator(matplotlib.dates.MinuteLocator(interval=max(1, round((until - since) / 240))))
    axes.yaxis.set_major_formatter(lambda value, _: said(value, unit) if unit in ("percentunit", "s") else f"{value:g}")
    axes.grid(alpha=0.25)


def draw_table(axes, panel):
    rows = [([value for name, value in sorted(result["metric"].items())], float(result["value"][1]))
            for result in ask("query", query=expression(panel["targets"][0]))]
    rows.sort(key=lambda row: -row[1])
    for number, (labels, value) in enumerate(rows[:8]):
        axes.text(0.02, 0.92 - number * 0.115, "  ".join(labels), fontsize=6, va="top", transform=axes.transAxes)
        axes.text(0.98, 0.92 - number * 0.115, said(value, panel["fieldConfig"]["defaults"]["unit"]), fontsize=6, va="top", ha="right", transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])


def draw(since, until):
    with open(os.path.join(ROOT, "conf/grafana/portcullis.json")) as file:
        panels = json.load(file)["panels"]
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = plt.figure(figsize=(14, height * 0.23), facecolor="white")
    for panel in panels:
        at = panel["gridPos"]
        if panel["type"] == "row":
            figure.text(0.012, 1 - (at["y"] + 0.75) / height, panel["title"], fontsize=10, fontweight="bold")
            continue
        left, top = (at["x"] + 0.8) / 24, 1 - (at["y"] + 1.1) / height
        axes = figure.add_axes((left, top - (at["h"] - 2.2) / height, (at["w"] - 1.1) / 24, (at["h"] - 2.2) / height))
        axes.set_title(panel["title"], fontsize=7, loc="left", pad=2)
        axes.tick_params(labelsize=5)
        for edge in axes.spines.values():
            edge.set_color("#cccccc")
        if panel["type"] == "stat":
            draw_stat(axes, panel)
        elif panel["type"] == "table":
            draw_table(axes, panel)
        else:
            draw_lines(axes, panel, since, until)
    place = os.path.join(ROOT, "conf/grafana/portcullis.png")
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100)
    # It is kept in the repository: a few colours are enough.
    Image.open(drawn).convert("RGB").quantize(48).save(place, optimize=True)
    print(f"drew {place}, {os.path.getsize(place) // 1024} KiB")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        write_files(scratch)
        run(sys.argv[1], float(sys.argv[2]), scratch)
