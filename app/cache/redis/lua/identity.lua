-- The server's identity. This text stands before the scripts that ask for it: begin and trust.
-- The parts are the run id, the replication id and, in a cluster, the node's configuration epoch: it rises whenever the node is
-- given keys, so that keys which come back later find another identity.
-- returns: the identity, or nil for a server that is no master; the replication id of its data before it became the master, or ''
local function identity()
  local replication, server = redis.call('INFO', 'replication'), redis.call('INFO', 'server')
  local run, replid = string.match(server, '\nrun_id:(%x+)'), string.match(replication, '\nmaster_replid:(%x+)')
  if not string.find(replication, '\nrole:master', 1, true) or not run or not replid then
    return nil, ''
  end
  if string.find(server, '_mode:cluster', 1, true) then
    return run .. ':' .. replid .. ':' .. string.match(redis.call('CLUSTER', 'INFO'), 'cluster_my_epoch:(%d+)'), ''
  end
  local before = string.match(replication, '\nmaster_replid2:(%x+)') or ''
  return run .. ':' .. replid, string.match(before, '^0*$') and '' or before
end
