"""How many calls does something take, and what CPU does each cost it? Targets take turns, and ratios stay in a round."""

import statistics
import urllib.error
import urllib.request

from stage import fail, median, say, wrk

# Every tool answers with so many bytes at least, and nothing else does.
TOOL_ANSWER = 1000
# Threads that write the audit's rows, as the gateway names them, and sqlx.
AUDIT = ["audit", "sqlite"]


class Target:
    """Something that requests are sent to.

    `process` is the one whose CPU is counted. `status` is what each request must be answered with, and `says` what must
    be in the answer, which is short where it is empty; `request` goes to `wrk`.
    """

    def __init__(self, name, process, url, tokens=None, status=200, says=b"xxxxxxxx", **request):
        self.name, self.process, self.url, self.tokens = name, process, url, tokens
        self.status, self.says, self.request = status, says, request
        # Each request of a caller leaves a row; pages for anybody leave none.
        self.is_audited = bool(tokens) and hasattr(process, "ops")
        self.rounds = {}

    def check(self):
        """Sends one request and looks at the answer: wrk sees statuses alone, and of these only whether they are errors."""
        request = self.request
        headers = {"Content-Type": "application/json", "Accept": "*/*", **request.get("headers", {})}
        if self.tokens:
            headers["Authorization"] = f"Bearer {self.tokens.read_text().split()[0]}"
        body = request.get("body", '{"text":"hello from the load test"}').encode() or None
        asked = urllib.request.Request(self.url, body, headers, method=request.get("method", "POST"))
        try:
            with urllib.request.urlopen(asked, timeout=30) as answer:
                status, said = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, said = error.code, error.read()
        if status != self.status or self.says not in said or b'"isError":true' in said:
            fail(f"{self.name}: {self.url} answers {status} {said[:500]!r}: not what was to be measured")

    def round(self, connections, seconds):
        """One round. What it leaves to be done (the audit's rows) is done, and its CPU counted, before the next begins."""
        self.check()
        rows = self.settled()
        before, audit_before = self.process.cpu_seconds(), self.process.cpu_seconds_of(AUDIT)
        found = wrk(self.url, connections, seconds, self.tokens, **self.request)
        self.settled(rows + found["requests"] if self.is_audited else 0)
        found["cpu"] = (self.process.cpu_seconds() - before) / found["requests"] * 1e6
        found["audit"] = (self.process.cpu_seconds_of(AUDIT) - audit_before) / found["requests"] * 1e6
        found["time"] = 1e6 / found["per_second"]
        refused = found["requests"] if self.status >= 400 else 0
        is_whole = found["bytes"] >= TOOL_ANSWER * found["requests"]
        if found["refused"] != refused or found["broken"] or is_whole != (self.says != b""):
            fail(f"{self.name}: {found}: these are not the answers that were to be measured")
        self.rounds.setdefault(connections, []).append(found)

    def settled(self, rows=0):
        """How many rows the audit has, once none is underway; 0 where there is no audit."""
        return self.process.settle(rows) if hasattr(self.process, "ops") else 0


class Ratio:
    """What a row asks for: `key` of one target by that of another, in rounds of so many connections."""

    def __init__(self, group, what, target, summit, over, under, key, connections=64):
        self.group, self.what, self.target, self.summit = group, what, target, summit
        self.over, self.under, self.key, self.connections = over, under, key, connections

    def values(self, targets):
        pairs = zip(targets[self.over].rounds[self.connections], targets[self.under].rounds[self.connections])
        return [one[self.key] / other[self.key] for one, other in pairs]


def take_turns(targets, ratios, beside, rounds, seconds):
    """Rounds of every target that a ratio asks for, and of those `beside` at 64 connections: in turn, forwards and
    backwards, so that what else the machine does falls on all alike."""
    asked = {(ratio.connections, name) for ratio in ratios for name in (ratio.over, ratio.under)}
    asked = sorted(asked | {(64, name) for name in beside},
                   key=lambda one: (one[0], list(targets).index(one[1])))
    # Warm, and known to answer, before anything counts.
    for name in dict.fromkeys(name for _, name in asked):
        targets[name].round(16, 1)
        targets[name].rounds.clear()
    for number in range(rounds):
        for connections, name in asked if number % 2 == 0 else asked[::-1]:
            targets[name].round(connections, seconds)
        say(f"calls: round {number + 1} of {rounds}")


def details(targets, connections):
    """What each target did by itself, as lines of a table."""
    lines = []
    for target in targets.values():
        if rounds := target.rounds.get(connections):
            rates = [found["per_second"] for found in rounds]
            audit = median(rounds, "audit")
            lines.append([
                target.name, f"{statistics.median(rates):,.0f}", f"{min(rates):,.0f}–{max(rates):,.0f}",
                f"{median(rounds, 'p50'):.2f}", f"{median(rounds, 'p99'):.1f}", f"{median(rounds, 'cpu'):.1f}",
                f"{audit:.1f}" if target.is_audited else "–", f"{target.process.memory_mb('VmHWM'):.0f}"])
    return lines


DETAILS = ["target", "calls/s", "from–to", "p50 ms", "p99 ms", "CPU µs a call", "of it the audit's rows", "peak MiB"]
