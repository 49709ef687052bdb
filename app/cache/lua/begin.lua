-- Claim this interval's audit (R5, step 1).
-- KEYS: claim, watermark   ARGV: life of the claim in ms
-- returns: {} when another instance has the claim, else {seconds, microseconds, watermark or ''}
if not redis.call('SET', KEYS[1], '1', 'NX', 'PX', ARGV[1]) then
  return {}
end
local time = redis.call('TIME')
return {time[1], time[2], redis.call('GET', KEYS[2]) or ''}
