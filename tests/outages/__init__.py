"""Outages on real servers: several services, one PostgreSQL, one Redis, faults by signals and proxies, histories over HTTP.

``python -m tests.outages --minutes N`` runs random outages from a seed. docs/PROOF.md describes what is done and counted.
"""
