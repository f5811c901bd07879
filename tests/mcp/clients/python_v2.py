"""The Python SDK v2 as a client: `python_v2.py URL TOKEN [auto|legacy|2026-07-28] [STEPS]`; one line of JSON at the end."""

import asyncio
import json
import os
import sys

import anyio
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import ElicitResult

# What stands before the tools' names where several servers are one.
PREFIX = os.environ.get("TOOL_PREFIX", "")


async def answer(_context, _question):
    return ElicitResult(action="accept", content={"name": "Ada"})


async def main(url, token, mode="auto", steps="list,echo,progress,ask,cancel"):
    said = {}
    steps = steps.split(",")
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=60) as http:
        transport = streamable_http_client(url, http_client=http)
        async with Client(transport, mode=mode, elicitation_callback=answer) as client:
            said["version"] = client.protocol_version
            if "list" in steps:
                said["tools"] = len((await client.list_tools()).tools)
            if "echo" in steps:
                said["echo"] = (await client.call_tool(PREFIX + "echo", {"message": "hi"})).content[0].text
            if "progress" in steps:
                seen = []

                async def note(progress, _total, _message):
                    seen.append(int(progress))

                await client.call_tool(PREFIX + "slow", {"ms": 300, "step": 100}, progress_callback=note)
                said["progress"] = seen
            if "ask" in steps:
                said["ask"] = (await client.call_tool(PREFIX + "ask", {})).content[0].text
            if "cancel" in steps:
                with anyio.CancelScope() as scope:

                    async def leave(_progress, _total, _message):
                        scope.cancel()

                    await client.call_tool(PREFIX + "slow", {"ms": 60000, "step": 50}, progress_callback=leave)
                said["cancelled"] = scope.cancelled_caught
                said["after"] = (await client.call_tool(PREFIX + "echo", {"message": "again"})).content[0].text
    print(json.dumps(said))


asyncio.run(main(*sys.argv[1:]))
