"""What a caller may know of an exception; the rest goes to the log under an incident id."""

import logging
import secrets

from ..models.errors import MoesaicError, RequestFailed, SetupError

_log = logging.getLogger(__name__)


def told(error: Exception, where: str) -> MoesaicError:
    """The exception itself where the caller can do something about it, else one that only names the incident."""
    ours = isinstance(error, RequestFailed | SetupError) or type(error) is MoesaicError
    if isinstance(error, MoesaicError) and not ours:
        return error
    incident = secrets.token_hex(4)
    if isinstance(error, RequestFailed):
        _log.error("incident %s in %s: %s", incident, where, error)
        return RequestFailed(f"the engine failed on this request, incident {incident}")
    _log.error("incident %s in %s", incident, where, exc_info=error)
    return MoesaicError(f"internal error, incident {incident}")


def let_go(error: BaseException | None) -> None:
    """Parts an error from the frames that it came through: they and their task lead to each other, and would keep a
    request of megabytes while it is told, or until somebody looks for rings.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__context__
