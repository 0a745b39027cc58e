"""Whom a browser may have sent: pages of other sites have no business here."""

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from .errors import HttpError


def check_origin(headers: Mapping[str, str], asks: bool) -> None:
    """Raises HttpError for a page that another site has sent, and where nobody is asked who they are, for a host that
    is not this machine.

    The second is how a foreign name that is made to lead here (DNS rebinding) is told from our own. A browser adds no
    token by itself, so that a server which asks for one may have any name.
    """
    host = headers.get("host", "")
    if not asks and not _is_loopback(_place(f"//{host}")[1]):
        text = f"host {ascii(host[:100])} is not this machine; use localhost, or have a proxy say so"
        raise HttpError(421, "FOREIGN_HOST", text)
    origin = headers.get("origin")
    if origin is not None and _place(origin)[0] != host.lower():
        text = f"a page of {ascii(origin[:100])} may not use this server; have a proxy in front serve both"
        raise HttpError(403, "FOREIGN_ORIGIN", text)


def _place(url: str) -> tuple[str, str]:
    """The host with its port, and without; both empty where there is none."""
    try:
        parts = urlsplit(url)
        return parts.netloc.lower(), parts.hostname or ""
    except ValueError:
        return "", ""


def _is_loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
