"""The Python SDK v1 signs its user in and calls a tool: `login_python_v1.py URL`; one line of JSON at the end."""

import asyncio
import json
import sys

from login import METADATA, Store, visit
from mcp import ClientSession
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamablehttp_client
from mcp.shared.auth import OAuthClientMetadata


async def echo(url, provider, message):
    async with streamablehttp_client(url, auth=provider) as streams:
        async with ClientSession(streams[0], streams[1]) as session:
            await session.initialize()
            return (await session.call_tool("echo", {"message": message})).content[0].text


async def main(url):
    store, back = Store(), {}

    async def send(address):
        back.update(await asyncio.to_thread(visit, address))

    async def wait():
        return back["code"], back.get("state")

    metadata = OAuthClientMetadata(**METADATA)
    provider = OAuthClientProvider(url, metadata, store, redirect_handler=send, callback_handler=wait)
    said = await echo(url, provider, "hi")
    provider.context.token_expiry_time = 1
    renewed = await echo(url, provider, "again")
    print(json.dumps({"echo": said, "renewed": renewed, "scope": store.tokens.scope}))


asyncio.run(main(*sys.argv[1:]))
