"""What an installation may lack: packages that an extra of pyproject.toml brings."""

from importlib.util import find_spec

from .errors import SetupError

NO_BLEU = "BLEU and chrF were not measured: sacrebleu is not installed; pip install 'moesaic[eval]'"
NO_PICTURE = "no picture was drawn: matplotlib is not installed; pip install 'moesaic[report]'"


def check_installed(asked: str, extra: str, *packages: str) -> None:
    """Raises SetupError, before any work, with the packages that are missing and the extra that brings them."""
    if missing := absent(*packages):
        raise SetupError(is_missing(asked, extra, *missing))


def absent(*packages: str) -> list[str]:
    """Those of the packages that are not installed."""
    return [name for name in packages if find_spec(name) is None]


def is_missing(asked: str, extra: str, *packages: str) -> str:
    """What is said where these packages are missing."""
    are = "is" if len(packages) == 1 else "are"
    return f"{asked} needs {', '.join(packages)}, which {are} not installed; pip install 'moesaic[{extra}]'"


def can_draw() -> bool:
    """Whether matplotlib is there."""
    return find_spec("matplotlib") is not None


def can_measure_bleu() -> bool:
    """Whether sacrebleu is there."""
    return find_spec("sacrebleu") is not None
