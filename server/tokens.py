"""Tokens, and the file that knows them: a line of JSON for each, with the hash of the token and not the token.

A token is 32 random bytes, so that one SHA-256 hides it: there is nothing to guess, and no dictionary to try.
"""

import base64
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from ..models.errors import OutputError, SetupError
from ..models.files import append_line
from ..models.suggestion import suggestion
from .masking import PREFIX, masked
from .private_files import read_private
from .scopes import Scope

NAME = r"[A-Za-z0-9._@-]{1,64}"  # no colon, so that none is the name of a connection
MOST_BYTES = 8 << 20
_RANDOM_BYTES = 32
_PerMinute = Annotated[int, Field(ge=1, le=10**12)]


class _Line(BaseModel):
    """A line as it stands in the file."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(pattern=f"^{NAME}$")]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    scopes: Annotated[list[Scope], Field(min_length=1)]
    requests_per_minute: _PerMinute | None = None
    tokens_per_minute: _PerMinute | None = None
    expires: AwareDatetime | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """A token that may call. expires: a time.time(); None for never."""

    name: str
    digest: bytes
    scopes: frozenset[Scope]
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    expires: float | None = None

    @property
    def rights(self) -> tuple[object, ...]:
        """What all tokens of one name have in common."""
        return self.scopes, self.requests_per_minute, self.tokens_per_minute


def new_token() -> str:
    """A token that nobody has."""
    return PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(_RANDOM_BYTES)).decode().rstrip("=")


def digest_of(token: str) -> bytes:
    """What is kept of it."""
    return hashlib.sha256(token.encode(errors="backslashreplace")).digest()


def read_tokens(file: Path) -> Mapping[bytes, Known]:
    """The tokens of a file, by their hashes. Raises SetupError that names the line and quotes nothing of it."""
    data = read_private(file, "tokens", MOST_BYTES)
    try:
        lines = data.decode().splitlines()
    except UnicodeDecodeError:
        raise SetupError(f"tokens: {file} is no text in UTF-8") from None
    found: dict[bytes, Known] = {}
    rights: dict[str, tuple[object, ...]] = {}
    for place, known in _known(file, lines):
        if known.digest in found:
            raise SetupError(f"{place}: the hash is that of a line before")
        if rights.setdefault(known.name, known.rights) != known.rights:
            raise SetupError(f"{place}: another token of {known.name} has other scopes or rates; give both the same")
        found[known.digest] = known
    if not found:
        raise SetupError(f"tokens: {file} holds none; make one with: moesaic token new NAME --file {file}")
    return found


def add_token(file: Path, name: str, scopes: list[str], **limits: Any) -> str:
    """Makes a token and adds its hash to a file, which is made readable for nobody else. limits: fields of a line.

    Raises SetupError for what no line may hold, OutputError for a file that cannot be written.
    """
    token = new_token()
    fields = {"name": name, "sha256": digest_of(token).hex(), "scopes": scopes, **limits}
    given = {key: value for key, value in fields.items() if value is not None}
    line = json.dumps(given)
    known = _read_line("token", line)
    before = _create_private(file)
    if before and any(each.name == name and each.rights != known.rights for each in before.values()):
        raise SetupError(f"token: {file} has a token of {name} with other scopes or rates; give this one the same")
    append_line(file, line)
    return token


def _create_private(file: Path) -> Mapping[bytes, Known]:
    """The tokens of a file, which is made where it is missing."""
    try:
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        return {}
    except FileExistsError:
        if file.is_file() and not file.stat().st_size:
            return {}
        return read_tokens(file)
    except OSError as error:
        raise OutputError(f"{file} cannot be written: {error.strerror or error}") from None


def _known(file: Path, lines: list[str]) -> Iterator[tuple[str, Known]]:
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            place = f"tokens: {file}, line {number}"
            yield place, _read_line(place, line)


def _read_line(place: str, text: str) -> Known:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise SetupError(f"{place}: is no JSON; a line is one mapping") from None
    if not isinstance(values, dict):
        raise SetupError(f"{place}: is no mapping")
    for key in values:
        if key not in _Line.model_fields:
            raise SetupError(
                f"{place}: there is no key {masked(str(key)[:64])!r}; {suggestion(key, _Line.model_fields)}"
            )
    try:
        line = _Line.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise SetupError(f"{place}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    expires = None if line.expires is None else line.expires.astimezone(UTC).timestamp()
    limits = line.requests_per_minute, line.tokens_per_minute
    return Known(line.name, bytes.fromhex(line.sha256), frozenset(line.scopes), *limits, expires)


def expiry(days: float) -> str:
    """So many days from now, as a line says it."""
    return datetime.fromtimestamp(datetime.now(UTC).timestamp() + days * 86_400, UTC).isoformat(timespec="seconds")
