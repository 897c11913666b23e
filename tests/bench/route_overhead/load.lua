-- For wrk: chat requests of SUBLET_BODY bytes, 64 different ones in turn, streamed where
-- SUBLET_STREAM is set; at the end one line of JSON with what was seen.

local size = tonumber(os.getenv("SUBLET_BODY"))
local stream = os.getenv("SUBLET_STREAM") == "1"
local requests = {}
local at = 0

function init()
  local headers = {["Content-Type"] = "application/json"}
  if stream then headers["X-Stream"] = "1" end
  for i = 1, 64 do
    local head = '{"model":"demo","stream":' .. tostring(stream) ..
      ',"messages":[{"role":"user","content":"conversation ' .. i .. ' '
    local tail = '"}]}'
    local words, length = {}, #head + #tail
    local word = 0
    while length < size do
      word = word + 1
      local text = string.sub("w" .. (word * 7919 + i * 104729) % 100003 .. " ", 1, size - length)
      words[#words + 1] = text
      length = length + #text
    end
    requests[i] = wrk.format("POST", "/v1/chat/completions", headers,
                             head .. table.concat(words) .. tail)
  end
end

function request()
  at = at % 64 + 1
  return requests[at]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"seconds":%.6f,"p50_us":%.1f,"p99_us":%.1f,"errors":%d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
