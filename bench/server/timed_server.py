"""A server whose engines are timed: python -m moesaic.bench.server.timed_server SETTINGS_JSON

What it is started with is `TimedServer` in bench/server/processes.py. No torch.
"""

import json
import sys

from ...engine.options import EngineOptions
from ...server.options import ServeOptions
from ...server.serve import serve


def main() -> int:
    """Serves one model, `timed`, with a real tokenizer."""
    settings = json.loads(sys.argv[1])
    worker = (sys.executable, "-P", "-m", "moesaic.bench.server.timed_engine", json.dumps(settings.pop("pace")))
    slots = settings.pop("num_slots")
    options = ServeOptions(models=(("timed", "stories260k"),), engine=EngineOptions(num_slots=slots), **settings)
    return serve(options, worker)


if __name__ == "__main__":
    sys.exit(main())
