"""What a server is opened with: who may call, and the certificate that it shows."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from .access import Access
from .certificates import Certificates, TlsFiles
from .options import ServeOptions
from .reloaded import Looking, Reloaded
from .tokens import Known, read_tokens

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Security:
    """access: the check behind every door. certificates: of every port with TLS; None without. told: said at start."""

    access: Access
    certificates: Certificates | None
    reloaded: Sequence[Looking]
    told: Sequence[str]

    @property
    def credentials(self) -> grpc.ServerCredentials | None:
        """What gRPC listens with; None without TLS."""
        return self.certificates.credentials() if self.certificates else None


def open_security(options: ServeOptions) -> Security:
    """Reads what the options name. Raises SetupError for a certificate or tokens with which no server can start."""
    certificates = _certificates(options)
    tokens = _tokens(options)
    access = Access(None if tokens is None else lambda: tokens.current)
    told = []
    if certificates is not None:
        asks = ", and callers show one too" if options.tls_client_ca else ""
        told.append(f"TLS: {certificates.current.told}{asks}")
        if certificates.current.ends_soon(time.time()):
            _log.warning("the certificate ends soon; put another in its place, which takes no restart")
    if tokens is not None:
        told.append(f"tokens: {len(tokens.current)} may call")
    return Security(access, certificates, [each for each in (certificates, tokens) if each is not None], told)


def _certificates(options: ServeOptions) -> Certificates | None:
    if options.tls_cert is None or options.tls_key is None:
        return None
    client_ca = Path(options.tls_client_ca) if options.tls_client_ca else None
    return Certificates(TlsFiles(Path(options.tls_cert), Path(options.tls_key), client_ca))


def _tokens(options: ServeOptions) -> Reloaded[Mapping[bytes, Known]] | None:
    if options.tokens is None:
        return None
    file = Path(options.tokens)
    return Reloaded("tokens", [file], lambda: read_tokens(file))
