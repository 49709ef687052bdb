"""The keys of a request's state, in which the server, the layers and the endpoint leave things for each other.

The state is the dictionary ``scope["state"]``, which begins as a copy of the lifespan's. It has what one request needs, and
goes with it.
"""

REQUEST_ID = "request_id"
"""The request's id, as the answer and the ledger show it."""
CALLER = "caller"
"""The sender of an admitted request, a ``Caller``."""
FIELDS = "fields"
"""The table of the request's header fields (``fields``)."""
PROBLEM = "problem"
"""The type of the problem that the request was answered with, and the reason for the operator."""

BEGAN = "began"
"""When the server looked for the answer in Redis, on the monotonic clock."""
READING = "reading"
"""The ``Reading`` that the hot read leaves for the endpoint."""
SAMPLED = "sampled"
"""Whether the request is sampled, if the server has decided that."""

NAMED = "named"
"""The ids in a read's query, to be checked again before it is answered."""
DECODED = "decoded"
"""The list in which a write leaves its command instead of carrying it out."""
RECORDED = "recorded"
"""The ids of the products of a decoded write, also of those that the service made."""
