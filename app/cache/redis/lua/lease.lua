-- Take leases on empty slots (R2).
-- KEYS: slot...   ARGV: life in ms, then the token of each
-- returns: for each slot 1 if its lease was taken, else 0
local taken = {}
for i = 1, #KEYS do
  local lease = 'L' .. ARGV[i + 1]
  local done = redis.call('SET', KEYS[i], lease, 'NX', 'PX', ARGV[1])
  -- A key that is no string looks like an empty slot, but could not be filled.
  if not done and redis.call('TYPE', KEYS[i]).ok ~= 'string' then
    redis.call('DEL', KEYS[i])
    done = redis.call('SET', KEYS[i], lease, 'PX', ARGV[1])
  end
  taken[i] = done and 1 or 0
end
return taken
