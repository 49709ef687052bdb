-- Say which server answers (behind the commands of every round trip).
-- ARGV: nonce, then '1' if the server is a node of a cluster
-- returns: {nonce, role, replication id, in a cluster with ':' and the node's configuration epoch}
-- The run id is not asked again: it belongs to the process at the other end of the connection, and reading it costs as much as
-- all the rest.
local info = redis.call('INFO', 'replication')
local data = string.match(info, '\nmaster_replid:([^\r]*)') or ''
if ARGV[2] == '1' then
  data = data .. ':' .. string.match(redis.call('CLUSTER', 'INFO'), 'cluster_my_epoch:(%d+)')
end
return {ARGV[1], string.match(info, '\nrole:(%a+)') or '', data}
