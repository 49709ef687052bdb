"""For which Pythons and platforms every package that `make run` installs has a wheel: ``python -m tests.resolve``.

It asks the package index through uv, which resolves for platforms other than its own, and prints a row for each. The exit
status is 1 when a package has no wheel there. Where the private servers have none, the service alone has to resolve.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements-run.txt"
SERVICE = ROOT / "requirements.txt"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PLATFORMS = {
    "Linux x86-64": "x86_64-manylinux_2_28",
    "Linux ARM": "aarch64-manylinux_2_28",
    "musl x86-64": "x86_64-unknown-linux-musl",
    "musl ARM": "aarch64-unknown-linux-musl",
    "macOS ARM": "aarch64-apple-darwin",
    "macOS Intel": "x86_64-apple-darwin",
}
WITHOUT_PRIVATE_SERVERS = frozenset({"musl x86-64", "musl ARM"})
"""Platforms on which the private servers have no wheel; the service itself must resolve there."""


def resolves(lock: Path, python: str, platform: str) -> str:
    """Nothing when every package of a lock has a wheel there, else what the resolver says."""
    uv = Path(sys.executable).with_name("uv")
    with tempfile.TemporaryDirectory() as directory:
        command = [
            uv, "pip", "install", "--dry-run", "--quiet", "--target", directory, "--python", sys.executable,
            "--python-version", python, "--python-platform", platform, "--only-binary", ":all:", "--require-hashes",
            "--requirement", lock,
        ]  # fmt: skip
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else " ".join(done.stderr.split())


def main() -> int:
    """Print the table; 1 when something is not as expected."""
    wrong = 0
    for name, platform in PLATFORMS.items():
        for python in PYTHONS:
            lock = SERVICE if name in WITHOUT_PRIVATE_SERVERS else LOCK
            trouble = resolves(lock, python, platform)
            wrong += bool(trouble)
            found = trouble or ("yes" if lock is LOCK else "the service alone: bring your own PostgreSQL and Redis")
            print(f"{name:14} Python {python}: {found}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
