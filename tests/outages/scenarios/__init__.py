"""Outages that a run by chance cannot have, because they change what the servers are: each a scenario with figures to reach.

``python -m tests.outages.scenarios NAME [--seconds N]`` runs one; ``index`` names them all.
"""
