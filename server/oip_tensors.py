"""From an inference request of the Open Inference Protocol to a request of ours, and back."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..engine.sampling import OPTIONS
from ..models.errors import InvalidRequest, Violation
from ..models.suggestion import suggestion
from ..proto import generation_pb2
from ..proto import inference_pb2 as pb
from .client_request import build_request

TEXT_INPUT = "text_input"
OUTPUTS = ("text_output", "token_ids", "finish_reason")
_ALIASES = {"max_tokens": "max_new_tokens", "compute_tier": "tier"}
_MANY = ("n", "logprobs", "prompt_logprobs")  # what has no place in the outputs
_WHOLE = {name for name, option in OPTIONS.items() if option.kind is int and name not in _MANY} | {"max_new_tokens"}
_FRACTIONS = {name for name, option in OPTIONS.items() if option.kind is not int} | {
    "share", "floor_share", "first_token_seconds",
}  # fmt: skip
_TEXTS = {
    "stop", "tier", "floor_tier", "prefill_tier", "priority", "cache_salt", "json_schema", "regex", "grammar",
}  # fmt: skip
PARAMETERS = {*_WHOLE, *_FRACTIONS, *_TEXTS, "ignore_eos", *_ALIASES}
_LENGTH_BYTES = 4  # in front of each element of raw contents


def request_of(message: pb.ModelInferRequest) -> generation_pb2.GenerateRequest:
    """What Generate would be asked. Raises InvalidRequest with all that is wrong, by the protocol's names."""
    wrong = [*_output_violations(message), *_input_violations(message)]
    settings = _settings(message.parameters, wrong)
    text = "" if wrong else _text(message, wrong)
    try:
        built = build_request(text, model=message.model_name, request_id=message.id, **settings)
    except InvalidRequest as error:
        wrong += renamed(error, message).violations
    if wrong:
        raise InvalidRequest(wrong)
    return built


def renamed(error: InvalidRequest, message: pb.ModelInferRequest) -> InvalidRequest:
    """What is wrong with a request of ours, by the names of this one."""
    return InvalidRequest([replace(each, field=_field(each.field, message)) for each in error.violations])


def response_of(message: pb.ModelInferRequest, answer: generation_pb2.GenerateResponse) -> pb.ModelInferResponse:
    """An answer as tensors: raw ones where the request was raw."""
    response = pb.ModelInferResponse(model_name=answer.model, model_version="1", id=answer.request_id)
    for name in [each.name for each in message.outputs] or OUTPUTS:
        _add_output(response, name, answer, raw=bool(message.raw_input_contents))
    response.parameters["prompt_tokens"].int64_param = answer.usage.prompt_tokens
    response.parameters["completion_tokens"].int64_param = answer.usage.completion_tokens
    response.parameters["tier_used"].string_param = answer.usage.tier_used
    return response


def _add_output(response: pb.ModelInferResponse, name: str, answer: generation_pb2.GenerateResponse, raw: bool) -> None:
    if name == "token_ids":
        output = response.outputs.add(name=name, datatype="UINT32", shape=[len(answer.token_ids)])
        contents = pb.InferTensorContents(uint_contents=answer.token_ids)
        data = b"".join(each.to_bytes(4, "little") for each in answer.token_ids)
    else:
        output = response.outputs.add(name=name, datatype="BYTES", shape=[1])
        reason = generation_pb2.Finish.Reason.Name(answer.finish.reason)
        element = (answer.text if name == "text_output" else reason).encode()
        contents = pb.InferTensorContents(bytes_contents=[element])
        data = len(element).to_bytes(_LENGTH_BYTES, "little") + element
    if raw:
        response.raw_output_contents.append(data)
    else:
        output.contents.CopyFrom(contents)


def _input_violations(message: pb.ModelInferRequest) -> list[Violation]:
    names = [each.name for each in message.inputs]
    if names != [TEXT_INPUT]:
        shown = ", ".join(ascii(name[:32]) for name in names[:4]) or "none"
        return [Violation("inputs", f"are {shown}; give one tensor, {TEXT_INPUT}", "EMPTY_PROMPT")]
    (tensor,), wrong = message.inputs, list[Violation]()
    if tensor.datatype != "BYTES":
        wrong.append(Violation(f"{TEXT_INPUT}.datatype", f"is {ascii(tensor.datatype[:16])}, it must be BYTES"))
    if [*tensor.shape] not in ([1], [1, 1]):
        wrong.append(Violation(f"{TEXT_INPUT}.shape", "is not that of one element; it must be [1] or [1, 1]"))
    for name in tensor.parameters:
        wrong.append(Violation(f"{TEXT_INPUT}.parameters", f"hold {ascii(name[:32])}; a tensor has no parameters here"))
    return wrong


