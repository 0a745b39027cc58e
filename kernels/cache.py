"""Where this machine keeps what one run makes and another uses: builds, models, stages, scores."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """What is kept between runs lies here: $MOESAIC_CACHE, else moesaic/ in $XDG_CACHE_HOME or ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("MOESAIC_CACHE") or Path(home) / "moesaic")
