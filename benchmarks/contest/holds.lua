-- Holds one unit of a product and commits the hold, again and again, and prints one line of JSON at the end, as load.lua does.
--
--   wrk -t1 -c32 -d3s -s benchmarks/contest/holds.lua URL -- FILE FIRST
--
-- FILE    ids of products, one on each line, which are taken in order
-- FIRST   the line to begin with, counted from 0
--
-- A connection commits the hold that was made last, whoever made it. "answers" has the pairs: half of the holds made and of the
-- commits together, since a run begins with holds alone and ends with some of them open.

local creates, position, made = {}, 0, {}
local threads = {}
creations, commits, unexpected = 0, 0, 0

function setup(thread)
   table.insert(threads, thread)
end

function init(args)
   local headers = {["Content-Type"] = "application/json"}
   for id in io.lines(args[1]) do
      local body = '{"lines":[{"product_id":"' .. id .. '","quantity":1}],"expires_in_s":600}'
      creates[#creates + 1] = wrk.format("POST", "/reservations", headers, body)
   end
   position = tonumber(args[2]) % #creates
   commit = function(id)
      return wrk.format("POST", "/reservations/" .. id .. "/commit", headers, "{}")
   end
end

function request()
   local id = table.remove(made)
   if id then
      return commit(id)
   end
   position = position % #creates + 1
   return creates[position]
end

function response(status, headers, body)
   if status == 201 then
      creations = creations + 1
      made[#made + 1] = body:match('"id":"(%x+)"')
   elseif status == 200 then
      commits = commits + 1
   else
      unexpected = unexpected + 1
   end
end

function done(summary, latency)
   local errors = summary.errors
   local begun, committed, others = 0, 0, 0
   for _, thread in ipairs(threads) do
      begun = begun + thread:get("creations")
      committed = committed + thread:get("commits")
      others = others + thread:get("unexpected")
   end
   io.write(string.format(
      '\n{"answers": %d, "seconds": %.6f, "bytes": %d, "refused": %d, "unexpected": %d, "broken": %d,'
         .. ' "p50_ms": %.3f, "p99_ms": %.3f, "max_ms": %.3f, "commits": %d}\n',
      math.floor((begun + committed) / 2), summary.duration / 1e6, summary.bytes, errors.status, others,
      errors.connect + errors.read + errors.write + errors.timeout,
      latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3, committed))
end
