-- Give leases back unused, or the claim on an audit.
-- KEYS: slot or claim...   ARGV: what each holds if it is still ours
-- returns: the number given back
local released = 0
for i = 1, #KEYS do
  if redis.pcall('GET', KEYS[i]) == ARGV[i] then
    released = released + redis.call('DEL', KEYS[i])
  end
end
return released
