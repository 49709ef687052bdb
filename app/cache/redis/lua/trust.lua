-- Move watermark and fence on (R5, step 5). `identity` stands before it.
-- KEYS: watermark, fence
-- ARGV: watermark as the cycle first saw it ('' for none), epoch, transaction id (20 digits), incarnation (16 digits), server,
--   fence's expiry (ms since 1970)
-- returns: 1 if both were set. 0 if the watermark has changed into one of another server, epoch or incarnation, or if the server
--   is another one or has other data: nothing was set.
--   0 also if the fence's time is over: only the watermark was set, so that the next cycle has less to do
-- The identity is checked here, too: since the cycle began, the server may have been demoted, refilled from a lagging one and
-- promoted again. Then it holds slots that this cycle has not compared, and a watermark would make them count as compared.
if identity() ~= ARGV[5] then
  return 0
end
local watermark = redis.pcall('GET', KEYS[1])
if type(watermark) ~= 'string' then
  watermark = ''
end
local known = ARGV[5] .. '|' .. ARGV[2] .. ':'
local mine = known .. ARGV[3] .. ':' .. ARGV[4]
local same = string.sub(watermark, 1, #known) == known and string.sub(watermark, -17) == ':' .. ARGV[4]
if watermark ~= ARGV[1] and not same then
  return 0
end
if same and watermark > mine then
  mine = watermark
end
redis.call('SET', KEYS[1], mine)
-- The watermark may be set late, because the comparison stays valid; the fence may not, because its life was announced.
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local expires_ms = tonumber(ARGV[6])
if now_ms >= expires_ms then
  return 0
end
local fence = known .. ARGV[4]
-- It is never shortened: a cycle that began earlier may end later.
if redis.pcall('GET', KEYS[2]) ~= fence or now_ms + redis.call('PTTL', KEYS[2]) < expires_ms then
  redis.call('SET', KEYS[2], fence, 'PX', expires_ms - now_ms)
end
return 1
