"""A model of the Hugging Face Hub, fetched when a person says so: its files told first, then downloaded by the library
of the hub into its own cache, compared with the hashes that the hub has, and pinned to the commit that it was.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint import INDEX_NAME, WEIGHTS_NAME, read_json
from ..errors import FetchError
from ..families.registry import family_of
from ..files import require_space, write_whole
from ..hub_names import PREFIX, pin_file, split_name
from ..optional_json import OLDER_FILES, TOKENIZER_FILE
from ..sentences import FILES as SENTENCE_FILES
from ..writer import SIDE_FILES

_NAMES = {"config.json", WEIGHTS_NAME, INDEX_NAME, *SIDE_FILES, *SENTENCE_FILES}
_MORE = re.compile(r"model-\d{5}-of-\d{5}\.safetensors|\d+_\w+/config\.json|(?i:licen[cs]e|notice|use_policy)[\w.-]*")


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a commit; the hub knows the SHA-256 of large ones alone."""

    name: str
    size: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class HubModel:
    """What will be downloaded of a model: these files of this commit."""

    name: str
    commit: str
    licence: str
    files: tuple[HubFile, ...]

    @property
    def num_bytes(self) -> int:
        return sum(file.size for file in self.files)

    def told(self) -> Iterator[str]:
        """A line for the model, and one for each file."""
        yield f"{PREFIX}{self.name} at {self.commit[:12]}, licence {self.licence}: {self.num_bytes / 1e6:,.1f} MB"
        for file in self.files:
            yield f"  {file.name}  {file.size / 1e6:,.3f} MB"


def get_from_hub(name: str, tell: Callable[[str], object]) -> Path:
    """The snapshot of `hf:org/name` or `hf:org/name@revision`, in the cache of the Hugging Face library.

    tell: called with each line of what will be downloaded, before it is. The library of the hub shows how far it is,
    and takes up again what a download that was cut short has left. Raises FetchError where it cannot be had,
    CheckpointError where it is no model that runs here.
    """
    from huggingface_hub import constants, hf_hub_download

    repository, revision = split_name(name)
    with _as_fetch_error(name):
        found = _look_up(repository, revision)
    for line in found.told():
        tell(line)
    require_space(Path(constants.HF_HUB_CACHE) / repository.replace("/", "--"), found.num_bytes)
    hashes: dict[str, str] = {}
    for file in sorted(found.files, key=lambda file: file.name != "config.json"):  # which says whether it runs here
        with _as_fetch_error(name):
            path = Path(hf_hub_download(repository, file.name, revision=found.commit))
        hashes[file.name] = _checked(path, file)
        if file.name == "config.json":
            family_of(read_json(path))
            snapshot = path.parent
    pin = {"name": repository, "commit": found.commit, "licence": found.licence, "sha256": hashes}
    pin_file(repository).parent.mkdir(parents=True, exist_ok=True)
    write_whole(pin_file(repository), (json.dumps(pin, indent=2) + "\n").encode())
    return snapshot


def _look_up(repository: str, revision: str | None) -> HubModel:
    from huggingface_hub import HfApi

    info = HfApi().model_info(repository, revision=revision, files_metadata=True)
    names = [each.rfilename for each in info.siblings or []]
    known = _NAMES if TOKENIZER_FILE in names else {*_NAMES, *OLDER_FILES}
    files = tuple(
        HubFile(each.rfilename, each.size or 0, each.lfs.sha256 if each.lfs else None)
        for each in info.siblings or []
        if each.rfilename in known or _MORE.fullmatch(each.rfilename)
    )
    wanted = {file.name for file in files}
    if "config.json" not in wanted or not any(name.endswith(".safetensors") for name in wanted):
        raise FetchError(f"{PREFIX}{repository} {_what_it_lacks(names)}")
    if WEIGHTS_NAME in wanted:  # then shards and their index are of other weights
        files = tuple(each for each in files if each.name != INDEX_NAME and not each.name.startswith("model-"))
    return HubModel(repository, str(info.sha), _licence(info), files)


def _what_it_lacks(names: list[str]) -> str:
    if ggufs := [name for name in names if name.endswith(".gguf")]:
        return f"has GGUF files; fetch one yourself, such as {ggufs[0]}, and make a model of it with: moesaic import"
    if any(name.endswith((".bin", ".pt", ".pth")) for name in names):
        return "has its weights in pickles, which can run code when they are opened; choose one with safetensors"
    return "has no config.json with safetensors beside it; it is no model that moesaic runs"


def _licence(info: Any) -> str:
    """As the model's card has it, or its tags."""
    tags = [tag.removeprefix("license:") for tag in info.tags or [] if tag.startswith("license:")]
    card: Mapping[str, Any] = info.card_data.to_dict() if info.card_data else {}
    return str(card.get("license_name") or card.get("license") or (tags or ["not said"])[0])


def _checked(path: Path, file: HubFile) -> str:
    """The SHA-256 of a file, once its size and hash are those that the hub lists."""
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if path.stat().st_size != file.size or file.sha256 not in (None, found):
        raise FetchError(
            f"{file.name} is not the file that the hub lists: {path.stat().st_size:,} bytes with SHA-256 {found}; "
            f"remove {path.resolve()} and try again"
        )
    return found


@contextmanager
def _as_fetch_error(name: str) -> Iterator[None]:
    """What the library of the hub raises, as a sentence with the way out."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except FetchError:
        raise
    except GatedRepoError:
        raise FetchError(f"{name} is for those who accept its licence: do so on its page, then hf auth login") from None
    except RepositoryNotFoundError:
        raise FetchError(f"{name}: the hub has no such model, or it is private: check it, or hf auth login") from None
    except RevisionNotFoundError:
        raise FetchError(f"{name}: the model has no such revision; leave it out for the newest") from None
    except OfflineModeIsEnabled:
        raise FetchError(f"{name} is not fetched while HF_HUB_OFFLINE is set; unset it and try again") from None
    except HFValidationError as error:
        raise FetchError(f"{name} is no name of a model: {str(error).splitlines()[0]}") from None
    except Exception as error:  # of the network, from whatever library the hub's uses
        why = (str(error) or type(error).__name__).strip().splitlines()[0][:200]
        way_out = "check the network and try again, which goes on where this one ended"
        raise FetchError(f"{name} could not be fetched: {why}; {way_out}") from None
