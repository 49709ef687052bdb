"""Measures which write policy a workload justifies."""
