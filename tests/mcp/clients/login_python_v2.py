"""The Python SDK v2 signs its user in and calls a tool: `login_python_v2.py URL [TOKEN]`; one line of JSON at the end.

With a token, which may not be good enough, that is what it has from before.
"""

import asyncio
import json
import sys

import httpx2
from login import METADATA, Store, visit
from mcp import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientMetadata, OAuthToken


async def main(url, token=None):
    store, back = Store(), {}
    if token:
        store.tokens = OAuthToken(access_token=token, token_type="Bearer")

    async def send(address):
        back.update(await asyncio.to_thread(visit, address))

    async def wait():
        return AuthorizationCodeResult(code=back["code"], state=back.get("state"), iss=back.get("iss"))

    metadata = OAuthClientMetadata(**METADATA)
    provider = OAuthClientProvider(url, metadata, store, redirect_handler=send, callback_handler=wait)
    async with httpx2.AsyncClient(auth=provider, timeout=60) as http:
        async with Client(streamable_http_client(url, http_client=http)) as client:
            echo = (await client.call_tool("echo", {"message": "hi"})).content[0].text
        store.tokens.expires_in = provider.context.token_expiry_time = 1
        async with Client(streamable_http_client(url, http_client=http)) as client:
            renewed = (await client.call_tool("echo", {"message": "again"})).content[0].text
    print(json.dumps({"echo": echo, "renewed": renewed, "scope": store.tokens.scope}))


asyncio.run(main(*sys.argv[1:]))
