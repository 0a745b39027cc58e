"""What Triton's own client makes of a server: python tests/interop/triton.py ADDRESS MODEL, where tritonclient is."""

import sys
from pathlib import Path
from typing import Any

import numpy
import tritonclient.grpc as triton
from google.protobuf import descriptor_pool

WIRE = Path(__file__).resolve().parents[2] / "proto" / "wire.txt"


def main(address: str, model: str, *_: str) -> None:
    check_wire()
    with triton.InferenceServerClient(address) as client:
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(model)
        assert client.get_server_metadata().name == "moesaic"
        assert [each.name for each in client.get_model_metadata(model).inputs] == ["text_input"]
        assert [each.state for each in client.get_model_repository_index().models] == ["READY"]
        first, again = answered(client, model), answered(client, model)
        assert first == again and len(first) > 10, first
        refused(client, model)


def check_wire() -> None:
    """Every field of our inference.proto has the name and the number that the client's has."""
    pool, known = descriptor_pool.Default(), 0
    for line in WIRE.read_text().splitlines():
        name, *rest = line.partition(" of ")[0].split()
        if name.startswith("inference.") and "/" not in name and rest:
            found = pool.FindMessageTypeByName(name).fields_by_number[int(rest[0])]
            assert found.name == rest[-1], line
            known += 1
    assert known > 50


def answered(client: Any, model: str) -> str:
    prompt = triton.InferInput("text_input", [1], "BYTES")
    prompt.set_data_from_numpy(numpy.array([b"Once upon a time"], dtype=numpy.object_))
    parameters = {"max_tokens": 20, "temperature": "0.7", "seed": 7, "compute_tier": "full"}
    result = client.infer(model, [prompt], parameters=parameters, request_id="mine")
    assert result.get_response().id == "mine" and len(result.as_numpy("token_ids")) == 20
    text: bytes = result.as_numpy("text_output")[0]
    return text.decode()


def refused(client: Any, model: str) -> None:
    for method, arguments in (("load_model", ["stories260k"]), ("infer", [model, []])):
        try:
            getattr(client, method)(*arguments)
        except triton.InferenceServerException as error:
            assert error.status() in ("StatusCode.PERMISSION_DENIED", "StatusCode.INVALID_ARGUMENT"), error
        else:
            raise AssertionError("it was not refused")


if __name__ == "__main__":
    main(*sys.argv[1:])
