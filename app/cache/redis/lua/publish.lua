-- Put states into their slots (R3).
-- KEYS: watermark, fence, slot...
-- ARGV: server of this connection, then for each slot: the state before its incarnation, the state behind it, token ('' for
--   none), life in ms
-- A token '!' belongs to no lease: the slot is deleted where the state would be stored, so the state needs no payload.
-- returns: {1 when a live fence and the watermark name this server, every state's epoch, and one incarnation, else 0;
--   an outcome per slot}
-- outcomes: 0 empty, 1 stored, 2 kept, 3 lease deleted, 4 untrusted, 5 deleted (the numbers of ports.Outcome)
-- A state is kind, hash of the epoch (16 digits), version (19), incarnation (16), key and payload; a lease is 'L', incarnation
-- and token. A watermark is 'server|epoch:xid:incarnation' (20 and 16 digits), a fence 'server|epoch:incarnation'.
local watermark = redis.pcall('GET', KEYS[1])
local fence = redis.pcall('GET', KEYS[2])
local server = ARGV[1] .. '|'
local audited, incarnation, fenced
if type(watermark) == 'string' and string.sub(watermark, 1, #server) == server then
  audited, incarnation = string.sub(watermark, -54, -39), string.sub(watermark, -16)
end
if type(fence) == 'string' and string.sub(fence, 1, #server) == server and string.sub(fence, -16) == incarnation then
  fenced = string.sub(fence, -33, -18)
end
local proven = 1
local reply = {1}
for i = 3, #KEYS do
  local base = 2 + (i - 3) * 4
  local head, rest, token, life_ms = ARGV[base], ARGV[base + 1], ARGV[base + 2], ARGV[base + 3]
  local epoch = string.sub(head, 2, 17)
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
      if token ~= '' and string.sub(old, 2, 17) == incarnation and string.sub(old, 2) == token then
        outcome = 1
      else
        redis.call('DEL', KEYS[i])
        outcome = 3
      end
    elseif string.sub(old, 37, 52) ~= incarnation then
      -- It is void, and not replaced: it may be newer than this state, which may be late.
      redis.call('DEL', KEYS[i])
      outcome = 0
    elseif string.sub(old, 2, 17) ~= epoch or string.sub(old, 18, 36) < string.sub(head, 18, 36) then
      outcome = 1
    else
      outcome = 2
    end
    if outcome == 1 and token == '!' then
      redis.call('DEL', KEYS[i])
      outcome = 5
    elseif outcome == 1 then
      redis.call('SET', KEYS[i], head .. incarnation .. rest, 'PX', life_ms)
    end
  end
  reply[i - 1] = outcome
end
reply[1] = proven
return reply
