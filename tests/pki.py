"""Certificates for tests: an authority of their own, and files as a server is given them."""

from datetime import datetime
from pathlib import Path

import trustme

from moesaic.server.certificates import TlsFiles


class Authority:
    """Signs certificates for this machine; `file` is what those who trust it are given."""

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self._folder = folder
        self.file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def issue(self, name: str = "server", until: datetime | None = None, since: datetime | None = None) -> TlsFiles:
        """NAME.pem and NAME.key, of which what was there before is replaced."""
        issued = self._ca.issue_cert("localhost", "127.0.0.1", not_after=until, not_before=since)
        cert, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        chain = b"".join(each.bytes() for each in issued.cert_chain_pems)
        put(cert, chain)
        put(key, issued.private_key_pem.bytes())
        return TlsFiles(cert, key)


def put(file: Path, data: bytes) -> None:
    """Writes a file as careful tools do: whole, under another name first, and for its owner alone."""
    partial = file.with_name(f"{file.name}.new")
    partial.write_bytes(data)
    partial.chmod(0o600)
    partial.replace(file)
