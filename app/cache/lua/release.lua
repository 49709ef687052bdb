-- Give leases back unused.
-- KEYS: slot...   ARGV: the token of each
-- returns: the number given back
local released = 0
for i = 1, #KEYS do
  if redis.call('GET', KEYS[i]) == 'L' .. ARGV[i] then
    released = released + redis.call('DEL', KEYS[i])
  end
end
return released
