#!/bin/sh
# Makes the Python modules of the wire. Run it with the oldest protobuf compiler that is to be supported.
set -eu
cd "$(dirname "$0")/.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
python=${PYTHON:-python}
common=$("$python" -c "import sysconfig; print(sysconfig.get_path('purelib'))") # google/rpc/status.proto
set -- generation scoring admin inference engine
"$python" -m grpc_tools.protoc -Imoesaic/proto=proto -I"$common" --python_out="$out" --pyi_out="$out" \
    $(printf 'moesaic/proto/%s.proto ' "$@")
cp "$out"/moesaic/proto/* proto/
