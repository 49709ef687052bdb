-- Try to claim this interval's audit, and read clock and watermark (R5, step 1).
-- KEYS: claim, watermark   ARGV: token, life of the claim in ms
-- returns: {1 when claimed, else 0, seconds, microseconds, watermark or ''}
local claimed = redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
-- A claim always expires. A key of its name without an expiry is no claim, and would stop all audits.
if not claimed and redis.call('PTTL', KEYS[1]) < 0 then
  claimed = redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
local watermark = redis.pcall('GET', KEYS[2])
if type(watermark) ~= 'string' then
  watermark = ''
end
local time = redis.call('TIME')
return {claimed and 1 or 0, time[1], time[2], watermark}
