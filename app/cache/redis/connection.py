"""A connection to Redis that is never replaced silently, and a link that keeps one ready.

The protocol must know *which server* sent a reply. A command must be sent exactly once, and a connection with a doubtful reply
must never be used again. A pooled client guarantees none of this. redis-py's connection handles URLs, TLS, login and parsing;
its retries and silent reconnects are off.
"""

import asyncio
import hashlib
import random
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from importlib.resources import files

from hiredis import pack_command
from redis.asyncio.connection import AbstractConnection

from ..errors import NotConnected, StoreUnavailable
from .identity import checked_identity, run_id_in
from .near_slots import NearSlots, track
from .places import RedisPlace, address_of
from .refusals import Refusal
from .replies import Replies
from .succession import Succession
from .troubles import Troubles
from .waiting_calls import Commands, RedisCommand, Reply, Waiting, refuse, together

_WHO = files(__package__).joinpath("lua", "who.lua").read_text(encoding="utf-8")
WHO_SHA = hashlib.sha1(_WHO.encode(), usedforsecurity=False).hexdigest()
_REST_S = 1.0


class RedisConnection:
    """One open connection to one server of role master.

    After its commands, every call runs a script that echoes a nonce and says the server's present identity. An error reply, a
    late reply, a wrong nonce, another identity or any exception of the driver closes the connection for good, because its state
    is then unknown. The driver's errors are not listed by class, because the event loop adds its own (uvloop raises
    ``RuntimeError`` for a connection that the other side has reset).
    """

    def __init__(
        self, connection: AbstractConnection, run_id: str, timeout_s: float, *, in_cluster: bool, refusals: bool = False
    ) -> None:
        self._connection = connection
        self._replies = Replies(connection, refusals=refusals)
        self._run_id = run_id
        self._in_cluster = in_cluster
        self._timeout_s = timeout_s
        self._replid = ""
        self.address = address_of(connection)
        """The address that it was opened to."""
        self._lock = asyncio.Lock()
        self.alive = True
        self.near: NearSlots | None = None

    @classmethod
    async def open(
        cls,
        place: RedisPlace,
        *,
        connect_timeout_s: float,
        timeout_s: float,
        scripts: Sequence[str],
        near_bytes: int = 0,
        refusals: bool = False,
    ) -> "RedisConnection":
        """Find the server, connect, log in, load scripts, and read the server's identity.

        The deadline holds for all of it, and begins when the passwords are known. With ``refusals``, a command that a node of a
        cluster refuses gets ``Refusal`` as its reply, and the connection stays good.

        Raises:
            StoreUnavailable: there was no connection in time, or the server is not a master.
        """
        raw = None
        try:
            passwords = await place.passwords()
            async with asyncio.timeout(connect_timeout_s):
                raw = await place.connection(passwords)
                await raw.connect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
                await raw.send_command("INFO", "server")
                info = await raw.read_response(disable_decoding=True)
                run_id = run_id_in(info)
                await raw.send_command("SCRIPT", "LOAD", _WHO)
                await raw.read_response()
                opened = cls(raw, run_id, timeout_s, in_cluster=b"_mode:cluster" in info, refusals=refusals)
                await opened.call(*(("SCRIPT", "LOAD", script) for script in scripts))
                opened.near = await track(raw, info, near_bytes)
        except Exception as error:
            await _close(raw)
            raise StoreUnavailable(f"cannot connect to Redis: {str(error) or type(error).__name__}") from error
        except BaseException:
            await _close(raw)
            raise
        return opened

    @property
    def in_cluster(self) -> bool:
        """Whether the server is a node of a cluster."""
        return self._in_cluster

    @property
    def server(self) -> str:
        """Run id and replication id of the server, in a cluster with the node's configuration epoch, as of the last call."""
        return f"{self._run_id}:{self._replid}"

    async def call(self, *commands: RedisCommand) -> list[Reply]:
        """Send commands in one round trip and return their replies in order.

        Raises:
            StoreUnavailable: not every command has a definite answer; some may have been applied. The connection is closed.
        """
        async with self._lock:
            if not self.alive:
                raise StoreUnavailable("the connection to Redis was closed")
            try:
                async with asyncio.timeout(self._timeout_s):
                    return await self._exchange(commands)
            except TimeoutError as error:
                raise StoreUnavailable("Redis did not answer in time") from await self._close_after(error)
            except Exception as error:  # noqa: BLE001 - see the class: any error means that there was no definite answer
                raise StoreUnavailable(f"Redis failed: {str(error) or type(error).__name__}") from await self._close_after(
                    error
                )
            except BaseException as error:
                await self._close_after(error)
                raise

    def retire(self) -> None:
        """Drop what later reads would use, because another connection has taken its place. Calls that are under way go on."""
        if self.near is not None:
            self.near.end()

    async def close(self) -> None:
        """Close for good."""
        self.alive = False
        await _close(self._connection)

    async def _exchange(self, commands: Sequence[RedisCommand]) -> list[Reply]:
        if not self._connection.is_connected:  # otherwise redis-py would connect again, perhaps to another server
            raise StoreUnavailable("the connection was lost")
        nonce = f"{random.getrandbits(64):016x}"
        who: RedisCommand = ("EVALSHA", WHO_SHA, 0, nonce, *(["1"] if self._in_cluster else []))
        # The driver would pack each argument in Python, which takes longer.
        packed = b"".join(map(_pack, (*commands, who)))
        await self._connection.send_packed_command(packed, check_health=False)
        read = self._replies.read_behind_invalidations if self.near else self._replies.read
        *replies, last = await read(len(commands) + 1)
        if isinstance(last, Refusal):
            raise StoreUnavailable(last.words)
        echo, role, data = last
        if echo != nonce.encode():
            raise StoreUnavailable("a reply did not belong to its request")
        # The identity is read with every call, not only when connecting: a server that was demoted and promoted again keeps its
        # run id and this connection, but has another master's data, with a fence that may name this server.
        if role != b"master":
            raise StoreUnavailable("the server is not a master")
        self._identify(data.decode("ascii", "replace"))
        return replies

    def _identify(self, data: str) -> None:
        if data == self._replid:
            return
        if self._replid:
            raise StoreUnavailable("the server has taken over other data, or was given further keys")
        checked_identity(data.partition(":")[0], "master_replid")
        self._replid = data

    async def _close_after(self, error: BaseException) -> BaseException:
        await self.close()
        return error


