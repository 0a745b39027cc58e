"""The address of a server as a person writes it: host:port, with https:// before it or no port behind it. No torch."""

import ipaddress
import os
import re
from dataclasses import dataclass

from ..models.errors import AddressError

DEFAULT_PORT = 50051
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")  # in the order in which gRPC looks
_OTHER_SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "vsock:", "xds:")
_SCHEMES = {"http": False, "grpc": False, "https": True, "grpcs": True}  # whether it asks for TLS
_HOST = r"\[[0-9a-fA-F:.%]+\]|[0-9a-fA-F]*:[0-9a-fA-F]*:[0-9a-fA-F:.]*|[\w.-]+"


@dataclass(frozen=True, slots=True)
class Address:
    """A target as gRPC takes it; host and port are empty and 0 where it is of a scheme that gRPC knows by itself."""

    target: str
    host: str = ""
    port: int = 0
    tls: bool = False

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine is meant, so that no proxy can lead there."""
        if self.host.lower() == "localhost":
            return True
        try:
            found = ipaddress.ip_address(self.host.strip("[]"))
        except ValueError:
            return False
        return found.is_loopback or found.is_unspecified

    @property
    def is_local(self) -> bool:
        """Whether what is sent there stays on this machine."""
        return self.is_loopback or self.target.startswith(("unix:", "unix-abstract:"))

    def nobody(self) -> AddressError:
        """What is said where nobody answers, with what would help there."""
        if not self.port:
            return AddressError(f"nobody answers at {self.target}; `moesaic serve` listens on ports: give host:port")
        option = "" if self.port == DEFAULT_PORT else f" --port {self.port}"
        if self.is_loopback:
            return AddressError(f"nobody answers at {self.target}; start a server with: moesaic serve PATH{option}")
        proxy = next((f"{name}={value}" for name in _PROXIES if (value := os.environ.get(name))), None)
        asked = f", asked through the proxy of {proxy} unless no_proxy names it" if proxy else ""
        return AddressError(
            f"nobody answers at {self.target}{asked}; a server without TLS listens on its own machine only: forward "
            f"its port with `ssh -L {self.port}:127.0.0.1:{self.port} {self.host}` and use localhost:{self.port}"
        )

    def no_tls(self, details: str) -> AddressError:
        """What is said where somebody answers and TLS with them fails."""
        if "WRONG_VERSION_NUMBER" in details:
            return AddressError(f"{self.target} answers without TLS; write http:// before the address")
        if "Socket closed" in details and not self.tls:
            return AddressError(f"{self.target} hangs up at once; if it speaks TLS, write https:// before the address")
        reason = " ".join(details.rpartition("OPENSSL_internal:")[2].removesuffix(": OK").split())[-200:]
        return AddressError(
            f"{self.target} answers, and TLS with it fails: {reason}; see that ca names who signed its certificate, "
            "that the certificate is for this name, and that it asks for no client_cert that was not given"
        )


def read_address(text: str) -> Address:
    """The server that is meant. Raises AddressError with the way out for what names none."""
    written = text.strip()
    if written.startswith(_OTHER_SCHEMES):
        return Address(written)
    scheme, slashes, rest = written.partition("://")
    plain = rest.removesuffix("/") if slashes else written
    if slashes and scheme.lower() not in _SCHEMES:
        raise AddressError(f"address {text!r} has the scheme {scheme!r}; write host:port, or https://host:port for TLS")
    if "/" in plain:
        raise AddressError(f"address {text!r} has a path, which a server has not; write {plain.partition('/')[0]}")
    found = re.fullmatch(rf"({_HOST})(:(\d{{0,9}}))?", plain, re.ASCII)
    if found is None:
        raise AddressError(f"address {text!r} is no host with a port; write for example localhost:{DEFAULT_PORT}")
    host = f"[{found[1]}]" if ":" in found[1] and found[1][0] != "[" else found[1]
    if found[2] and not 1 <= int(found[3] or 0) <= 65535:
        raise AddressError(
            f"address {text!r} has no port behind the colon that a server can have; "
            f"give one from 1 to 65535, or leave the colon out for {DEFAULT_PORT}"
        )
    port = int(found[3]) if found[2] else DEFAULT_PORT
    return Address(f"{host}:{port}", host, port, _SCHEMES[scheme.lower()] if slashes else False)
