-- Give unused leases back, or the claim on an audit.
-- KEYS: slot or claim...   ARGV: what each key holds if it is still the caller's; of a lease also without its incarnation
-- returns: how many were given back
local released = 0
for i = 1, #KEYS do
  local held = redis.pcall('GET', KEYS[i])
  local lease = type(held) == 'string' and string.sub(held, 1, 1) == 'L' and 'L' .. string.sub(held, 18)
  if held == ARGV[i] or lease == ARGV[i] then
    released = released + redis.call('DEL', KEYS[i])
  end
end
return released
