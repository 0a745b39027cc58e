#!/usr/bin/env bash
# What is trained on a GPU, never by default: each step has its own call and its own minutes.
#
#     bash bench/gpu_train.sh OUT relu RUN            trains the reference model of a RUN that
#                                                     "moesaic reference pack relu-30m RUN --text ... --valid ..." made
#     bash bench/gpu_train.sh OUT relufy MODEL TEXT...   makes a SwiGLU model such as SmolLM2 ReLU, on plain text files
#
# MINUTES: at most so many, by default 7 for relu and 10 for relufy. RELUFY_TOKENS: learned from in all, by default
# 20971520. Cut off, the same command goes on. OUT/STEP.log says how it went.
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: bench/gpu_train.sh OUT relu RUN | OUT relufy MODEL TEXT..." >&2
    exit 2
fi
out=$(mkdir -p "$1" && cd "$1" && pwd)
step=$2 subject=$3
if [ -e "$subject" ]; then subject=$(realpath "$subject"); fi # else the short name of a model
shift 3
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$(command -v "${PYTHON:-python3}")
case $python in /*) ;; *) python=$PWD/$python ;; esac
texts=()
for file in "$@"; do texts+=("\"$(realpath "$file")\""); done

site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
ln -s "$root" "$site/moesaic"
if compgen -G "$root/.carry/*.whl" >/dev/null; then
    "$python" -m pip install --quiet --no-index --no-deps --target "$site" "$root"/.carry/*.whl
fi
cd "$site"
export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"

relu() {
    "$python" -m moesaic.cli.main reference train relu-30m "$subject" --device cuda --compile --minutes "${MINUTES:-7}"
    cp -r "$subject/model" "$out/relu-30m"
}

relufy() {
    cat >"$out/relufy.yaml" <<RECIPE
calibration: {text: [$(IFS=, && echo "${texts[*]}")], sequences: 64, length: 512}
stages:
  - relufy: {tokens: ${RELUFY_TOKENS:-20971520}, lr: 3.0e-4, batch: 64, sparsity: 1.0, save_every: 100}
RECIPE
    timeout --signal=INT $((60 * ${MINUTES:-10})) \
        "$python" -m moesaic.cli.main compress "$subject" "$out/relufied" --recipe "$out/relufy.yaml"
}

case $step in
relu | relufy) "$step" 2>&1 | tee "$out/$step.log" ;;
*) echo "there is no step $step, only relu and relufy" >&2 && exit 2 ;;
esac
