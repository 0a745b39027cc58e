"""Labels of texts."""

from ..engine.classification import classified, classifier_labels, classify_request
from ..models.labels import Labels
from ..proto import scoring_pb2
from .encoding import ReadText, check_inputs, read_texts
from .generation import Call, Generation
from .reading_record import ReadingRecord


async def classify(
    generation: Generation, message: scoring_pb2.ClassifyRequest, call: Call
) -> scoring_pb2.ClassifyResponse:
    """The labels with their scores. Raises InvalidRequest with all that is wrong, Unsupported for a model without a
    classifier, and what a request of Generate may.
    """
    with ReadingRecord("classify", call.request_id, message.model, "", generation.tracing) as record:
        check_inputs(message)
        with generation.asking(call, message.model, message.ByteSize()) as (model, under_way):
            record.model = model.name
            limits, description = model.ready().limits, model.engine.description
            labels = classifier_labels(description.labels if description else None, f"model {model.name}")
            found = await read_texts(
                message, model, limits, lambda ids, priority: classify_request(ids, limits, priority), call, record,
                under_way,
            )  # fmt: skip
    return scoring_pb2.ClassifyResponse(
        request_id=call.request_id, model=model.name, classifications=[_message(labels, each) for each in found],
        labels=labels.names, problem_type=labels.problem, prompt_tokens=sum(each.num_tokens for each in found),
    )  # fmt: skip


def _message(labels: Labels, read: ReadText) -> scoring_pb2.Classification:
    found = classified(labels, read.row.logits, read.num_tokens, read.truncated)
    return scoring_pb2.Classification(
        label=found.label, scores=found.scores, logits=found.logits, num_tokens=found.num_tokens,
        truncated=found.truncated,
    )  # fmt: skip
