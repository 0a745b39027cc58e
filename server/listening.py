"""Where a server listens, and what an address that others can reach asks of it."""

import errno
import ipaddress

from ..models.errors import AddressError, SetupError


def listening_address(host: str) -> str:
    """The IP address that `host` means. Raises AddressError for what is none."""
    if host == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        raise AddressError(
            f"host {host!r} is not an IP address; give 127.0.0.1 or ::1, or with TLS and tokens 0.0.0.0 or ::"
        ) from None


def check_exposure(host: str, has_tls: bool, has_tokens: bool) -> None:
    """Raises AddressError for an address that others can reach where not all of them must say who they are, unheard."""
    address = ipaddress.ip_address(listening_address(host))
    if address.is_loopback or (has_tls and has_tokens):
        return
    missing = " and ".join(
        flag for flag, there in (("--tls-cert and --tls-key", has_tls), ("--tokens", has_tokens)) if not there
    )
    raise AddressError(
        f"host {host} can be reached from other machines, which takes both TLS and tokens: add {missing}; "
        "or listen on 127.0.0.1 and forward the port, for example with ssh -L"
    )


def check_tls_files(cert: str | None, key: str | None, client_ca: str | None) -> None:
    """Raises SetupError for one file of a pair without the other."""
    if (cert is None) != (key is None):
        given, missing = ("tls_cert", "--tls-key") if key is None else ("tls_key", "--tls-cert")
        raise SetupError(f"{given} is given alone; TLS takes a certificate and its key: add {missing}")
    if client_ca is not None and cert is None:
        raise SetupError("tls_client_ca is given without TLS; add --tls-cert and --tls-key")


def place(host: str, port: int) -> str:
    """host:port as it is written."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def cannot_listen(where: str, flag: str, error: OSError) -> AddressError:
    """What is said of a port that cannot be had; flag: where another one is asked for."""
    if error.errno != errno.EADDRINUSE:
        return AddressError(f"{where} cannot be listened on: {error.strerror}")
    way_out = f"stop it, or choose another port with {flag} (0 takes any free one)"
    return AddressError(f"{where} is taken by another program; {way_out}")
