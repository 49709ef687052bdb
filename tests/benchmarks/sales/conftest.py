"""The replay of sales has the importer's Larder."""

from tests.importer.conftest import larder

__all__ = ["larder"]
