"""What reports share: checks before any work, and pictures as bytes."""

import io
import warnings
from pathlib import Path
from typing import Any

from ..models.extras import check_installed
from ..models.files import check_writable


def check_can_draw(asked: str) -> None:
    """Raises SetupError where matplotlib is missing. asked: the option or call that draws."""
    check_installed(asked, "report", "matplotlib")


def check_can_report(asked: str, folder: Path) -> None:
    """Raises SetupError, before any work, where a report cannot be drawn or this folder cannot hold it."""
    check_can_draw(asked)
    check_writable(folder, f"{asked} {folder}")


def as_png(figure: Any) -> bytes:
    """A matplotlib figure as the bytes of a file; letters that its font lacks are drawn as boxes."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure.savefig(stream, format="png")
    return stream.getvalue()
