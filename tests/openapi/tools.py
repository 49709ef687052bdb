"""The tools that others wrote: packages that CI and ``make openapi`` install."""

import os
from importlib import import_module
from types import ModuleType

import pytest


def needed(name: str) -> ModuleType:
    """Return a package. The test is skipped if it is missing, but in CI it fails."""
    try:
        return import_module(name)
    except ImportError:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{name} is not installed: make openapi")
