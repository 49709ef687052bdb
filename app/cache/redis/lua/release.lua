-- Give unused leases back, or the claim on an audit.
-- KEYS: slot or claim...   ARGV: what each key holds if it is still the caller's
-- returns: how many were given back
local released = 0
for i = 1, #KEYS do
  if redis.pcall('GET', KEYS[i]) == ARGV[i] then
    released = released + redis.call('DEL', KEYS[i])
  end
end
return released
