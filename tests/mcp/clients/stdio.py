"""Any stdio MCP server, driven by hand: `stdio.py COMMAND ARGUMENTS…`; one line of JSON at the end."""

import json
import os
import subprocess
import sys

# What stands before the tools' names where several servers are one.
PREFIX = os.environ.get("TOOL_PREFIX", "")

server = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def send(message):
    server.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    server.stdin.flush()


def ask(number, method, parameters):
    send({"id": number, "method": method, "params": parameters})
    for line in server.stdout:
        message = json.loads(line)
        if message.get("id") == number:
            return message["result"]
    sys.exit(f"{sys.argv[1]} ended without an answer to {method}")


hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "stdio", "version": "1"}}
said = {"version": ask(1, "initialize", hello)["protocolVersion"]}
send({"method": "notifications/initialized"})
said["tools"] = len(ask(2, "tools/list", {})["tools"])
said["echo"] = ask(3, "tools/call", {"name": PREFIX + "echo", "arguments": {"message": "hi"}})["content"][0]["text"]
server.stdin.close()
server.wait(20)
print(json.dumps(said))
