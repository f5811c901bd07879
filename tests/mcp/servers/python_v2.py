"""A server on the Python SDK v2 (every revision since 2025-03-26): `python_v2.py PORT [--stateless] [--json]`."""

import sys

import anyio
from mcp.server import MCPServer
from mcp.server.mcpserver import Context

port, *options = sys.argv[1:]
app = MCPServer("python-v2")


@app.tool()
def echo(message: str) -> str:
    """Returns its argument"""
    return message


@app.tool()
async def slow(ctx: Context, ms: int = 300, step: int = 100) -> str:
    """Sleeps, reporting progress"""
    for elapsed in range(0, ms, step):
        await ctx.report_progress(elapsed, ms)
        await anyio.sleep(step / 1000)
    return f"slept {ms}"


app.run(
    "streamable-http",
    host="127.0.0.1",
    port=int(port),
    stateless_http="--stateless" in options,
    json_response="--json" in options,
)
