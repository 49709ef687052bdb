"""Drills: what docs/RECOVERY.md tells an operator to do, carried out with the commands of that page under load."""
