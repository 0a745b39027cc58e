#!/bin/sh
# Makes the Python modules of the wire. Run it with the oldest protobuf compiler that is to be supported.
set -eu
cd "$(dirname "$0")/.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
"${PYTHON:-python}" -m grpc_tools.protoc -Imoesaic/proto=proto --python_out="$out" --pyi_out="$out" \
    moesaic/proto/generation.proto moesaic/proto/engine.proto
cp "$out"/moesaic/proto/* proto/
