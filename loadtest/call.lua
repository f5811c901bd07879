-- One tool call after another, for wrk: POST with a session token, the latencies as one line a program can read.
--
--   TOKENS=FILE wrk -t1 -c16 -d3s -s call.lua http://127.0.0.1:8000/native/echo
--
-- FILE holds one token a line; they are used in turn. Without TOKENS no credential is sent.

local calls, at = {}, 0

function init()
  local headers = { ["Content-Type"] = "application/json", ["Accept"] = "*/*" }
  local body = '{"text":"hello from the load test"}'
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
