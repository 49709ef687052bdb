"""Outages that a random run cannot have, because they replace servers. Each is a scenario with figures to reach.

``python -m tests.outages.scenarios NAME [--seconds N]`` runs one; ``index`` lists all.
"""
