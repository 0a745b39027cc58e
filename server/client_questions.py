"""What a client can ask a server, and how the answer is read: the same for clients of both kinds. No torch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from ..engine.classification import Classified
from ..engine.completion import Chunk, Completion
from ..engine.embedding import Embedded
from ..models.bounds import SECONDS_TO_WAIT
from ..models.errors import MoesaicError, Unavailable
from ..proto import generation_pb2 as pb
from . import client_texts as texts
from .client_answers import ModelInfo, chunk_of, completion_of, model_of
from .client_request import Chat, Prompt, Settings, build_request
from .handlers import GENERATION, MODELS, SCORING

Conversation = Sequence[Mapping[str, str]]
T = TypeVar("T")
HEALTH: ServiceDescriptor = health_pb2.DESCRIPTOR.services_by_name["Health"]


@dataclass(frozen=True, slots=True)
class Question(Generic[T]):
    """A message for a method; `read` makes a Python value of each message that comes back."""

    service: ServiceDescriptor
    method: str
    message: Message
    read: Callable[[Any], T]


def generate(prompt: Prompt | Chat, settings: Settings) -> Question[Completion]:
    """For a whole answer. Raises InvalidRequest for what does not fit the wire."""
    return Question(GENERATION, "Generate", build_request(prompt, **settings), completion_of)


def generate_stream(prompt: Prompt | Chat, settings: Settings) -> Question[Chunk]:
    """For an answer in parts."""
    return Question(GENERATION, "GenerateStream", build_request(prompt, **settings), chunk_of)


def generate_batch(prompts: Sequence[Prompt | Chat], settings: Settings) -> Question[texts.BatchItem]:
    """For the answers to many."""
    return Question(GENERATION, "GenerateBatch", texts.batch_request(prompts, settings), texts.item_of)


def validate(prompt: Prompt | Chat, settings: Settings) -> Question[texts.Validation]:
    """For what a request would be told."""
    return Question(GENERATION, "Validate", build_request(prompt, **settings), texts.validation_of)


def tokenize(prompt: str | Conversation, model: str) -> Question[tuple[int, ...]]:
    """For the ids of a text or of a conversation."""
    return Question(GENERATION, "Tokenize", texts.tokenize_request(prompt, model), lambda found: tuple(found.token_ids))


def detokenize(token_ids: Sequence[int], model: str) -> Question[str]:
    """For the text of ids."""
    return Question(GENERATION, "Detokenize", texts.detokenize_request(token_ids, model), lambda found: str(found.text))


def apply_chat_template(messages: Conversation, model: str) -> Question[tuple[str, tuple[int, ...]]]:
    """For a conversation as the template writes it."""
    request = texts.template_request(messages, model)
    return Question(GENERATION, "ApplyChatTemplate", request, lambda found: (str(found.text), tuple(found.token_ids)))


def score(
    context: Prompt, continuations: Sequence[Prompt], logprobs: bool, settings: texts.ScoreSettings
) -> Question[list[texts.ContinuationScore]]:
    """For how likely continuations are."""
    request = texts.score_request(context, continuations, logprobs, settings)
    return Question(SCORING, "Score", request, texts.scores_of)


def embed(inputs: Sequence[Prompt], settings: texts.EmbedSettings) -> Question[list[Embedded]]:
    """For vectors of texts."""
    return Question(SCORING, "Embed", texts.embed_request(inputs, settings), texts.embeddings_of)


def classify(inputs: Sequence[Prompt], settings: texts.ClassifySettings) -> Question[list[Classified]]:
    """For labels of texts."""
    return Question(SCORING, "Classify", texts.classify_request(inputs, settings), texts.classified_of)


def models() -> Question[list[ModelInfo]]:
    """For all models."""
    return Question(
        MODELS, "ListModels", pb.ListModelsRequest(), lambda found: [model_of(each) for each in found.models]
    )


def model(name: str) -> Question[ModelInfo]:
    """For one model."""
    return Question(MODELS, "GetModel", pb.GetModelRequest(name=name), model_of)


def health(service: str) -> Question[str]:
    """For the health of a service."""
    return Question(HEALTH, "Check", health_pb2.HealthCheckRequest(service=service), _status)


def checked(timeout: float | None) -> float | None:
    """A number that is no time, and one so long that gRPC takes it for none, would end the call at once."""
    SECONDS_TO_WAIT.check("timeout", timeout)
    return timeout


def not_ready(target: str, timeout: float) -> MoesaicError:
    """What is raised where a server was there all the time and never served."""
    return Unavailable(f"{target} is not ready after {timeout} s", "NOT_SERVING", 1.0)


def _status(found: health_pb2.HealthCheckResponse) -> str:
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(found.status))


def seconds_left(timeout: float, now: Callable[[], float]) -> Iterator[float]:
    """What is left of a time, asked for until nothing is."""
    checked(timeout)
    deadline = now() + timeout
    while (left := deadline - now()) > 0:
        yield left
