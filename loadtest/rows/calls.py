"""What does a call cost on each face, for each kind of caller, and beside those who check nothing?"""

import urllib.request

from stage import fail
from rows import mcp
from rows.target import Ratio, Target

# The group, what is measured, what is to be reached, the summit, and of which targets. Throughput unless `cpu` is said.
RATIOS = [
    *(Ratio("rest", f"REST tool call, CPU per call ÷ noop, {connections} connections", "≤ 1.25", "≤ 1.0",
            "REST", "noop", "cpu", connections) for connections in (16, 64, 256)),
    *(Ratio("rest", f"REST tool call, CPU per call ÷ nginx, {connections} connections", "≤ 3.2", "≤ 1.5",
            "REST", "nginx", "cpu", connections) for connections in (16, 64, 256)),
    *(Ratio("rest", f"REST tool call, throughput ÷ noop, {connections} connections", "≥ 0.85", "≥ 1.0",
            "REST", "noop", "per_second", connections) for connections in (16, 64, 256)),
    Ratio("mcp", "MCP `tools/call` on `/{server}/mcp`, CPU per call ÷ nginx", "≤ 3.6", "≤ 1.7",
          "MCP", "nginx, MCP", "cpu"),
    Ratio("mcp", "MCP `tools/call` on `/{server}/mcp` ÷ REST call, throughput", "≥ 0.9", "≥ 1.0",
          "MCP", "REST", "per_second"),
    Ratio("mcp", "`tools/call` on aggregated `/mcp` ÷ REST, throughput", "≥ 0.8", "≥ 0.95",
          "aggregated", "REST", "per_second"),
    Ratio("mcp", "REST→MCP ÷ REST, throughput", "≥ 0.6", "≥ 0.8", "REST→MCP", "REST", "per_second"),
    Ratio("mcp", "MCP→REST ÷ REST, throughput", "≥ 0.6", "≥ 0.8", "MCP→REST", "REST", "per_second"),
    Ratio("callers", "RS256 (Entra) caller seen before ÷ HS256 caller, throughput", "≥ 0.95", "≥ 1.0",
          "RS256", "REST", "per_second"),
    Ratio("callers", "a refused call (403) ÷ a served call, throughput", "≥ 2", "≥ 3", "403", "REST", "per_second"),
    Ratio("documents", "`GET /openapi.json` of 1,000 tools, unchanged ÷ `/health`, throughput", "≥ 0.8", "≥ 0.9",
          "304", "/health", "per_second"),
]

# What is measured without a row of its own, where the REST call is.
BESIDE = ["direct"]


def targets(scene, names):
    """Those that are asked for, by name; what nobody asks for is not started."""
    peer, nginx, callers = scene.peer_url, lambda path: scene.nginx.url + path, scene.callers

    def ours(name, path, tokens=callers, **request):
        return Target(name, scene.gateway, scene.gateway.url + path, tokens, **request)
    # Those that are compared stand together, so that little time is between them.
    made = {
        "direct": lambda name: Target(name, scene.peer, f"{peer}/3/echo", callers),
        "aggregated": lambda name: ours(name, "/mcp", **mcp.call("native_echo")),
        "nginx, MCP": lambda name: Target(name, scene.nginx, nginx("/3/mcp"), callers, **mcp.call("echo")),
        "MCP": lambda name: ours(name, "/native/mcp", **mcp.call("echo")),
        "nginx": lambda name: Target(name, scene.nginx, nginx("/3/echo"), callers),
        "noop": lambda name: Target(name, scene.noop, f"{scene.noop.url}/3/echo", callers),
        "REST": lambda name: ours(name, "/rest/echo"),
        "RS256": lambda name: ours(name, "/rest/echo", scene.entra_callers),
        "403": lambda name: ours(name, "/rest/echo", scene.stranger, status=403, says=b""),
        "REST→MCP": lambda name: ours(name, "/native/echo"),
        "MCP→REST": lambda name: ours(name, "/rest/mcp", **mcp.call("echo")),
        "304": lambda name: unchanged(scene, name),
        "/health": lambda name: ours(name, "/health", None, says=b"", method="GET", body=""),
    }
    return {name: make(name) for name, make in made.items() if name in names}


def unchanged(scene, name):
    """The document of a thousand tools, for somebody who has it."""
    url = f"{scene.gateway.url}/openapi.json"
    bearer = scene.reader.read_text().split()[0]
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Authorization": f"Bearer {bearer}"})) as answer:
        tag, document = answer.headers["ETag"], answer.read()
    if not tag or document.count(b'"operationId"') < 1000:
        fail(f"{url} has no ETag, or not a thousand tools: {answer.headers}")
    return Target(name, scene.gateway, url, scene.reader, status=304, says=b"", method="GET", body="",
                  headers={"If-None-Match": tag})
