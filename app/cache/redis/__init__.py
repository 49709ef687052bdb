"""The cache's Redis side: the ports ``Store`` and ``AuditStore``, their scripts, and the connections that they use."""
