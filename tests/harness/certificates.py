"""Certificates that exist for one test: an authority, and what it signs. The program openssl makes them."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

_DAYS = "2"


@dataclass(frozen=True, slots=True)
class Pair:
    """PEM files of a certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """An authority of its own, whose files are in ``directory``."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self._directory = directory
        self.own = Pair(directory / f"{name}.pem", directory / f"{name}.key")
        _openssl(
            "req", "-x509", "-subj", f"/CN={name}", *_new_key(self.own.key), "-out", str(self.own.certificate), "-days", _DAYS
        )

    @property
    def certificate(self) -> Path:
        """The file that a client trusts."""
        return self.own.certificate

    def pair(self, name: str, *alternatives: str) -> Pair:
        """Sign a certificate for the names of a server, such as ``DNS:localhost`` and ``IP:127.0.0.1``."""
        made = Pair(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        request, extensions = self._directory / f"{name}.csr", self._directory / f"{name}.ext"
        extensions.write_text(f"subjectAltName={','.join(alternatives or ('DNS:localhost', 'IP:127.0.0.1'))}\n")
        _openssl("req", "-new", "-subj", f"/CN={name}", *_new_key(made.key), "-out", str(request))
        signing = ("-CA", str(self.own.certificate), "-CAkey", str(self.own.key), "-CAcreateserial", "-days", _DAYS)
        _openssl("x509", "-req", "-in", str(request), *signing, "-extfile", str(extensions), "-out", str(made.certificate))
        return made


def _new_key(path: Path) -> tuple[str, ...]:
    return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-keyout", str(path))


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, text=True)
