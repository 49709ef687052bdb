"""The HTTP server in this process, from a bound socket to the last answer."""

import asyncio
import contextlib
import functools
import gc
import logging
import signal
import socket
from collections.abc import Awaitable, Callable, Generator, Iterator
from errno import EACCES, EADDRINUSE
from types import FrameType, TracebackType
from typing import Protocol, Self

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.connection import Connection
from app.cli.errors import CommandFailed
from app.settings import Settings

_UVICORN_LOGGER = "uvicorn.error"
_BACKLOG = 2_048
_GRACE_MARGIN_S = 2
"""Beyond the deadline of a write, so that a stop lets what was accepted be answered."""
# Longer than clients and proxies keep an idle connection, so that it is not closed under a request on its way.
_KEEP_ALIVE_S = 75

Ready = Callable[[str], Awaitable[None]]
"""Called once with the service's URL, when it takes requests."""


class Ended(Protocol):
    """What a signal ends in order."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; a second SIGINT drops the requests under way."""


class StopSignals:
    """SIGINT and SIGTERM, from the first server started to the last one stopped.

    While a command starts, they cancel it; while it serves, they end the serving in order; while it cleans up, which is
    bounded in time, they change nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._task: asyncio.Task[object] | None = None
        self._server: Ended | None = None

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._received, number)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    @contextlib.contextmanager
    def cancelling(self) -> Iterator[None]:
        """Inside, a signal cancels the current task while nothing is served; the cancellation ends here."""
        self._task = asyncio.current_task()
        try:
            yield
        except asyncio.CancelledError:
            if not self.requested:
                raise
        finally:
            self._task = None

    @contextlib.contextmanager
    def passed_to(self, server: Ended) -> Iterator[None]:
        """Inside, a signal ends `server` in order; a second SIGINT drops the requests under way."""
        self._server = server
        try:
            yield
        finally:
            self._server = None

    def end(self) -> None:
        """Do as if SIGTERM had come."""
        self._received(signal.SIGTERM)

    def _received(self, number: signal.Signals) -> None:
        first, self.requested = not self.requested, True
        if self._server is not None:
            self._server.handle_exit(number, None)
        elif first and self._task is not None:
            self._task.cancel()


class Server(uvicorn.Server):
    """uvicorn's server, with signals left to us, start-up errors kept, and a word when it listens."""

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
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=grace_s(settings),
        )
        config.load()
        super().__init__(config)
        self.settings = settings
        self.listening = asyncio.Event()
        self._app = app
        self._failure: Exception | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave them to `StopSignals`, which is there before and after the serving, too."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application and listen.

        Raises:
            OSError: the address cannot be listened on.
            Exception: what the application's own start raised.
        """
        # Only the lifespan goes through the wrapper: a request must not pay for it.
        self.config.loaded_app = self._remember_failure
        try:
            with _silenced(_UVICORN_LOGGER):
                await super().startup(sockets=sockets)
        except SystemExit:
            raise self._failure or CommandFailed("the application ended while starting") from None
        except OSError:
            await self.lifespan.shutdown()
            raise
        finally:
            self.config.loaded_app = self._app
        # What the start made lives as long as the process: looking through it again and again would cost reads their time.
        gc.collect()
        gc.freeze()
        self.listening.set()

    async def adopt(self, connection: socket.socket) -> None:
        """Serve a connection that somebody else accepted; its socket belongs to the server from now on."""
        # As a listening server makes them.
        protocol: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        factory = functools.partial(protocol, config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
        await asyncio.get_running_loop().connect_accepted_socket(factory, connection)

    async def _remember_failure(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            self._failure = error
            raise


def grace_s(settings: Settings) -> int:
    """How long a stop lets requests under way go on, in seconds."""
    return settings.request_timeout_ms // 1_000 + _GRACE_MARGIN_S


def bind(settings: Settings) -> socket.socket:
    """Take the address to serve on, before anything else is started.

    Raises:
        CommandFailed: somebody else has it, or it is not ours to take.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise CommandFailed(_bind_failure(error, settings)) from error
    return listener


def listen(listener: socket.socket, settings: Settings) -> None:
    """Let connections come to a bound socket.

    Raises:
        CommandFailed: the address was taken in the last moment.
    """
    try:
        listener.listen(_BACKLOG)
    except OSError as error:
        raise CommandFailed(_bind_failure(error, settings)) from error


async def serve(app: ASGIApp, settings: Settings, listener: socket.socket, stop: StopSignals, ready: Ready) -> None:
    """Serve `app` on `listener` until a signal; requests under way are let finish within their deadline.

    Raises:
        CommandFailed: the address was taken in the last moment.
        Exception: what the application's own start raised, or `ready`.
    """
    url = local_url(listener)
    await run_server(Server(app, settings), [listener], stop, lambda: ready(url))


async def run_server(
    server: Server, listeners: list[socket.socket], stop: StopSignals, started: Callable[[], Awaitable[None]]
) -> None:
    """Run a server until a signal, and `started` once it serves.

    Raises:
        CommandFailed: a listener cannot be listened on.
        Exception: what the application's own start raised, or `started`.
    """
    announcing = asyncio.create_task(_announce(server, started))
    announcing.add_done_callback(lambda _: _end_if_failed(announcing, server))
    with stop.passed_to(server):
        try:
            await server.serve(sockets=listeners)
        except OSError as error:
            raise CommandFailed(_bind_failure(error, server.settings)) from error
        finally:
            announcing.cancel()
            await asyncio.wait([announcing])
    if not announcing.cancelled() and (failure := announcing.exception()) is not None:
        raise failure


async def _announce(server: Server, started: Callable[[], Awaitable[None]]) -> None:
    await server.listening.wait()
    await started()


def _end_if_failed(announcing: "asyncio.Task[None]", server: Server) -> None:
    if not announcing.cancelled() and announcing.exception() is not None:
        server.should_exit = True


def local_url(listener: socket.socket) -> str:
    """The URL by which this machine reaches a listening socket."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - where it listens is the setting's choice
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def log_to_stderr() -> None:
    """Log from INFO on, the libraries' own chatter from WARNING on."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in (_UVICORN_LOGGER, "httpx", "httpcore", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


@contextlib.contextmanager
def _silenced(name: str) -> Iterator[None]:
    # uvicorn logs a failed start with its traceback; the command says it in a sentence.
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _bind_failure(error: OSError, settings: Settings) -> str:
    host, port = settings.host, settings.port
    if error.errno == EADDRINUSE:
        return f"{host}:{port} is taken by another program. Stop it, or set LARDER_PORT to another port."
    if error.errno == EACCES:
        return f"{host}:{port} is not ours to listen on ({error.strerror}). Set LARDER_PORT to a port above 1023."
    return f"{host}:{port} cannot be listened on ({error.strerror}). Correct LARDER_HOST and LARDER_PORT."
