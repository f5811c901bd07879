"""FastMCP signs its user in and calls a tool: `login_fastmcp_v4.py URL`; one line of JSON at the end.

It waits on a port of its own and opens the browser that `BROWSER` names: here one that follows redirects, beside it: the
client waits for no answer of it, and listens only after it was sent.
"""

import asyncio
import json
import os
import sys

os.environ["BROWSER"] = "curl --silent --location --retry 10 --retry-connrefused --noproxy * --output /dev/null %s &"

from fastmcp import Client  # noqa: E402


async def main(url):
    async with Client(url, auth="oauth") as client:
        echo = (await client.call_tool("echo", {"message": "hi"})).content[0].text
    print(json.dumps({"echo": echo}))


asyncio.run(main(*sys.argv[1:]))
