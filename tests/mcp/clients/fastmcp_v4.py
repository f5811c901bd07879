"""FastMCP as a client: `fastmcp_v4.py URL TOKEN [auto|legacy|2026-07-28]`; one line of JSON at the end."""

import asyncio
import json
import os
import sys

from fastmcp import Client
from fastmcp.client.transports import StreamableHttpTransport

# What stands before the tools' names where several servers are one.
PREFIX = os.environ.get("TOOL_PREFIX", "")


async def answer(_message, _type, _parameters, _context):
    return {"name": "Ada"}


async def main(url, token, mode="auto"):
    said = {}
    transport = StreamableHttpTransport(url, headers={"Authorization": f"Bearer {token}"})
    async with Client(transport, mode=mode, elicitation_handler=answer) as client:
        said["tools"] = len(await client.list_tools())
        said["echo"] = (await client.call_tool(PREFIX + "echo", {"message": "hi"})).content[0].text
        seen = []

        async def note(progress, _total, _message):
            seen.append(int(progress))

        await client.call_tool(PREFIX + "slow", {"ms": 300, "step": 100}, progress_handler=note)
        said["progress"] = seen
        said["ask"] = (await client.call_tool(PREFIX + "ask", {})).content[0].text
        began = asyncio.Event()

        async def begin(_progress, _total, _message):
            began.set()

        call = asyncio.create_task(client.call_tool(PREFIX + "slow", {"ms": 60000, "step": 50}, progress_handler=begin))
        await began.wait()
        call.cancel()
        said["cancelled"] = isinstance((await asyncio.gather(call, return_exceptions=True))[0], asyncio.CancelledError)
        said["after"] = (await client.call_tool(PREFIX + "echo", {"message": "again"})).content[0].text
    print(json.dumps(said))


asyncio.run(main(*sys.argv[1:]))
