"""The refusals of a request because of who sent it.

AccessError
├── Unauthenticated    no valid key came with the request
├── Forbidden          the key lacks the scope of the operation
├── KeysUnavailable    the keys could not be read lately, so none can be checked
├── RateLimited        the client has used up its rate
└── QuotaExceeded      the client has used up a quota of the day
"""

from typing import ClassVar

from app.access.keys import Scope


class AccessError(Exception):
    """The request is refused because of who sent it. Nothing was read or changed."""

    reason: ClassVar[str]
    """The name of the kind, which counts and logs use."""


class Unauthenticated(AccessError):
    """No valid key came with the request. ``given`` tells whether there was a credential at all."""

    reason = "unauthenticated"

    def __init__(self, reason: str, *, given: bool) -> None:
        self.given = given
        super().__init__(reason)


class Forbidden(AccessError):
    """The key does not have the scope of the operation."""

    reason = "forbidden"

    def __init__(self, scope: Scope, key_id: str, client: str) -> None:
        self.scope = scope
        super().__init__(f"key {key_id} of client {client} does not have the scope {scope}")


class KeysUnavailable(AccessError):
    """The keys could not be read lately. A key that was revoked meanwhile could not be told from a valid one."""

    reason = "keys-unavailable"


class RateLimited(AccessError):
    """The client has used up its rate; ``wait_s`` is the time until the request would be admitted."""

    reason = "rate-limited"

    def __init__(self, client: str, rate_per_s: float, wait_s: float) -> None:
        self.client = client
        self.rate_per_s = rate_per_s
        self.wait_s = wait_s
        super().__init__(f"client {client} has used up its rate of {rate_per_s:g} units per second")


class QuotaExceeded(AccessError):
    """The client has used up a quota of the day; ``wait_s`` is the time until a part of it is free again."""

    reason = "quota-exceeded"

    def __init__(self, client: str, quota: str, wait_s: float) -> None:
        self.quota = quota
        self.wait_s = wait_s
        super().__init__(f"client {client} has used up its quota of {quota}")
