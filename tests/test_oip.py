"""The door of the Open Inference Protocol, by a client that knows of it what reflection tells."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from echo_engine import HOLD
from patience import eventually
from reflected import Reflected
from server_harness import Server, all_free

from moesaic.engine.sampling import OPTIONS
from moesaic.engine.settings import GenerationSettings
from moesaic.models.errors import InvalidRequest, MoesaicError, NotFound, PermissionDenied
from moesaic.server.client import Client
from moesaic.server.oip_tensors import PARAMETERS
from moesaic.server.status import error_of

SERVICE = "inference.GRPCInferenceService"


@pytest.fixture(scope="module")
def door(server: Server) -> Iterator[Reflected]:
    with grpc.insecure_channel(server.address) as channel:
        yield Reflected(channel, SERVICE)


def text(value: str | bytes = "Once upon a time", **fields: Any) -> dict[str, Any]:
    """The only input, its contents typed."""
    data = value.encode() if isinstance(value, str) else value
    return {"name": "text_input", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [data]}, **fields}


def inferred(door: Reflected, **fields: Any) -> Any:
    return door.call("ModelInfer", door.message("ModelInferRequest", **{"inputs": [text()], **fields}))


def refused(door: Reflected, method: str = "ModelInfer", /, **fields: Any) -> MoesaicError:
    given = {"inputs": [text()], **fields} if method == "ModelInfer" else fields
    with pytest.raises(grpc.RpcError) as caught:
        door.call(method, door.message(f"{method}Request", **given))
    error = error_of(caught.value)
    assert error is not None, caught.value
    return error


def test_a_server_tells_what_it_is_and_that_it_serves(door: Reflected) -> None:
    assert door.call("ServerLive", door.message("ServerLiveRequest")).live
    assert door.call("ServerReady", door.message("ServerReadyRequest")).ready
    assert door.call("ServerMetadata", door.message("ServerMetadataRequest")).name == "moesaic"
    ready = [door.call("ModelReady", door.message("ModelReadyRequest", name=name)).ready for name in ("echo", "x", "")]
    assert ready == [True, False, False]


def test_a_model_tells_its_tensors(door: Reflected) -> None:
    told = door.call("ModelMetadata", door.message("ModelMetadataRequest", name="echo", version="1"))
    assert (told.name, list(told.versions), told.platform) == ("echo", ["1"], "moesaic")
    assert [(each.name, each.datatype) for each in told.inputs] == [("text_input", "BYTES")]
    assert [each.name for each in told.outputs] == ["text_output", "token_ids", "finish_reason"]


def test_a_text_is_continued_as_generate_does(door: Reflected, client: Client) -> None:
    answer = inferred(door, model_name="echo", id="mine", parameters={"max_tokens": {"int64_param": 7}})
    alone = client.generate("Once upon a time", max_new_tokens=7)
    contents = {output.name: output.contents for output in answer.outputs}
    assert (answer.model_name, answer.model_version, answer.id) == ("echo", "1", "mine")
    assert contents["text_output"].bytes_contents == [alone.text.encode()]
    assert tuple(contents["token_ids"].uint_contents) == alone.token_ids
    assert contents["finish_reason"].bytes_contents == [b"LENGTH"]
    assert answer.parameters["completion_tokens"].int64_param == 7


def test_raw_contents_are_answered_raw(door: Reflected) -> None:
    data = b"One day"
    tensor = {"name": "text_input", "datatype": "BYTES", "shape": [1, 1]}
    raw = [len(data).to_bytes(4, "little") + data]
    outputs = [{"name": "token_ids"}, {"name": "text_output"}]
    answer = inferred(
        door, inputs=[tensor], raw_input_contents=raw, outputs=outputs, parameters={"max_tokens": {"int64_param": 3}}
    )
    assert [output.name for output in answer.outputs] == ["token_ids", "text_output"]
    ids, words = answer.raw_output_contents
    assert len(ids) == 12 and int.from_bytes(words[:4], "little") == len(words) - 4 > 0


@pytest.mark.parametrize(
    "parameters",
    [
        {"temperature": {"string_param": "0"}, "seed": {"uint64_param": 7}, "compute_tier": {"string_param": "full"}},
        {"temperature": {"double_param": 0.5}, "top_k": {"string_param": "40"}, "top_p": {"int64_param": 1}},
        {"ignore_eos": {"bool_param": True}, "stop": {"string_param": "zzz"}, "priority": {"string_param": "high"}},
        {"ignore_eos": {"string_param": "True"}, "max_tokens": {"double_param": 3.0}, "share": {"string_param": "1"}},
    ],
)
def test_settings_are_parameters_and_numbers_may_be_text(door: Reflected, parameters: dict[str, Any]) -> None:
    answer = inferred(door, parameters={"max_tokens": {"int64_param": 3}, **parameters})
    assert answer.parameters["completion_tokens"].int64_param == 3


def test_an_option_of_generate_that_is_one_value_is_a_parameter() -> None:
    assert PARAMETERS >= {*OPTIONS} - {"n", "logprobs", "prompt_logprobs"}
    assert PARAMETERS - {"max_tokens", "compute_tier"} <= {*GenerationSettings.__annotations__}


@pytest.mark.parametrize(
    ("parameters", "fields"),
    [
        ({"temprature": {"double_param": 1.0}}, ["parameters.temprature"]),
        ({"temperature": {"double_param": 9.0}}, ["parameters.temperature"]),
        ({"temperature": {"double_param": float("nan")}}, ["parameters.temperature"]),
        ({"temperature": {"string_param": "warm"}}, ["parameters.temperature"]),
        ({"temperature": {}}, ["parameters.temperature"]),
        ({"temperature": {"bool_param": True}}, ["parameters.temperature"]),
        ({"max_tokens": {"int64_param": -1}}, ["parameters.max_tokens"]),
        ({"max_tokens": {"int64_param": 0}}, ["parameters.max_tokens"]),
        ({"max_tokens": {"double_param": 2.5}}, ["parameters.max_tokens"]),
        ({"max_tokens": {"double_param": float("inf")}}, ["parameters.max_tokens"]),
        ({"max_tokens": {"string_param": "9" * 5000}}, ["parameters.max_tokens"]),
        ({"max_tokens": {"int64_param": 1}, "max_new_tokens": {"int64_param": 2}}, ["parameters.max_tokens"]),
        ({"n": {"int64_param": 2}}, ["parameters.n"]),
        ({"stop": {"int64_param": 2}}, ["parameters.stop"]),
        ({"stop": {"string_param": "x" * 300}}, ["parameters.stop"]),
        ({"share": {"string_param": "0"}}, ["parameters.share"]),
        ({"priority": {"uint64_param": 1}}, ["parameters.priority"]),
        ({"top_p": {"int64_param": 5}, "top_k": {"int64_param": -5}}, ["parameters.top_k"]),
    ],
)
def test_a_parameter_that_is_none_is_refused_by_its_name(door: Reflected, parameters: Any, fields: list[str]) -> None:
    error = refused(door, parameters=parameters)
    assert isinstance(error, InvalidRequest) and [each.field for each in error.violations] == fields


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"inputs": []}, "inputs"),
        ({"inputs": [text(), text()]}, "inputs"),
        ({"inputs": [text(name="prompt")]}, "inputs"),
        ({"inputs": [text(datatype="FP32")]}, "text_input.datatype"),
        ({"inputs": [text(shape=[2])]}, "text_input.shape"),
        ({"inputs": [text(shape=[])]}, "text_input.shape"),
        ({"inputs": [text(shape=[-1, -1])]}, "text_input.shape"),
        ({"inputs": [text(shape=[1] * 1000)]}, "text_input.shape"),
        ({"inputs": [text(contents={})]}, "text_input"),
        ({"inputs": [text(contents={"bytes_contents": [b"a", b"b"]})]}, "text_input"),
        ({"inputs": [text(b"\xff\xfe")]}, "text_input"),
        ({"inputs": [text("a" * ((1 << 20) + 1))]}, "text_input"),
        ({"inputs": [text(parameters={"shared_memory_region": {"string_param": "x"}})]}, "text_input.parameters"),
        ({"raw_input_contents": [b""]}, "raw_input_contents"),
        ({"raw_input_contents": [b"\xff\xff\xff\xffa"]}, "raw_input_contents"),
        ({"raw_input_contents": [b"\x01\0\0\0a", b"\x01\0\0\0a"]}, "raw_input_contents"),
        ({"outputs": [{"name": "logits"}]}, "outputs[0].name"),
        ({"outputs": [{"name": "text_output"}] * 2}, "outputs[1].name"),
        ({"id": "two words"}, "id"),
    ],
)
def test_what_is_no_text_is_refused_by_its_name(door: Reflected, fields: dict[str, Any], field: str) -> None:
    error = refused(door, **fields)
    assert isinstance(error, InvalidRequest) and error.violations[0].field == field


@pytest.mark.parametrize("fields", [{"model_name": "gone"}, {"model_name": "echo", "model_version": "2"}])
def test_a_model_or_a_version_that_is_not_there_is_not_found(door: Reflected, fields: dict[str, str]) -> None:
    assert isinstance(refused(door, **fields), NotFound)
    names = {name.removeprefix("model_"): value for name, value in fields.items()}
    assert isinstance(refused(door, "ModelMetadata", **names), NotFound)


def test_a_request_that_nobody_waits_for_frees_its_slot(server: Server, client: Client, door: Reflected) -> None:
    with server.held(), server.admin() as admin, client.generate_batch([[HOLD]] * 8) as batch:
        eventually(lambda: admin.load().models[0].running == 8)
        message = door.message("ModelInferRequest", inputs=[text()])
        call = door._channel.unary_unary(f"/{SERVICE}/ModelInfer").future(message.SerializeToString())
        eventually(lambda: admin.load().requests == 9)
        call.cancel()
        eventually(lambda: admin.load().requests == 8)
        batch.close()
    eventually(lambda: all_free(client))


# --- the repository ------------------------------------------------------------------------------------------------


def index(door: Reflected, **fields: Any) -> dict[str, str]:
    told = door.call("RepositoryIndex", door.message("RepositoryIndexRequest", **fields))
    return {model.name: model.state for model in told.models}


def test_models_are_not_loaded_over_the_network_unless_that_is_allowed(door: Reflected) -> None:
    assert index(door) == {"echo": "READY"}
    for method in ("RepositoryModelLoad", "RepositoryModelUnload"):
        error = refused(door, method, model_name="stories260k")
        assert isinstance(error, PermissionDenied) and "--repository-control" in str(error)
    assert index(door) == {"echo": "READY"}


def test_where_it_is_allowed_models_at_hand_come_and_go() -> None:
    with Server(repository_control=True) as server, grpc.insecure_channel(server.address) as channel:
        door = Reflected(channel, SERVICE)
        for _ in range(2):  # the second time it is there already
            door.call("RepositoryModelLoad", door.message("RepositoryModelLoadRequest", model_name="stories260k"))
        assert index(door) == {"echo": "READY", "stories260k": "READY"}
        door.call("RepositoryModelUnload", door.message("RepositoryModelUnloadRequest", model_name="echo"))
        assert index(door) == {"stories260k": "READY", "echo": "UNAVAILABLE"}
        assert index(door, ready=True) == {"stories260k": "READY"}
        door.call("RepositoryModelLoad", door.message("RepositoryModelLoadRequest", model_name="echo"))
        assert index(door) == {"stories260k": "READY", "echo": "READY"}


@pytest.mark.parametrize("name", ["/etc", "..", "", "no/such", "x" * 5000])
def test_a_caller_names_no_path_of_the_servers_machine(name: str) -> None:
    with Server(repository_control=True) as server, grpc.insecure_channel(server.address) as channel:
        error = refused(Reflected(channel, SERVICE), "RepositoryModelLoad", model_name=name)
        assert isinstance(error, NotFound | InvalidRequest)
