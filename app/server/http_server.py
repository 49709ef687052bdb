"""The HTTP server of one process: uvicorn with Larder's connections, signals and errors."""

import asyncio
import contextlib
import functools
import logging
import socket
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping
from typing import cast

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from typing_extensions import override

from app.api.context import STATE
from app.api.metrics import ConnectionStats
from app.server.acceptor import Acceptor
from app.server.address import BACKLOG, failure_of
from app.server.capacity import Places, connection_limit
from app.server.connection import Connection
from app.server.errors import CannotServe
from app.server.known_heads import KnownHeads
from app.server.observed_reads import ObservedReads
from app.server.process import collect_less_garbage
from app.server.signals import StopSignals, grace_s
from app.server.timeouts import STOP_PATIENCE_S, TimeLimits, Waiting, Watched, give_up_those_who_wait, sweep
from app.server.tls import CLOSE_TIMEOUT_S, HANDSHAKE_TIMEOUT_S, Handshakes, ServerTls
from app.settings import Settings

_UVICORN_LOGGER = "uvicorn.error"
_TICKS_PER_SWEEP = 5
"""uvicorn ticks ten times a second."""


class Server(uvicorn.Server):
    """uvicorn's server with some differences.

    - ``StopSignals`` handles the signals;
    - an error of the application's start is raised;
    - ``listening`` is set once requests are taken;
    - connections are accepted here, so that their number and their time are limited;
    - they are TLS if the settings name a certificate;
    - after the start, garbage is collected less often;
    - each tick ends the connections whose clients take too long;
    - a stop ends the streams of the feed first.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        config = uvicorn.Config(
            app,
            interface="asgi3",
            http=ObservedReads if settings.log_requests_percent or settings.traces_url else KnownHeads,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=grace_s(settings),
        )
        config.load()
        super().__init__(config)
        self.settings = settings
        self.listening = asyncio.Event()
        self._app = app
        self._adopting: set[asyncio.Task[None]] = set()
        self._acceptors: list[Acceptor] = []
        self._time_limits = TimeLimits.of(settings)
        self._connections = cast("set[Connection]", self.server_state.connections)  # that is the class it makes
        self._handshakes = Handshakes()
        self._places = Places(connection_limit(settings), self._connections, self._stats, self._handshakes)
        self._failure: Exception | None = None
        self._tls: ServerTls | None = None
        self._renewing: asyncio.Task[None] | None = None

    @override
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application and listen.

        Raises:
            OSError: the address cannot be listened on.
            CannotServe: the certificate cannot be used.
            Exception: what the application's own start raised.
        """
        self._tls = ServerTls.of(self.settings)
        # Only the lifespan passes through the wrapper, so that requests do not pay for it.
        self.config.loaded_app = self._remember_failure
        try:
            with _silenced(_UVICORN_LOGGER):
                await super().startup(sockets=[])
                for listener in sockets or []:
                    listener.listen(BACKLOG)
        except SystemExit:
            raise self._failure or CannotServe("the application ended while starting") from None
        except OSError:
            await self.lifespan.shutdown()
            raise
        finally:
            self.config.loaded_app = self._app
        collect_less_garbage()
        self._renewing = asyncio.create_task(self._tls.keep()) if self._tls else None
        self._acceptors = [Acceptor(listener, self.adopt) for listener in sockets or []]
        for acceptor in self._acceptors:
            acceptor.resume()
        self.listening.set()

    @override
    async def on_tick(self, counter: int) -> bool:
        """End the connections whose clients take too long."""
        if counter % _TICKS_PER_SWEEP == 0:
            sweep(self._connections, asyncio.get_running_loop().time(), self._time_limits)
            self._places.look_again()
        return await super().on_tick(counter)

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nothing more, end the streams, and let the requests under way finish.

        A client that sends no more of its request, or does not read its answer, delays the stop by a few seconds at most.
        """
        self.lifespan.state[STATE].feed.end()
        for acceptor in self._acceptors:
            acceptor.close()
        if self._renewing is not None:
            self._renewing.cancel()
            for handshake in self._adopting:
                handshake.cancel()
            await asyncio.gather(self._renewing, *self._adopting, return_exceptions=True)
        leaving = asyncio.create_task(self._leave_the_idle())
        try:
            await super().shutdown(sockets=sockets)
        finally:
            leaving.cancel()

    async def _leave_the_idle(self) -> None:
        """Give up the clients that do nothing; never returns."""
        waits: Mapping[Watched, Waiting | None] = {}
        while True:
            waits = give_up_those_who_wait(self._connections, waits)
            await asyncio.sleep(STOP_PATIENCE_S)

    def adopt(self, connection: socket.socket) -> None:
        """Serve a connection that was accepted. From now on its socket belongs to this server."""
        if self.should_exit:
            connection.close()
            return
        if not self._places.admit(connection, len(self._adopting)):
            return
        task = asyncio.create_task(self._adopt(connection))
        self._adopting.add(task)
        task.add_done_callback(self._adopted)

    async def _adopt(self, connection: socket.socket) -> None:
        # The protocol gets the same arguments as those that uvicorn makes for a listening server.
        protocol: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        factory = functools.partial(protocol, config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
        loop = asyncio.get_running_loop()
        if self._tls is None:
            await loop.connect_accepted_socket(factory, connection)
            return
        with self._handshakes.under_way(connection):
            await loop.connect_accepted_socket(
                factory,
                connection,
                ssl=self._tls.context,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S,
                ssl_shutdown_timeout=CLOSE_TIMEOUT_S,
            )

    def _stats(self) -> ConnectionStats:
        stats: ConnectionStats = self.lifespan.state[STATE].requests.connections
        return stats

    def _adopted(self, task: "asyncio.Task[None]") -> None:
        self._adopting.discard(task)
        if not task.cancelled():
            task.exception()  # the client has left already: no report is needed

    async def _remember_failure(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            self._failure = error
            raise


async def run_server(
    server: Server, listeners: list[socket.socket], stop: StopSignals, started: Callable[[], Awaitable[None]]
) -> None:
    """Run a server until a signal arrives, and call ``started`` once it serves. Requests under way may finish in time.

    Raises:
        CannotServe: a listener cannot be listened on.
        Exception: what the application's own start or ``started`` raised.
    """
    announcing = asyncio.create_task(_announce(server, started))
    announcing.add_done_callback(lambda _: _stop_if_failed(announcing, server))
    with stop.passed_to(server):
        try:
            await server.serve(sockets=listeners)
        except OSError as error:
            raise CannotServe(failure_of(error, server.settings)) from error
        finally:
            announcing.cancel()
            await asyncio.wait([announcing])
    if not announcing.cancelled() and (failure := announcing.exception()) is not None:
        raise failure


async def _announce(server: Server, started: Callable[[], Awaitable[None]]) -> None:
    await server.listening.wait()
    await started()


def _stop_if_failed(announcing: "asyncio.Task[None]", server: Server) -> None:
    if not announcing.cancelled() and announcing.exception() is not None:
        server.should_exit = True


@contextlib.contextmanager
def _silenced(name: str) -> Iterator[None]:
    # uvicorn logs a failed start with its traceback. The command reports it in a sentence instead.
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
