"""What the engine owes to those who call it, measured: python -m moesaic.bench.engine.run OUT.json [--model NAME]

long prompts beside others, cancelled ones, prompts that begin alike, memory at idle, ten times overload with floors.
"""

import argparse
import json
from pathlib import Path
from typing import Any, cast

from ...engine.build import build_engine
from ...engine.engine import Engine
from ...engine.options import EngineOptions
from ...evaluate.provenance import command_line
from ...models.files import write_whole
from ..machine import machine_facts
from .latency import all_of
from .memory import idle_memory
from .overload import compared

_SLOTS, _PROMPT = 17, 3000


def measured(model: str, prompt: int = _PROMPT) -> dict[str, Any]:
    """Every figure, with what it was taken on."""
    built = build_engine(model, EngineOptions(num_slots=_SLOTS))
    longest = min(prompt, built.limits.max_context - 8)
    found = {"model": model, "machine": machine_facts(), **all_of(cast(Engine, built.engine), longest)}
    return found | {"idle_memory": idle_memory(model), "overload": compared()}


def main() -> int:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="smollm2")
    args = parser.parse_args()
    report = {"command": command_line(args.out), **measured(args.model)}
    write_whole(args.out, (json.dumps(report, indent=2) + "\n").encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
