"""Larder: a product and stock service whose cache never answers with the past."""
