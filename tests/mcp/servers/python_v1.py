"""A server on the Python SDK v1 (revisions to 2025-11-25): `python_v1.py PORT [--stateless] [--json] [--sse]`."""

import asyncio
import sys

from mcp.server.fastmcp import Context, FastMCP

port, *options = sys.argv[1:]
app = FastMCP(
    "python-v1",
    host="127.0.0.1",
    port=int(port),
    stateless_http="--stateless" in options,
    json_response="--json" in options,
)


@app.tool()
def echo(message: str) -> str:
    """Returns its argument"""
    return message


@app.tool()
async def slow(ctx: Context, ms: int = 300, step: int = 100) -> str:
    """Sleeps, reporting progress"""
    for elapsed in range(0, ms, step):
        await ctx.report_progress(elapsed, ms)
        await asyncio.sleep(step / 1000)
    return f"slept {ms}"


app.run("sse" if "--sse" in options else "streamable-http")
