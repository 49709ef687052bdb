-- Say which server answers (behind the commands of every round trip).
-- ARGV: nonce, then '1' if the server is a node of a cluster
-- returns: {nonce, role, replication id, in a cluster with ':' and the node's configuration epoch}
-- The run id is not asked again: it belongs to the process at the other end of the connection, and reading it costs as much as
-- all the rest. Fields are found as plain text: to try a pattern at each place of a reply costs as much as to make the reply.
local function field(text, name, value)
  local _, last = string.find(text, name, 1, true)
  return last and string.match(text, value, last + 1)
end
local info = redis.call('INFO', 'replication')
local data = field(info, '\nmaster_replid:', '^[^\r]*') or ''
if ARGV[2] == '1' then
  data = data .. ':' .. field(redis.call('CLUSTER', 'INFO'), '\ncluster_my_epoch:', '^%d+')
end
return {ARGV[1], field(info, '\nrole:', '^%a+') or '', data}
