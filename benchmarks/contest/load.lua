-- Plays a file of requests in order, from a given line on and again from its beginning, and prints one line of JSON at the end.
--
--   wrk -t1 -c32 -d3s -s benchmarks/load.lua URL -- FILE FIRST STATUS COUNT
--
-- FILE    a request a line: method, path, body and one header ("Name: value"), separated by tabs; the last two may be empty
-- FIRST   the line to begin with, counted from 0
-- STATUS  what every answer must have; with COUNT "each", every answer is looked at and the others are counted. That costs wrk
--         some time for each answer, so at the rates of hits COUNT is "errors": wrk's own count of 400 and above, and the
--         bytes of all answers, which tell whether any of them was of another kind.
--
-- One thread only: each thread would play the same lines.

local requests, position, expected
local threads = {}
unexpected = 0

function setup(thread)
   table.insert(threads, thread)
end

local function format(line)
   local method, path, body, header = line:match("^([^\t]*)\t([^\t]*)\t([^\t]*)\t([^\t]*)$")
   local headers = {}
   if body ~= "" then
      headers["Content-Type"] = method == "PATCH" and "application/merge-patch+json" or "application/json"
   end
   if header ~= "" then
      local name, value = header:match("^([^:]+): (.*)$")
      headers[name] = value
   end
   return wrk.format(method, path, headers, body ~= "" and body or nil)
end

function init(args)
   requests, expected = {}, tonumber(args[3])
   local formatted = {}
   for line in io.lines(args[1]) do
      formatted[line] = formatted[line] or format(line)
      requests[#requests + 1] = formatted[line]
   end
   position = tonumber(args[2]) % #requests
   if args[4] == "each" then
      response = function(status)
         if status ~= expected then
            unexpected = unexpected + 1
         end
      end
   end
end

function request()
   position = position + 1
   if position > #requests then
      position = 1
   end
   return requests[position]
end

function done(summary, latency)
   local errors = summary.errors
   local others = 0
   for _, thread in ipairs(threads) do
      others = others + thread:get("unexpected")
   end
   io.write(string.format(
      '\n{"answers": %d, "seconds": %.6f, "bytes": %d, "refused": %d, "unexpected": %d, "broken": %d,'
         .. ' "p50_ms": %.3f, "p99_ms": %.3f, "max_ms": %.3f}\n',
      summary.requests, summary.duration / 1e6, summary.bytes, errors.status, others,
      errors.connect + errors.read + errors.write + errors.timeout,
      latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end
