-- Put states into their slots (R3).
-- KEYS: watermark, fence, slot...
-- ARGV: server of this connection, then for each slot: state, token ('' for none), life in ms
-- A token '!' belongs to no lease: the slot is deleted where the state would be stored, so the state needs no payload.
-- returns: {1 when a live fence names this server and every state has the watermark's epoch, else 0; an outcome per slot}
-- outcomes: 0 empty, 1 stored, 2 kept, 3 lease deleted, 4 untrusted, 5 deleted (the numbers of ports.Outcome)
-- A slot holds the hash of its epoch; a watermark ends in 'hash:xid' (20 digits), a fence in 'hash'.
local watermark = redis.pcall('GET', KEYS[1])
local fence = redis.pcall('GET', KEYS[2])
local audited = type(watermark) == 'string' and string.sub(watermark, -37, -22)
local server = ARGV[1] .. '|'
local fenced = type(fence) == 'string' and string.sub(fence, 1, #server) == server and string.sub(fence, -16)
local proven = 1
local reply = {1}
for i = 3, #KEYS do
  local base = 2 + (i - 3) * 3
  local state, token, life_ms = ARGV[base], ARGV[base + 1], ARGV[base + 2]
  local epoch = string.sub(state, 2, 17)
  local outcome
  if fenced ~= epoch then
    proven = 0
  end
  if audited ~= epoch then
    redis.call('DEL', KEYS[i])
    proven = 0
    outcome = 4
  else
    local old = redis.pcall('GET', KEYS[i])
    if type(old) == 'table' then  -- a foreign type
      redis.call('DEL', KEYS[i])
      old = false
    end
    if not old then
      outcome = 0
    elseif string.sub(old, 1, 1) == 'L' then
      if token ~= '' and string.sub(old, 2) == token then
        outcome = 1
      else
        redis.call('DEL', KEYS[i])
        outcome = 3
      end
    elseif string.sub(old, 2, 17) ~= epoch or string.sub(old, 18, 36) < string.sub(state, 18, 36) then
      outcome = 1
    else
      outcome = 2
    end
    if outcome == 1 and token == '!' then
      redis.call('DEL', KEYS[i])
      outcome = 5
    elseif outcome == 1 then
      redis.call('SET', KEYS[i], state, 'PX', life_ms)
    end
  end
  reply[i - 1] = outcome
end
reply[1] = proven
return reply
