"""Vectors of texts."""

from ..engine.embedding import embed_request, encoder_pooling, pooling_of
from ..engine.request import Limits
from ..models.sentences import Pooling
from ..proto import scoring_pb2
from .catalog import ServedModel
from .encoding import check_inputs, read_texts
from .generation import Call, Generation
from .reading_record import ReadingRecord


async def embed(generation: Generation, message: scoring_pb2.EmbedRequest, call: Call) -> scoring_pb2.EmbedResponse:
    """The vectors. Raises InvalidRequest with all that is wrong, Unsupported for a model that is no encoder, and what a
    request of Generate may.
    """
    with ReadingRecord("embed", call.request_id, message.model, message.tier, generation.tracing) as record:
        check_inputs(message)
        with generation.asking(call, message.model, message.ByteSize()) as (model, under_way):
            record.model = model.name
            limits, pooling, point = _terms(model, message)
            found = await read_texts(
                message, model, limits, lambda ids, priority: embed_request(ids, pooling, limits, point, priority),
                call, record, under_way,
            )  # fmt: skip
    embeddings = [
        scoring_pb2.Embedding(values=each.row.embedding, num_tokens=each.num_tokens, truncated=each.truncated)
        for each in found
    ]
    return scoring_pb2.EmbedResponse(
        request_id=call.request_id, model=model.name, embeddings=embeddings,
        prompt_tokens=sum(each.num_tokens for each in found), pooling=pooling.kind, normalised=pooling.normalised,
    )  # fmt: skip


def _terms(model: ServedModel, message: scoring_pb2.EmbedRequest) -> tuple[Limits, Pooling, float]:
    """What the model allows, how its states become a vector, and the operating point of the tier that is asked for."""
    limits, description = model.ready().limits, model.engine.description
    own = encoder_pooling(description.pooling if description else None, f"model {model.name}")
    normalised = message.normalised if message.HasField("normalised") else None
    point = description.dial.operating_point(message.tier, None) if description else 0.0
    return limits, pooling_of(message.pooling, normalised, own), point
