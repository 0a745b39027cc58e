#!/usr/bin/env bash
# The wheel in an environment that holds its core dependencies and nothing else: every command works there, or refuses in
# a sentence before any work. usage: bench/wheel.sh ENVIRONMENT
#
# ENVIRONMENT is an empty virtual environment, or one that this script has used; `make wheel` makes it.
set -euo pipefail
environment=$(cd "$1" && pwd)
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
moesaic=$environment/bin/moesaic
out=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null || true; rm -rf "$out"' EXIT

# Built from a copy, so that nothing of an earlier build gets into it.
mkdir "$out/tree" && cd "$root"
git ls-files -z --cached --others --exclude-standard | tar --null --ignore-failed-read -T - -c | tar x -C "$out/tree"
"$environment/bin/pip" install --quiet -c constraints.txt torch==2.13.0 numpy
"$environment/bin/pip" install --quiet -c constraints.txt "$out/tree"
"$environment/bin/pip" install --quiet --no-deps --force-reinstall "$out/tree"
export MOESAIC_CACHE=$out/cache # so that no model of a real size makes the tour long
cd "$out" # not the checkout

works() { # works COMMAND...
    echo "moesaic $*"
    "$moesaic" "$@" >said 2>&1 || { cat said && exit 1; }
    if grep -q Traceback said; then cat said && exit 1; fi
}

refuses() { # refuses WORDS COMMAND...: status 2, one line that holds the words, and nothing written
    local words=$1
    shift
    echo "moesaic $*: refused"
    if "$moesaic" "$@" >said 2>&1; then echo "it was not refused" && exit 1; fi
    [ "$(wc -l <said)" = 1 ] && grep -q "$words" said || { cat said && exit 1; }
}

works --version
works doctor
if command -v c++ >/dev/null; then tr -s ' \n' ' ' <said | grep -q "of the wheel" || { cat said && exit 1; }; fi
works run stories260k "Once upon a time" --max-new-tokens 8
works compress stories260k small --recipe tour
works run small "Once upon a time" --max-new-tokens 8 --tier low
works eval small --against stories260k --documents 1 --truncate 64
works inspect small --experts
works export small plain --to dense
works models list
works recipes list
works completion bash
bash -n said
works demo --out tour
grep -q "no picture was drawn" said && [ ! -e tour/report.png ] && [ -s tour/report.html ]
works bench engine --quick --out figures
refuses "pip install 'moesaic\[bench\]'" bench kernels --quick
refuses "pip install 'moesaic\[report\]'" eval stories260k --documents 1 --truncate 64 --report page
[ ! -e page ]

"$moesaic" serve small --port 0 >served 2>&1 &
server=$!
for _ in $(seq 600); do
    grep -q "listening" served && break
    sleep 0.1
done
address=$(grep -o "127.0.0.1:[0-9]*" served | head -n 1)
works generate "Once upon a time" --address "$address" --max-new-tokens 8 --tier low
kill -TERM "$server" && wait "$server"
echo "the wheel works alone"
