-- Take leases on empty slots (R2).
-- KEYS: watermark, slot...   ARGV: server of this connection, life in ms, then the token of each
-- returns: {incarnation of the watermark, then for each slot 1 if its lease was taken, else 0}
-- Without a watermark of this server no lease is taken, because it could not be told from one of before a clean start.
-- A slot of another incarnation is empty for everybody. A lease is 'L', its incarnation (16 digits) and its token.
local watermark = redis.pcall('GET', KEYS[1])
local server = ARGV[1] .. '|'
if type(watermark) ~= 'string' or string.sub(watermark, 1, #server) ~= server then
  return {''}
end
local incarnation = string.sub(watermark, -16)
local reply = {incarnation}
for i = 2, #KEYS do
  local lease = 'L' .. incarnation .. ARGV[i + 1]
  local done = redis.call('SET', KEYS[i], lease, 'NX', 'PX', ARGV[2])
  if not done then
    local old = redis.pcall('GET', KEYS[i])
    local found = type(old) == 'string' and (string.sub(old, 1, 1) == 'L' and string.sub(old, 2, 17) or string.sub(old, 37, 52))
    -- A key that is no string looks like an empty slot, but could not be filled.
    if found ~= incarnation then
      done = redis.call('SET', KEYS[i], lease, 'PX', ARGV[2])
    end
  end
  reply[i] = done and 1 or 0
end
return reply
