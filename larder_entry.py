"""The start of the command and of its worker processes.

Larder's package is called ``app``, as others are, too. A ``PYTHONPATH`` may lead to another one first, so the package beside
this file is loaded by its place before anything asks for it by its name.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_PACKAGE = "app"


def command() -> int:
    """Run the ``larder`` command, and return its exit status."""
    _load_own_package()
    from app.cli import main  # noqa: PLC0415 - the package is found only now

    return main()


def worker() -> int:
    """Run one of the processes of ``larder serve --workers N``, and return its exit status."""
    _load_own_package()
    from app.server.worker import main  # noqa: PLC0415 - as above

    return main()


def _load_own_package() -> None:
    start = Path(__file__).resolve().with_name(_PACKAGE) / "__init__.py"
    spec = spec_from_file_location(_PACKAGE, start, submodule_search_locations=[str(start.parent)])
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018 - the name of the file says how to load it
    sys.modules[_PACKAGE] = package = module_from_spec(spec)
    spec.loader.exec_module(package)


if __name__ == "__main__":
    sys.exit(worker())
