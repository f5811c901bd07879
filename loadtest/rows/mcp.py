"""Messages of MCP 2026-07-28, as clients write them."""

import json

VERSION = "2026-07-28"


def call(name, arguments=None, **meta):
    """What is sent for a `tools/call`: the headers and the body."""
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream",
               "MCP-Protocol-Version": VERSION, "Mcp-Method": "tools/call", "Mcp-Name": name}
    prefix = "io.modelcontextprotocol/"
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
        "name": name, "arguments": arguments or {"text": "hello from the load test"},
        "_meta": {f"{prefix}protocolVersion": VERSION, f"{prefix}clientInfo": {"name": "loadtest", "version": "1"},
                  f"{prefix}clientCapabilities": {}, **meta}}}
    return {"headers": headers, "body": json.dumps(message, separators=(",", ":"))}


# The greeting of a client of an older revision.
HELLO = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
    "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "loadtest", "version": "1"}}})
