-- Delete every slot that could be older than its row, and every key that is no slot (R5, step 4).
-- KEYS: slot...   ARGV: hash of the epoch, then the version of each row, 19 digits
-- returns: {older, of another epoch or a foreign type, leases} deleted
local older, other, leases = 0, 0, 0
for i = 1, #KEYS do
  local old = redis.pcall('GET', KEYS[i])
  if old then
    local delete = true
    if type(old) == 'table' then
      other = other + 1
    elseif string.sub(old, 1, 1) == 'L' then
      leases = leases + 1
    elseif string.sub(old, 2, 17) ~= ARGV[1] then
      other = other + 1
    elseif string.sub(old, 18, 36) < ARGV[i + 1] then
      older = older + 1
    else
      delete = false
    end
    if delete then
      redis.call('DEL', KEYS[i])
    end
  end
end
return {older, other, leases}
