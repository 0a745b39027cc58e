"""What a report says of how it was made."""

import shlex
import sys
from typing import Any


def typed() -> str:
    """The command as it was typed."""
    return shlex.join(["moesaic", *sys.argv[1:]])


def machine_facts() -> dict[str, Any]:
    """Device, versions and commit; torch is imported when they are asked for."""
    from ..evaluate.provenance import provenance

    return provenance()
