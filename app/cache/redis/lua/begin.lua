-- Try to claim this interval's audit, and read clock and watermark (R5, step 1). `identity` stands before it.
-- KEYS: claim, watermark   ARGV: token, life of the claim in ms
-- returns: {1 when claimed, else 0, seconds, microseconds, watermark or '', 1 when the watermark was set over this server's data}
local claimed = redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
-- A claim always expires. A key of its name without an expiry is no claim, and would stop all audits.
if not claimed and redis.call('PTTL', KEYS[1]) < 0 then
  claimed = redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
local watermark = redis.pcall('GET', KEYS[2])
if type(watermark) ~= 'string' then
  watermark = ''
end
-- A watermark of the server from which this one inherited all its data is as good as one of its own: slots and watermark are
-- those of one moment. Keys that were copied one by one are not.
local own, before = identity()
local server = string.match(watermark, '^(.-)|') or ''
local counts = server ~= '' and (server == own or (before ~= '' and string.match(server, '^%x+:(%x+)$') == before))
local time = redis.call('TIME')
return {claimed and 1 or 0, time[1], time[2], watermark, counts and 1 or 0}
