"""The address that Larder serves on: functions to bind it, to listen on it, and to return its URL."""

import ipaddress
import socket
from errno import EACCES, EADDRINUSE

from app.server.errors import CannotServe
from app.settings import Settings

BACKLOG = 2_048
"""Connections that may wait in the kernel to be accepted."""


def bind(settings: Settings) -> socket.socket:
    """Return a socket that is bound to the address of the settings, but does not listen yet.

    Raises:
        CannotServe: another program uses the address, or this account may not use it.
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
        raise CannotServe(failure_of(error, settings)) from error
    return listener


def listen(listener: socket.socket, settings: Settings) -> None:
    """Listen on a bound socket.

    Raises:
        CannotServe: another program has begun to listen on the address since it was bound.
    """
    try:
        listener.listen(BACKLOG)
    except OSError as error:
        raise CannotServe(failure_of(error, settings)) from error


def local_url(listener: socket.socket, settings: Settings) -> str:
    """Return the URL by which this machine reaches a bound socket."""
    scheme = "https" if settings.tls_certificate else "http"
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - the settings decide where it listens
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def check_exposure(listener: socket.socket, settings: Settings) -> str | None:
    """Return a warning if the service is open on an address that other machines can reach.

    Raises:
        CannotServe: it would be open on an address of the public internet.
    """
    address = ipaddress.ip_address(listener.getsockname()[0].partition("%")[0])
    if settings.access != "open" or address.is_loopback:
        return None
    if address.is_global:
        raise CannotServe(
            f"LARDER_ACCESS is open and {address} is a public address, so everybody could change everything."
            " Set LARDER_ACCESS=keys and make a key with `larder keys create`, or listen on a private address."
        )
    return (
        f"LARDER_ACCESS is open, and {address} can be reached from other machines: whoever reaches it may change everything."
        " Set LARDER_ACCESS=keys unless the network keeps others out."
    )


def failure_of(error: OSError, settings: Settings) -> str:
    """Return a sentence about why the address of the settings cannot be used, and what to do."""
    host, port = settings.host, settings.port
    if error.errno == EADDRINUSE:
        return f"{host}:{port} is taken by another program. Stop it, or set LARDER_PORT to another port."
    if error.errno == EACCES:
        return f"This account may not listen on {host}:{port} ({error.strerror}). Set LARDER_PORT to a port above 1023."
    return f"{host}:{port} cannot be listened on ({error.strerror}). Correct LARDER_HOST and LARDER_PORT."
