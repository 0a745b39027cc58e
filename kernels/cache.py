"""Where this machine keeps what one run makes and another uses: builds, models, stages, scores."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """What is kept between runs lies here: $MOESAIC_CACHE, else moesaic/ in $XDG_CACHE_HOME or ~/.cache.

    A ~ in them is the home; an XDG_CACHE_HOME that is not absolute is ignored, as the XDG specification has it.
    """
    if mine := os.environ.get("MOESAIC_CACHE"):
        return _expanded(mine)
    base = _expanded(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else _expanded("~/.cache")) / "moesaic"


def _expanded(path: str) -> Path:
    return Path(os.path.expanduser(path))
