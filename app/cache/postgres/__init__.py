"""The cache's PostgreSQL side: the ``HistorySource`` and ``AuditSource`` ports for one table, and the statements they send."""
