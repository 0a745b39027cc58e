"""What a token looks like, and texts without them."""

import re

PREFIX = "moesaic_"  # so that those who search for secrets that got out know one
_TOKEN = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{43}}")


def masked(text: str) -> str:
    """A text without the tokens in it, wherever they come from."""
    return _TOKEN.sub(f"{PREFIX}***", text) if PREFIX in text else text
