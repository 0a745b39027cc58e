#!/usr/bin/env bash
# Everything that is measured on a GPU, in 540 seconds, the most telling first.
#
#     bash bench/gpu.sh OUT          on a machine with a GPU
#     bash bench/gpu.sh OUT --dry    all of it on a CPU at toy sizes: what CI runs
#
# Nothing needs to be installed: any python3 (or $PYTHON) with torch, triton, transformers, numpy, safetensors,
# tokenizers, grpcio, protobuf, pytest, jinja2 and pyyaml will do; the rest lies in .carry/ at the root, as wheels
# (bench/gpu_wheels.txt names them), or is there already.
#
# OUT holds at the end, in at most 8 files: a JSON file for each of the sections
#     1-device        the machine, and whether every module of the package can be imported
#     2-constants     bandwidths, the cost of a launch, matrix rates, cuBLAS at 1 to 16 rows
#     3-checks        every test of a kernel, then compute-sanitizer on one shape of each
#     4-kernels       every kernel beside its peers: three widths, 1 to 2,048 tokens, four shares
#     5-end_to_end    whole models at batch 1 and 8, eager and as a graph, beside transformers
#     6-streams       the engine with 8 streams
# then log.txt, what they printed, and summary.txt, which is also printed last. Each section is a process with a limit of
# its own; one that fails or overruns leaves the rows it had and the end of its log, and the others run. The status is 0
# only if all ended well. Training is not among them: bench/gpu_train.sh.
set -euo pipefail
if [ $# -lt 1 ]; then
    echo "usage: bench/gpu.sh OUT [--dry]" >&2
    exit 2
fi
out=$(mkdir -p "$1" && cd "$1" && pwd)
shift
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$(command -v "${PYTHON:-python3}") || {
    echo "there is no ${PYTHON:-python3} here; name one in PYTHON" >&2
    exit 2
}
case $python in /*) ;; *) python=$PWD/$python ;; esac

# The tree is the package: a link of its name, in a folder that holds nothing else but the wheels that came along.
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
ln -s "$root" "$site/moesaic"
if compgen -G "$root/.carry/*.whl" >/dev/null; then
    "$python" -m pip install --quiet --no-index --no-deps --target "$site" "$root"/.carry/*.whl ||
        echo "the wheels in .carry cannot be installed here; sections that need them will say so"
fi

cd "$site" # not the root: its folders must not stand in for installed packages of their names
export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
"$python" -m moesaic.bench.gpu.run "$out" --seconds $((540 - SECONDS)) "$@" &
driver=$!
trap 'kill "$driver" 2>/dev/null; wait "$driver" || true; exit 143' TERM INT HUP # with its sections, before its package goes
wait "$driver"
