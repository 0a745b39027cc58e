"""Token ids of text, text of token ids, and what is wrong with a request: nothing here is generated."""

from collections.abc import Sequence

from google.rpc.code_pb2 import Code

from ..engine.request import Limits
from ..engine.settings import Terms
from ..models.errors import InvalidRequest, Unsupported, Violation
from ..proto import generation_pb2 as pb
from .generation import Call, Generation
from .prompts import Prompts, WithPrompt
from .status import cut
from .validation import judged, prompt_of

MOST_IDS = 1 << 16  # told of a text, unless the context holds more; taken for a text
MOST_PROBLEMS = 100
_MOST_CHARACTERS = 200  # of a problem


async def tokenize(generation: Generation, message: pb.TokenizeRequest, call: Call) -> pb.TokenizeResponse:
    """The ids of a text or of a conversation."""
    with generation.reading(call, message.model, message.ByteSize()) as (model, terms):
        return pb.TokenizeResponse(token_ids=await _ids(message, model.prompts, terms.limits))


async def detokenize(generation: Generation, message: pb.DetokenizeRequest, call: Call) -> pb.DetokenizeResponse:
    """The text of ids."""
    with generation.reading(call, message.model, message.ByteSize()) as (model, terms):
        ids = message.token_ids.ids
        if wrong := _id_violations(ids, terms.limits.vocab_size):
            raise InvalidRequest([wrong])
        return pb.DetokenizeResponse(text=await model.prompts.text(ids))


async def apply_chat_template(
    generation: Generation, message: pb.ApplyChatTemplateRequest, call: Call
) -> pb.ApplyChatTemplateResponse:
    """A conversation as the template writes it, and what the model sees of it."""
    with generation.reading(call, message.model, message.ByteSize()) as (model, terms):
        ids = await _ids(message, model.prompts, terms.limits)
        text = await model.prompts.written(message.messages)
        return pb.ApplyChatTemplateResponse(text=text, token_ids=ids)


async def validate(generation: Generation, message: pb.GenerateRequest, call: Call) -> pb.ValidateResponse:
    """What a request would end with before anything is computed, and the number of its tokens."""
    with generation.reading(call, message.model, message.ByteSize()) as (model, terms):
        response = pb.ValidateResponse(max_context=terms.limits.max_context)
        try:
            await _judge(message, model.prompts, terms, response)
        except InvalidRequest as error:
            response.code = Code.INVALID_ARGUMENT
            response.problems.extend(_problem(each) for each in error.violations[:MOST_PROBLEMS])
        except Unsupported as error:
            response.code = Code.FAILED_PRECONDITION
            response.problems.append(_problem(Violation("", str(error), "UNSUPPORTED_BY_MODEL")))
        return response


async def _judge(message: pb.GenerateRequest, prompts: Prompts, terms: Terms, response: pb.ValidateResponse) -> None:
    ids, wrong = await prompt_of(message, prompts, terms.limits.max_context)
    if not wrong:
        response.prompt_tokens = len(ids)
    await judged(message, ids, wrong, prompts, terms)


async def _ids(message: WithPrompt, prompts: Prompts, limits: Limits) -> Sequence[int]:
    most = max(MOST_IDS, limits.max_context)
    ids = await prompts.ids(message, most)
    if len(ids) <= most:
        return ids
    text = f"makes {len(ids)} tokens, the limit is {most}; give it in parts"
    raise InvalidRequest([Violation("prompt", text, "TOO_MANY_TOKENS", {"tokens": str(len(ids)), "limit": str(most)})])


def _id_violations(ids: Sequence[int], vocabulary: int) -> Violation | None:
    if len(ids) > MOST_IDS:
        return Violation("token_ids", f"are {len(ids)}, the limit is {MOST_IDS}; give them in parts", "TOO_MANY_TOKENS")
    bad = next((i for i, token in enumerate(ids) if token >= vocabulary), None)
    if bad is None:
        return None
    text = f"hold {ids[bad]} at index {bad}, the vocabulary has the ids below {vocabulary}"
    return Violation("token_ids", text, "TOKEN_OUT_OF_VOCABULARY")


def _problem(violation: Violation) -> pb.FieldProblem:
    message = cut(violation.message, _MOST_CHARACTERS)
    return pb.FieldProblem(field=violation.field, message=message, reason=violation.reason)
