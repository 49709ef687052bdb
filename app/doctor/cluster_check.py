"""The check of a cluster of Redis: whether the keys of each partition are where Larder looks for them."""

from collections.abc import Sequence

from app.cache.errors import StoreUnavailable
from app.cache.partitions import hash_slot
from app.cache.redis.connection import RedisConnection
from app.cache.redis.nodes import at, map_of
from app.cache.redis.slot_map import URL_ADDRESS, Address
from app.cache.redis.store import RedisOptions
from app.doctor.findings import Finding, no, ok

_FEWEST = 16
"""Fewest partitions for each node, so that the nodes have about equal shares."""


async def cluster_findings(options: RedisOptions, partitions: int, *, in_cluster: bool) -> Sequence[Finding]:
    """Compare the setting with what the server is; ask every node that has keys whether it can be reached from here."""
    if not in_cluster:
        if partitions == 1:
            return [ok("D6", "no cluster: all keys are on one server")]
        return [
            no(
                "D6",
                f"this is no cluster, and LARDER_CACHE_PARTITIONS is {partitions}: all partitions are on one server, where"
                " they only cost time. Set it to 1.",
                needed=False,
            )
        ]
    if partitions == 1:
        return [
            no(
                "D6",
                "this is a node of a cluster, and LARDER_CACHE_PARTITIONS is 1, so all keys would have to be on one node, and"
                " reads go to PostgreSQL. Set it to 64, or name a Redis that is no cluster.",
            )
        ]
    try:
        found = await map_of(options, URL_ADDRESS)
    except StoreUnavailable as error:
        return [no("D6", f"{error}. If the user may not ask, give it +cluster|slots +cluster|info.")]
    findings = []
    if found.uncovered:
        findings.append(
            no("D6", f"{found.uncovered} of 16384 hash slots belong to no node: reads of keys there go to PostgreSQL.")
        )
    findings += [
        no("D6", f"the node {address[0]}:{address[1]} has keys and cannot be used from here: {problem}.")
        for address in found.owners
        if (problem := await _unreachable(options, address))
    ]
    if partitions < _FEWEST * len(found.owners):
        findings.append(
            no(
                "D6",
                f"{partitions} partitions on {len(found.owners)} nodes are few, so that some may have much more to do than"
                " others. Raise LARDER_CACHE_PARTITIONS, which begins another cache.",
                needed=False,
            )
        )
    return findings or [ok("D6", f"a cluster of {len(found.owners)} nodes with keys, which can all be reached from here")]


async def node_of(options: RedisOptions, key: str) -> RedisOptions:
    """Return how to connect to the node that has a key; to the URL's server if nobody says which one that is."""
    try:
        owner = (await map_of(options, URL_ADDRESS)).owner(hash_slot(key))
    except StoreUnavailable:
        return options
    return options if owner is None else at(options, owner)


async def _unreachable(options: RedisOptions, address: Address) -> str:
    """Return why a node cannot be used; empty if it can."""
    node = at(options, address)
    try:
        connection = await RedisConnection.open(
            node.place,
            connect_timeout_s=options.connect_timeout_ms / 1000,
            timeout_s=options.timeout_ms / 1000,
            scripts=(),
            refusals=True,
        )
    except StoreUnavailable as error:
        return str(error).rstrip(".")
    await connection.close()
    return ""
