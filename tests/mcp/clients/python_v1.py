"""The Python SDK v1 as a client: `python_v1.py URL TOKEN [http|sse] [STEPS]`; one line of JSON at the end."""

import asyncio
import json
import os
import sys

from mcp import ClientSession, types
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamablehttp_client

# What stands before the tools' names where several servers are one.
PREFIX = os.environ.get("TOOL_PREFIX", "")


async def answer(_context, _question):
    return types.ElicitResult(action="accept", content={"name": "Ada"})


async def cancelled(session):
    """Begins a call and, as this SDK leaves it to its user, tells the server that it is cancelled."""
    began = asyncio.Event()

    async def begin(_progress, _total, _message):
        began.set()

    number = session._request_id
    call = asyncio.create_task(session.call_tool(PREFIX + "slow", {"ms": 60000, "step": 50}, progress_callback=begin))
    await began.wait()
    parameters = types.CancelledNotificationParams(requestId=number, reason="enough")
    await session.send_notification(types.ClientNotification(types.CancelledNotification(params=parameters)))
    call.cancel()
    return isinstance((await asyncio.gather(call, return_exceptions=True))[0], asyncio.CancelledError)


async def main(url, token, kind="http", steps="list,echo,progress,ask,cancel"):
    said = {}
    steps = steps.split(",")
    connect = streamablehttp_client if kind == "http" else sse_client
    async with connect(url, headers={"Authorization": f"Bearer {token}"}) as streams:
        async with ClientSession(streams[0], streams[1], elicitation_callback=answer) as session:
            said["version"] = (await session.initialize()).protocolVersion
            if "list" in steps:
                said["tools"] = len((await session.list_tools()).tools)
            if "echo" in steps:
                said["echo"] = (await session.call_tool(PREFIX + "echo", {"message": "hi"})).content[0].text
            if "progress" in steps:
                seen = []

                async def note(progress, _total, _message):
                    seen.append(int(progress))

                await session.call_tool(PREFIX + "slow", {"ms": 300, "step": 100}, progress_callback=note)
                said["progress"] = seen
            if "ask" in steps:
                said["ask"] = (await session.call_tool(PREFIX + "ask", {})).content[0].text
            if "cancel" in steps:
                said["cancelled"] = await cancelled(session)
                said["after"] = (await session.call_tool(PREFIX + "echo", {"message": "again"})).content[0].text
    print(json.dumps(said))


asyncio.run(main(*sys.argv[1:]))
