from tests.cli.conftest import larder

__all__ = ["larder"]
