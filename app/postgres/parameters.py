"""The session parameters that every connection sets, whatever the server, the database, the role or the URL says.

They are those on which answers, errors or speed depend. They are set by one statement after the login, not by the startup
packet's ``options``, so that options of the URL (``search_path``, an endpoint's name) stay in force. Behind a pooler that
shares sessions among clients, ``pooler`` says what replaces that statement.
"""

from collections.abc import Mapping
from typing import LiteralString

ANSWERS: Mapping[str, str] = {
    "client_encoding": "UTF8",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "transform_null_equals": "off",
    "quote_all_identifiers": "off",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
}
"""How values are written and read, and what a transaction sees.

``default_transaction_read_only`` is left alone: whoever makes a database read-only means it.
"""

LIMITS: Mapping[str, str] = {
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",
}
"""No limit, unless the connection's use names one. A connection of a share rests for as long as nobody needs it."""

# Every statement finds its rows by an index, whatever the values, so its plan is made once and kept (docs/decisions/0010). A
# plan made while a table is small must not scan the table when it has grown. Cursors are planned to be read to the end. A plan
# that cannot avoid a scan looks so expensive that it would be compiled, which takes longer than the scan.
PLANS: Mapping[str, str] = {
    "plan_cache_mode": "force_generic_plan",
    "cursor_tuple_fraction": "1",
    "jit": "off",
    "enable_seqscan": "off",
    "enable_indexscan": "on",
    "enable_indexonlyscan": "on",
    "enable_bitmapscan": "on",
    "enable_tidscan": "on",
    "enable_nestloop": "on",
    "enable_hashjoin": "on",
    "enable_mergejoin": "on",
    "enable_sort": "on",
    "max_parallel_workers_per_gather": "0",
}

PIN: LiteralString = """
SELECT set_config(name, value, %(local)s) FROM unnest(%(names)s::text[], %(values)s::text[]) AS pinned (name, value)
WHERE current_setting(name, true) IS NOT NULL
UNION ALL
SELECT set_config('synchronous_commit', 'on', %(local)s) WHERE current_setting('synchronous_commit') = 'off'
"""
"""Sets the parameters that the server's version knows, for the session, or for the transaction if ``local``.

A commit that becomes visible and is then lost in a crash must never be cached, and an audit's announcement must not be lost.
"""
