#!/usr/bin/env bash
# Everything that needs a GPU, in order of worth, into OUTDIR; a step that has left its file is not run again.
# usage: bench/gpu.sh OUTDIR [MODEL_DIRECTORY] [RUN]
# RUN: a folder that "moesaic reference pack relu-30m RUN --text ... --valid ..." made; without it nothing is trained.
# MINUTES: of training, by default 7.
# TEXT: plain text files, with spaces between; MODEL_DIRECTORY, a SwiGLU model such as SmolLM2, is made ReLU on them, for
# at most ten minutes. Cut off, the same command goes on. RELUFY_TOKENS: learned from in all, by default 20971520.
set -euo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
model=${2:-stories260k}
run=${3:+$(cd "$3" && pwd)}
text=()
for file in ${TEXT:-}; do text+=("\"$(realpath "$file")\""); done
cd "$(dirname "$0")/.."

step() { # step NAME COMMAND...: its output becomes OUTDIR/NAME.log when it ends well
    local name=$1
    shift
    if [ -e "$out/$name.log" ]; then
        echo "$name: done before"
    elif "$@" >"$out/$name.part" 2>&1; then
        mv "$out/$name.part" "$out/$name.log"
        echo "$name: done"
    else
        mv "$out/$name.part" "$out/$name.failed"
        echo "$name: failed, see $out/$name.failed"
    fi
}

train() {
    python -m moesaic.cli.main reference train relu-30m "$run" --device cuda --compile --minutes "${MINUTES:-7}"
    cp -r "$run/model" "$out/relu-30m"
}

relufy() {
    local files
    files=$(IFS=, && echo "${text[*]}")
    cat >"$out/relufy.yaml" <<RECIPE
calibration: {text: [$files], sequences: 64, length: 512}
stages:
  - relufy: {tokens: ${RELUFY_TOKENS:-20971520}, lr: 3.0e-4, batch: 64, sparsity: 1.0, save_every: 100}
RECIPE
    timeout --signal=INT 600 python -m moesaic.cli.main compress "$model" "$out/relufied" --recipe "$out/relufy.yaml"
}

nvidia-smi >"$out/device.txt"
if [ -n "${run:-}" ]; then step train train; fi
if [ ${#text[@]} -gt 0 ]; then step relufy relufy; fi
step doctor python -m moesaic.cli.main doctor
step tests python -m pytest --gpu -m gpu -q
step kernels python -m moesaic.cli.main bench kernels --out "$out/kernels"
step latency python -m moesaic.cli.main bench all --model "$model" --out "$out/latency"
