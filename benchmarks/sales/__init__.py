"""A shop's sales as requests: is each invoice booked exactly once, whatever fails on the way? README.md tells more.

    sales      rows of a file -> sales, with legal ids
    catalogue  sales -> the products that they need, as a CSV for ``larder import``
    invoices   sales -> one request for each invoice, with its idempotency key
    replay     the invoices, by several clients, at a steady rate if asked for; a summary and a list of refusals
               by adjustments (one for each invoice) or holds (which are committed, released, or left to their end)
    verify     the files against a running service, to the unit, in code of its own; verify_holds: after holds

HTTP, retries and signals are those of ``app.importer``.
"""
