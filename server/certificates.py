"""The certificate of a server: checked before it is shown to anybody, and replaced while the server runs."""

import logging
import ssl
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

import grpc

from ..models.errors import SetupError
from .private_files import read_private, read_public
from .reloaded import Reloaded

_log = logging.getLogger(__name__)
MOST_BYTES = 1 << 20
WARN_SECONDS = 14 * 86_400.0


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files. client_ca: who signs the certificates that callers must show; None asks for none."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    @property
    def all(self) -> list[Path]:
        """Those that there are."""
        return [self.cert, self.key, *([self.client_ca] if self.client_ca else [])]


@dataclass(frozen=True, slots=True)
class Certificate:
    """What files held, in which nothing was wrong. until: a time.time(). context: for doors that are not gRPC's."""

    chain: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    names: tuple[str, ...]
    until: float
    context: ssl.SSLContext

    @property
    def told(self) -> str:
        """For whom and until when."""
        day = datetime.fromtimestamp(self.until, UTC)
        return f"certificate for {', '.join(self.names) or 'no name'}, valid until {day:%Y-%m-%d %H:%M} UTC"

    def ends_soon(self, now: float) -> bool:
        """Whether it is time for another one."""
        return self.until - now < WARN_SECONDS


class Certificates:
    """The newest certificate that was right, for every connection that begins."""

    def __init__(self, files: TlsFiles) -> None:
        self._reloaded = Reloaded("TLS", files.all, lambda: read_certificate(files))
        self._given = self._reloaded.current
        self._lock = Lock()
        self._ended: Certificate | None = None

    def look(self) -> None:
        """Takes a new one where there is one; says once that the one in force has ended."""
        self._reloaded.look()
        if self.current.until <= time.time() and self._ended is not self.current:
            self._ended = self.current
            _log.error("TLS: the %s: callers refuse it; put another in its place", self.current.told)

    @property
    def current(self) -> Certificate:
        """What the next connection is shown."""
        return self._reloaded.current

    def credentials(self) -> grpc.ServerCredentials:
        """Those of a port. A connection that there is keeps what it began with."""
        asks_callers = self._given.client_ca is not None
        return grpc.dynamic_ssl_server_credentials(_configured(self._given), self._newer, asks_callers)

    def context(self) -> ssl.SSLContext:
        """The same for a door that is not gRPC's: the newest certificate for every handshake that begins."""

        def choose(connection: ssl.SSLObject, name: str | None, first: ssl.SSLContext) -> None:
            connection.context = self.current.context

        first = self.current.context
        first.sni_callback = choose
        return first

    def _newer(self) -> Any:
        """What gRPC asks in a thread of its own before every handshake; None for no change."""
        with self._lock:
            if self.current is self._given:
                return None
            self._given = self.current
            return _configured(self._given)


def read_certificate(files: TlsFiles) -> Certificate:
    """What the files hold. Raises SetupError for a key of another certificate, one that has ended, and the like."""
    chain, key = _pair(files)
    client_ca = read_public(files.client_ca, "tls_client_ca", MOST_BYTES) if files.client_ca else None
    context = _server_side(files)
    shown = _shown(context, files.cert)
    if files.client_ca:
        _ask_callers(context, files.client_ca)
    if _pair(files) != (chain, key):
        raise SetupError("tls_cert and tls_key are being replaced")
    names = tuple(str(value) for _, value in shown.get("subjectAltName", ()))
    return Certificate(chain, key, client_ca, names, ssl.cert_time_to_seconds(shown["notAfter"]), context)


def _configured(found: Certificate) -> Any:
    return grpc.ssl_server_certificate_configuration([(found.key, found.chain)], found.client_ca)


def _pair(files: TlsFiles) -> tuple[bytes, bytes]:
    return read_public(files.cert, "tls_cert", MOST_BYTES), read_private(files.key, "tls_key", MOST_BYTES)


def _ask_callers(context: ssl.SSLContext, file: Path) -> None:
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(cafile=file)
    except (ssl.SSLError, OSError):
        raise SetupError(f"tls_client_ca: {file} holds no certificates in PEM") from None


def _shown(server: ssl.SSLContext, cert: Path) -> dict[str, Any]:
    """What a caller that trusts this very certificate sees of it: both ends of a handshake, without a network."""
    caller = _caller_side(cert)
    to_server, to_caller = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        caller.wrap_bio(to_caller, to_server, server_side=False),
        server.wrap_bio(to_server, to_caller, server_side=True),
    ]
    try:
        for _ in range(4):
            for end in ends:
                _go_on(end)
    except ssl.SSLCertVerificationError as error:
        why = error.verify_message or "it is wrong"
        now = datetime.fromtimestamp(time.time(), UTC)
        raise SetupError(f"tls_cert: {cert}: {why}, by the clock of this machine ({now:%Y-%m-%d})") from None
    except ssl.SSLError as error:
        raise SetupError(f"tls_cert: {cert} cannot be shown to callers: {error.reason}") from None
    found: dict[str, Any] = dict(ends[0].getpeercert() or {})
    return found


def _go_on(end: ssl.SSLObject) -> None:
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        pass


def _server_side(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(files.cert, files.key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise SetupError(f"tls_key: {files.key} is not the key of the certificate {files.cert}") from None
        raise SetupError(f"tls_cert, tls_key: {files.cert} and {files.key} are no certificate and key in PEM") from None
    except OSError as error:
        raise SetupError(f"tls_cert, tls_key: {error.strerror or error}") from None
    return context


def _caller_side(cert: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cafile=cert)
    return context


def _no_password() -> str:
    raise SetupError("tls_key: the key is encrypted; a server that starts by itself needs one without a password")
