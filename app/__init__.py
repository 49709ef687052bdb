"""Larder: a product and stock service whose cache never returns old data."""
