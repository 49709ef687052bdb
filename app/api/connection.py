"""What `larder serve` does with a connection: the hot read, and an answer to what is not HTTP."""

import logging
import random

from app.api.hot_read import HotReads
from app.api.problems import MEDIA_TYPE, TYPES, Problem

_log = logging.getLogger("larder.http")


class Connection(HotReads):
    """The protocol class that uvicorn makes for each connection."""

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that the parser refused as a problem, like every other error, and close the connection."""
        identity = b"%032x" % random.getrandbits(128)
        _log.info("request %s: %s", identity.decode(), msg)
        kind = TYPES["malformed-request"]
        body = Problem(kind.slug, f"{kind.meaning} {kind.remedy}").body()
        usual = b"".join([b"%b: %b\r\n" % header for header in self.server_state.default_headers])
        self.transport.write(
            b"HTTP/1.1 400 Bad Request\r\n%bcache-control: no-store\r\ncontent-length: %d\r\ncontent-type: %b\r\n"
            b"x-request-id: %b\r\nconnection: close\r\n\r\n%b" % (usual, len(body), MEDIA_TYPE.encode(), identity, body)
        )
        self.transport.close()
