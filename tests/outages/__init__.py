"""Outages on real servers: several services, one PostgreSQL, one Redis, faults by signals and proxies, histories by HTTP.

``python -m tests.outages --minutes N`` runs them by chance from a seed; docs/PROOF.md says what is done and counted.
"""
