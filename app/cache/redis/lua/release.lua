-- Give unused leases back, or the claim on an audit.
-- KEYS: slot or claim...   ARGV: what each key holds if it is still the caller's. The incarnation of a lease may be left out.
-- returns: how many were given back; a server that refuses writes keeps them until they expire
local released = 0
for i = 1, #KEYS do
  local held = redis.pcall('GET', KEYS[i])
  local bare = type(held) == 'string' and string.sub(held, 1, 1) == 'L' and 'L' .. string.sub(held, 18)
  if held == ARGV[i] or bare == ARGV[i] then
    -- An error reply would end the connection, and with it other calls of the same packet.
    local deleted = redis.pcall('DEL', KEYS[i])
    released = released + (type(deleted) == 'number' and deleted or 0)
  end
end
return released