def _output_violations(message: pb.ModelInferRequest) -> list[Violation]:
    wrong = list[Violation]()
    for i, output in enumerate(message.outputs):
        if output.name not in OUTPUTS:
            text = f"is {ascii(output.name[:32])}; the outputs are {', '.join(OUTPUTS)}"
            wrong.append(Violation(f"outputs[{i}].name", text))
        elif output.name in [each.name for each in message.outputs[:i]]:
            wrong.append(Violation(f"outputs[{i}].name", f"is {output.name} a second time; ask for it once"))
        for name in output.parameters:
            wrong.append(Violation(f"outputs[{i}].parameters", f"hold {ascii(name[:32])}; an output has none here"))
    return wrong


def _text(message: pb.ModelInferRequest, wrong: list[Violation]) -> str:
    """The only element of the only input; "" where it is none, which `wrong` then says."""
    contents = message.inputs[0].contents
    data = _raw_element(message.raw_input_contents, wrong)
    if not message.raw_input_contents:
        if len(contents.bytes_contents) != 1:
            text = f"has {len(contents.bytes_contents)} elements of bytes, its shape says 1"
            wrong.append(Violation(TEXT_INPUT, text, "EMPTY_PROMPT"))
            return ""
        data = contents.bytes_contents[0]
    try:
        return data.decode()
    except UnicodeDecodeError:
        wrong.append(Violation(TEXT_INPUT, "is no UTF-8"))
        return ""


def _raw_element(raw: Sequence[bytes], wrong: list[Violation]) -> bytes:
    if not raw:
        return b""
    data = raw[0]
    size = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if len(raw) == 1 and len(data) >= _LENGTH_BYTES and size == len(data) - _LENGTH_BYTES:
        return data[_LENGTH_BYTES:]
    text = "are not one element behind its length, as 4 bytes of which the lowest comes first"
    wrong.append(Violation("raw_input_contents", text))
    return b""


def _settings(parameters: Mapping[str, pb.InferParameter], wrong: list[Violation]) -> dict[str, Any]:
    """What parameters ask for, by the names of `Settings`."""
    settings = dict[str, Any]()
    for name, parameter in sorted(parameters.items()):
        field, kind = f"parameters.{name[:64]}", parameter.WhichOneof("parameter_choice")
        ours = _ALIASES.get(name, name)
        if name not in PARAMETERS:
            wrong.append(Violation(field, f"there is no such parameter; {suggestion(name[:64], PARAMETERS)}"))
        elif ours in settings:
            wrong.append(Violation(field, f"is said a second time; {ours} is another name for it"))
        else:
            settings[ours] = None if kind is None else _value(ours, getattr(parameter, kind))
            if settings[ours] is None:
                wrong.append(Violation(field, f"holds no {_kind(ours)}"))
    return {name: value for name, value in settings.items() if value is not None}


def _value(name: str, given: bool | int | float | str) -> bool | int | float | str | None:
    """A parameter as its setting takes it; numbers may be strings. None for what is none."""
    try:
        if name in _TEXTS:
            return given if isinstance(given, str) else None
        if name == "ignore_eos":
            given = json.loads(given.lower()) if isinstance(given, str) else given
            return given if isinstance(given, bool) else None
        if isinstance(given, bool):
            return None
        if name in _FRACTIONS:
            return float(given)
        whole = int(given) if isinstance(given, str) or float(given).is_integer() else None
    except (ValueError, OverflowError):
        return None
    return whole


def _kind(name: str) -> str:
    if name in _TEXTS:
        return "text"
    return "true or false" if name == "ignore_eos" else "whole number" if name in _WHOLE else "number"


def _field(field: str, message: pb.ModelInferRequest) -> str:
    """prompt.text is text_input, sampling.top_p is parameters.top_p."""
    if field.startswith("prompt"):
        return TEXT_INPUT
    if field in ("model", "request_id"):
        return {"model": "model_name", "request_id": "id"}[field]
    name = field.rpartition(".")[2].partition("[")[0]
    name = "stop" if name == "stop_strings" else name
    said = next((alias for alias, ours in _ALIASES.items() if ours == name and alias in message.parameters), name)
    return f"parameters.{said}"
