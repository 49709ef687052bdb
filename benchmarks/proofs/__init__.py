"""Faults under load: what is counted is answers with the past, and sales done twice or not at all."""
