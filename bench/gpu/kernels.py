"""Section 4: every kernel beside its peers, one contestant a process."""

import sys

from .children import each_in_a_process
from .peers import CONTESTANTS
from .section import Plan, run_section


def measure(plan: Plan) -> None:
    each_in_a_process(plan, "moesaic.bench.gpu.contest", {each.name: each.seconds for each in CONTESTANTS})


if __name__ == "__main__":
    sys.exit(run_section(measure))
