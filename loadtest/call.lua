-- One request after another, for wrk: what was counted comes as one line that a program can read.
--
--   TOKENS=FILE wrk -t1 -c16 -d3s -s call.lua http://127.0.0.1:8000/native/echo
--
-- The environment says what is sent (`wrk` in `stage.py` writes it):
--   TOKENS   a file with one token a line, which are used in turn; without it no credential is sent
--   METHOD   POST, if nothing else is said
--   HEADERS  one `Name: value` a line, beside or instead of those below
--   BODY     the body; empty: none

local calls, at = {}, 0

function init()
  local method = os.getenv("METHOD") or "POST"
  local body = os.getenv("BODY") or '{"text":"hello from the load test"}'
  local headers = { ["Content-Type"] = "application/json", ["Accept"] = "*/*" }
  if body == "" then
    body = nil
    headers["Content-Type"] = nil
  end
  for name, value in (os.getenv("HEADERS") or ""):gmatch("([^:\n]+): ([^\n]+)") do
    headers[name] = value
  end
  local file = os.getenv("TOKENS")
  if not file then
    calls[1] = wrk.format(method, nil, headers, body)
    return
  end
  for token in io.lines(file) do
    headers["Authorization"] = "Bearer " .. token
    calls[#calls + 1] = wrk.format(method, nil, headers, body)
  end
end

function request()
  at = at % #calls + 1
  return calls[at]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    "RESULT requests=%d micros=%d bytes=%d p50=%d p99=%d max=%d refused=%d broken=%d\n",
    summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(99), latency.max,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
