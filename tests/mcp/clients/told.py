"""The Python SDK v2 in one session, told what to do line by line: `told.py URL TOKEN`.

`echo WORD`, `ask` and `flip` call the fixture's tools and write the answer, or the error, as a line of JSON;
`{"changed": "tools"}` stands for a notification of the standing stream; `leave` ends the session.
"""

import asyncio
import json
import os
import sys

import httpx2
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp_types import ElicitResult, ToolListChangedNotification

# What stands before the tools' names where several servers are one.
PREFIX = os.environ.get("TOOL_PREFIX", "")


def say(**line):
    print(json.dumps(line), flush=True)


async def answer(_context, _question):
    return ElicitResult(action="accept", content={"name": "Ada"})


async def listen(message):
    if isinstance(message, ToolListChangedNotification):
        say(changed="tools")


async def call(client, tool, **arguments):
    try:
        say(**{tool: (await client.call_tool(PREFIX + tool, arguments)).content[0].text})
    except MCPError as error:
        say(error=str(error))


async def main(url, token):
    # A connection for each request, so that a balancer in front has every one of them to place.
    limits = httpx2.Limits(max_keepalive_connections=0)
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=60, limits=limits) as http:
        transport = streamable_http_client(url, http_client=http)
        async with Client(transport, mode="legacy", elicitation_callback=answer, message_handler=listen) as client:
            say(version=client.protocol_version)
            while (line := (await asyncio.to_thread(sys.stdin.readline)).split()) != ["leave"]:
                match line:
                    case ["echo", word]:
                        await call(client, "echo", message=word)
                    case ["ask"]:
                        await call(client, "ask")
                    case ["flip"]:
                        await call(client, "test_trigger_tool_change")
    say(left=True)


asyncio.run(main(*sys.argv[1:]))
