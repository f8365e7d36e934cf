"""A certificate of the tests' own, for 127.0.0.1 and localhost, which nobody else trusts."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from support.running import run

NAMES = "subjectAltName=IP:127.0.0.1,DNS:localhost"


@dataclass(frozen=True)
class Certificate:
    """Its files as PEM, and a client's settings that trust it and nothing else."""

    chain: Path
    key: Path

    @property
    def trusted(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.chain)

    @property
    def args(self) -> list[str]:
        """Of `cloner serve`."""
        return ["--tls-cert", str(self.chain), "--tls-key", str(self.key)]


def make_certificate(folder: Path, name: str = "tls") -> Certificate:
    made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    options = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-addext", NAMES)
    run("openssl", "req", "-x509", *options, "-subj", "/CN=localhost", "-keyout", made.key, "-out", made.chain)
    return made