class RedisLink:
    """A circuit breaker that keeps one connection ready.

    Calls use the connection while it is good. Once it fails, every call is refused at once, and one background task tries to
    connect until it succeeds. A busy connection never counts as failed.

    Calls of several namespaces that come while a round trip is under way share the next one. Each is a command of its own
    there, so what is atomic in a call stays so.
    """

    def __init__(
        self,
        place: RedisPlace,
        *,
        timeout_ms: int,
        connect_timeout_ms: int,
        retry_ms: int,
        max_age_s: int = 0,
        scripts: Sequence[str] = (),
        near_bytes: int = 0,
        chance: random.Random | None = None,
        troubles: Troubles | None = None,
        refusals: bool = False,
    ) -> None:
        self._connect_timeout_s = connect_timeout_ms / 1000
        self._retry_s = retry_ms / 1000
        self.near_bytes = near_bytes
        self._chance = chance or random.Random()
        self._troubles = troubles or Troubles()
        self._used_s = 0.0
        self._connection: RedisConnection | None = None
        self._prober: asyncio.Task[None] | None = None
        self._open = partial(
            RedisConnection.open,
            place,
            connect_timeout_s=self._connect_timeout_s,
            timeout_s=timeout_ms / 1000,
            scripts=scripts,
            near_bytes=near_bytes,
            refusals=refusals,
        )
        self._succession = Succession(self._open, max_age_s, retry_ms / 1000)
        self._reason = "no connection has been tried yet"
        self._first_try: asyncio.Task[None] | None = None
        self._busy = False
        self._closed = False
        self._waiting: list[Waiting] = []
        self._sender: asyncio.Task[None] | None = None
        self.failures = 0
        self.near_slots = 0  # read from copies

    @property
    def up(self) -> bool:
        """Whether a good connection is ready."""
        return self._connection is not None and self._connection.alive

    def connection(self) -> RedisConnection:
        """Return the connection that is ready. Raises ``NotConnected`` at once when there is none."""
        if self._closed:
            raise _closed()
        if self._succession.max_age_s:
            self._connection = self._succession.present(self._connection)
        if self._connection is not None and self._connection.alive:
            return self._connection
        if self._connection is not None:
            self._connection = None
            self.failures += 1
        if self._prober is None:
            self._prober = asyncio.create_task(self._probe(self._retry_s))
        raise NotConnected(f"Redis is not connected: {self._reason}")

    async def call(self, *commands: RedisCommand) -> tuple[str, list[Reply]]:
        """Send commands over the connection that is ready; return the server that answered, and the replies.

        Raises:
            NotConnected: there is no connection.
            StoreUnavailable: see ``RedisConnection.call``.
        """
        return await self.call_naming_server(lambda _: commands)

    async def call_naming_server(self, commands: Commands) -> tuple[str, list[Reply]]:
        """Do the same as ``call``, with commands that contain the server's identity."""
        if self._busy:
            future: asyncio.Future[tuple[str, list[Reply]]] = asyncio.get_running_loop().create_future()
            self._waiting.append((commands, future))
            return await future
        self._busy = True
        try:
            return await self._send(commands)
        finally:
            self._busy = bool(self._waiting)
            if self._waiting:
                self._sender = asyncio.create_task(self._send_waiting())

    async def _send_waiting(self) -> None:
        """Send what waits, in one round trip, until nothing waits."""
        while waiting := [item for item in self._waiting if not item[1].done()]:
            self._waiting = []
            sizes: list[int] = []
            try:
                server, replies = await self._send(partial(together, [commands for commands, _ in waiting], sizes))
            except asyncio.CancelledError:
                refuse(waiting, StoreUnavailable("the connection to Redis was closed"))  # it may have been sent
                raise
            except Exception as error:  # noqa: BLE001 - it belongs to the callers
                refuse(waiting, error)
                continue
            start = 0
            for (_, future), size in zip(waiting, sizes, strict=True):
                if not future.done():
                    future.set_result((server, replies[start : start + size]))
                start += size
        self._waiting = []
        self._busy = False
        self._sender = None

    async def _send(self, commands: Commands) -> tuple[str, list[Reply]]:
        connection = self.connection()
        self._used_s = asyncio.get_running_loop().time()
        try:
            replies = await connection.call(*commands(connection.server))
        except StoreUnavailable as error:
            self._reason = str(error)
            self._troubles.tell(error)
            with suppress(StoreUnavailable):
                self.connection()  # starts the prober
            raise
        return connection.server, replies

    async def keep_alive(self) -> None:
        """Use the connection every second if nobody else does; never returns.

        Otherwise the server or a router would end it while it rests, and the next request would meet a dead connection.
        """
        while True:
            await asyncio.sleep(_REST_S)
            rested = asyncio.get_running_loop().time() - self._used_s >= _REST_S
            if rested and not self._busy and self._connection is not None:
                with suppress(StoreUnavailable):
                    await self.call()

    async def start(self) -> None:
        """Try to connect once; if that fails, keep trying in the background."""
        if self._closed:
            return
        self._prober = asyncio.create_task(self._probe(0.0))
        with suppress(TimeoutError):
            async with asyncio.timeout(self._connect_timeout_s):
                await asyncio.shield(self._prober)

    async def start_once(self) -> None:
        """Return after the first try to connect, which is made if nobody has made it."""
        if self._first_try is None:
            self._first_try = asyncio.create_task(self.start())
        await asyncio.shield(self._first_try)

    async def close(self) -> None:
        """Stop probing and close the connection. Calls that wait are refused, and so are later ones."""
        self._closed = True
        await self._succession.aclose()
        tasks = [task for task in (self._first_try, self._prober, self._sender) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        refuse(self._waiting, _closed())
        self._waiting, self._busy = [], False
        if self._connection is not None:
            await self._connection.close()

    async def leave(self, address: str) -> None:
        """Close the connection if it leads elsewhere than to ``address``; another one is opened in the background."""
        connection = self._connection
        if connection is not None and connection.alive and connection.address != address:
            await connection.close()
            self._reason = f"most sentinels name {address} as the master"
            with suppress(StoreUnavailable):
                self.connection()  # starts the prober

    async def _probe(self, pause_s: float) -> None:
        try:
            while True:
                if pause_s:
                    # Pauses vary, so that the instances do not all connect at once to a server that comes back.
                    await asyncio.sleep(pause_s * self._chance.uniform(0.75, 1.25))
                pause_s = self._retry_s
                try:
                    opened = await self._open()
                except StoreUnavailable as error:
                    self._reason = str(error)
                    self._troubles.tell(error)
                else:
                    if self.up:  # the successor of an old connection was quicker
                        await opened.close()
                    else:
                        self._connection = opened
                    return
        finally:
            self._prober = None


def _pack(command: RedisCommand) -> bytes:
    packed: bytes = pack_command(tuple(command))  # type: ignore[arg-type]  # it is typed as for tuples of one argument
    return packed


def _closed() -> NotConnected:
    return NotConnected("the connection to Redis was closed")


async def _close(connection: AbstractConnection | None) -> None:
    if connection is None:
        return
    with suppress(Exception):  # the connection is given up in any case
        await connection.disconnect(nowait=True)
