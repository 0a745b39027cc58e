"""What can go wrong, and what the caller is told. Imports nothing of the project.

MoesaicError              INTERNAL              our fault; what stands below is not
  InvalidRequest          INVALID_ARGUMENT      it can never succeed; every bad field is listed
  NotFound                NOT_FOUND             nothing of this name is served
  AlreadyExists           ALREADY_EXISTS        a request of this id is still running, a model of this name is served
  Unsupported             FAILED_PRECONDITION   the model cannot do what was asked of it
  Overloaded              RESOURCE_EXHAUSTED    the same request may succeed later
  Unavailable             UNAVAILABLE           loading, draining or restarting: try again, or elsewhere
    Expired               DEADLINE_EXCEEDED     its time is over, or would be before its first token
  Unauthenticated         UNAUTHENTICATED       nobody knows who calls
  PermissionDenied        PERMISSION_DENIED     who calls may not do this
  Unread                  ABORTED               the caller does not take in what it asked for
  Aborted                 CANCELLED             whoever runs the server has ended it
  RequestFailed           INTERNAL              the engine failed on this one request; the others go on
  SetupError              (at start only)       something outside the request is not as it must be
    CheckpointError                             the files on disk are not what their config says
    RecipeError                                 the recipe asks for something that does not exist
    TextError                                   a text to score is missing, empty or not UTF-8
    FetchError                                  a model asked for by name is unknown, or cannot be fetched
    OutputError                                 what was made cannot be written where it was to go
    AddressError                                the address cannot be listened on, or nobody answers there
"""

import dataclasses
from collections.abc import Mapping, Sequence


@dataclasses.dataclass(frozen=True, slots=True)
class Violation:
    """One bad field: its path as the caller wrote it, and a sentence: the value, the limit, the way out."""

    field: str
    message: str
    reason: str = "INVALID_VALUE"
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)


class MoesaicError(Exception):
    """The root. Its message is one sentence meant for the person who has to act."""


class InvalidRequest(MoesaicError):
    """The request can never succeed. `violations` holds every bad field, not just the first."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{v.field}: {v.message}" for v in self.violations))


class NotFound(MoesaicError):
    """Nothing of this name is served. `name` is what was asked for."""

    def __init__(self, message: str, name: str = "") -> None:
        self.name = name
        super().__init__(message)


class AlreadyExists(MoesaicError):
    """A request of this id is still running, or a model of this name is served."""

    def __init__(self, message: str, reason: str = "REQUEST_ID_RUNNING") -> None:
        self.reason = reason
        super().__init__(message)


class Unsupported(MoesaicError):
    """The model cannot do what was asked of it."""


class Overloaded(MoesaicError):
    """The queue is full; the same request may succeed after `retry_after_seconds`."""

    def __init__(self, message: str, reason: str = "QUEUE_FULL", retry_after_seconds: float = 1.0) -> None:
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


class Unavailable(MoesaicError):
    """Loading, draining or restarting: try again after `retry_after_seconds`, or elsewhere."""

    def __init__(self, message: str, reason: str, retry_after_seconds: float = 0.0) -> None:
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


class Expired(Unavailable):
    """The time that the caller gave is over, or would be before the first token was there."""

    def __init__(self, message: str, reason: str = "DEADLINE_EXCEEDED", retry_after_seconds: float = 0.0) -> None:
        super().__init__(message, reason, retry_after_seconds)


class Unauthenticated(MoesaicError):
    """Nobody knows who calls: there is no token, or none that is in force."""

    def __init__(self, message: str, reason: str = "UNAUTHENTICATED") -> None:
        self.reason = reason
        super().__init__(message)


class PermissionDenied(MoesaicError):
    """Who calls is known and may not do this."""

    def __init__(self, message: str, reason: str = "SCOPE_MISSING") -> None:
        self.reason = reason
        super().__init__(message)


class Unread(MoesaicError):
    """The caller does not take in what it asked for."""


class Aborted(MoesaicError):
    """Whoever runs the server has ended the request."""


class RequestFailed(MoesaicError):
    """The engine failed on this one request; the others go on."""


class SetupError(MoesaicError):
    """Something outside the request is not as it must be; seen at start, never on the wire."""


class CheckpointError(SetupError):
    """The files on disk are not what their config says."""


class RecipeError(SetupError):
    """The recipe asks for something that does not exist."""


class TextError(SetupError):
    """A text to score is missing, empty or not UTF-8."""


class FetchError(SetupError):
    """A model asked for by name is unknown, or cannot be fetched."""


class OutputError(SetupError):
    """What was made cannot be written where it was to go."""


class AddressError(SetupError):
    """The address cannot be listened on, or nobody answers there."""
