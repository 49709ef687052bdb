"""The HTTP server of one process: uvicorn with Larder's connections, signals and errors."""

import asyncio
import contextlib
import functools
import gc
import logging
import socket
from collections.abc import Awaitable, Callable, Generator, Iterator

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from typing_extensions import override

from app.server.address import BACKLOG, failure_of
from app.server.connection import Connection
from app.server.errors import CannotServe
from app.server.signals import StopSignals, grace_s
from app.server.tls import CLOSE_TIMEOUT_S, HANDSHAKE_TIMEOUT_S, ServerTls
from app.settings import Settings

_UVICORN_LOGGER = "uvicorn.error"
# This is longer than clients and proxies keep an idle connection, so that they close it, and no request is sent on a connection
# that the server closes.
_KEEP_ALIVE_S = 75
_LATECOMERS_S = 0.1


class Server(uvicorn.Server):
    """uvicorn's server with four differences.

    ``StopSignals`` handles the signals, an error of the application's start is raised, ``listening`` is set once requests are
    taken, and with a certificate in the settings the connections are TLS (``ServerTls``).
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        config = uvicorn.Config(
            app,
            interface="asgi3",
            http=Connection,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=grace_s(settings),
        )
        config.load()
        super().__init__(config)
        self.settings = settings
        self.listening = asyncio.Event()
        self._app = app
        self._adopting: set[asyncio.Task[None]] = set()
        self._failure: Exception | None = None
        self._tls: ServerTls | None = None
        self._background: list[asyncio.Task[None]] = []

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
                # uvicorn knows no limit for a handshake, so it gets no socket to wrap.
                await super().startup(sockets=[] if self._tls else sockets)
            if self._tls is not None:
                await self._listen_by_tls(self._tls, sockets or [])
        except SystemExit:
            raise self._failure or CannotServe("the application ended while starting") from None
        except OSError:
            await self.lifespan.shutdown()
            raise
        finally:
            self.config.loaded_app = self._app
        # The objects made so far live as long as the process. They are frozen, so that no garbage collection searches them.
        gc.collect()
        gc.freeze()
        self.listening.set()

    def adopt(self, connection: socket.socket) -> None:
        """Serve a connection that another process accepted. From now on its socket belongs to this server."""
        if self.should_exit:
            connection.close()
            return
        task = asyncio.create_task(self._adopt(connection))
        self._adopting.add(task)
        task.add_done_callback(self._adopted)

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop. A connection whose handshake ends only now is told so as well."""
        for task in self._background:
            task.cancel()
        late = asyncio.create_task(self._shut_down_latecomers())
        try:
            await super().shutdown(sockets=sockets)
        finally:
            late.cancel()
            await asyncio.gather(late, *self._background, return_exceptions=True)

    async def _shut_down_latecomers(self) -> None:
        told = set(self.server_state.connections)
        while True:
            await asyncio.sleep(_LATECOMERS_S)
            for connection in self.server_state.connections - told:
                connection.shutdown()
            told = set(self.server_state.connections)

    def _factory(self) -> Callable[[], asyncio.Protocol]:
        # The protocol gets the same arguments as those that uvicorn makes for a listening server.
        protocol: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return functools.partial(protocol, config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    async def _listen_by_tls(self, tls: ServerTls, listeners: list[socket.socket]) -> None:
        self._background.append(asyncio.create_task(tls.keep()))
        for listener in listeners:
            serving = await asyncio.get_running_loop().create_server(
                self._factory(),
                sock=listener,
                backlog=BACKLOG,
                ssl=tls.context,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S,
                ssl_shutdown_timeout=CLOSE_TIMEOUT_S,
            )
            self.servers.append(serving)

    async def _adopt(self, connection: socket.socket) -> None:
        await asyncio.get_running_loop().connect_accepted_socket(
            self._factory(),
            connection,
            ssl=self._tls.context if self._tls else None,
            ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S if self._tls else None,
            ssl_shutdown_timeout=CLOSE_TIMEOUT_S if self._tls else None,
        )

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
