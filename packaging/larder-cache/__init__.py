"""A write-through cache of PostgreSQL tables in Redis that never answers with the past.

``EMBEDDING.md`` in this directory is the guide.
"""

from . import cache as _cache
from .cache import *  # noqa: F403 - the whole public face, which is defined there

__all__ = list(_cache.__all__)
