-- For wrk: chat completions of which no two are equal, since an equal one might be answered from memory.
local number, run = 0, os.time()
request = function()
  number = number + 1
  return wrk.format("POST", nil, {["content-type"] = "application/json"},
    '{"model": "chat", "messages": [{"role": "system", "content": "Answer with JSON."}, {"role": "user", "content": "Review ' .. run .. "-" .. number
    .. ': how is this meant? It works well but it came a week late."}]}')
end
done = function(summary, latency, requests)
  local failed = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.status + summary.errors.timeout
  io.write(string.format('{"requests": %d, "seconds": %f, "failed": %d, "p50": %f, "p99": %f}\n', summary.requests, summary.duration / 1e6, failed,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
