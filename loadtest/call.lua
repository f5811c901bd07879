-- One tool call after another, for wrk: POST with a session token, the latencies as one line a program can read.
--
--   TOKENS=FILE wrk -t1 -c16 -d3s -s call.lua http://127.0.0.1:8000/native/echo
--
-- FILE holds one token a line; they are used in turn. Without TOKENS no credential is sent. With MCP=1 the call is a
-- `tools/call` of MCP 2026-07-28, for a URL that ends in /mcp.

local calls, at = {}, 0

function init()
  local headers = { ["Content-Type"] = "application/json", ["Accept"] = "*/*" }
  local body = '{"text":"hello from the load test"}'
  if os.getenv("MCP") then
    headers["Accept"] = "application/json, text/event-stream"
    headers["MCP-Protocol-Version"] = "2026-07-28"
    headers["Mcp-Method"] = "tools/call"
    headers["Mcp-Name"] = "echo"
    body = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":' .. body ..
      ',"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",' ..
      '"io.modelcontextprotocol/clientInfo":{"name":"loadtest","version":"1"},' ..
      '"io.modelcontextprotocol/clientCapabilities":{}}}}'
  end
  local file = os.getenv("TOKENS")
  if not file then
    calls[1] = wrk.format("POST", nil, headers, body)
    return
  end
  for token in io.lines(file) do
    headers["Authorization"] = "Bearer " .. token
    calls[#calls + 1] = wrk.format("POST", nil, headers, body)
  end
end

function request()
  at = at % #calls + 1
  return calls[at]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    "RESULT requests=%d micros=%d p50=%d p99=%d max=%d refused=%d broken=%d\n",
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency.max,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
