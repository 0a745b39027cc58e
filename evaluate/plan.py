"""What an evaluation is asked for, and the checkpoints it is about, judged before any weight is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..engine.options import BOUNDS
from ..models.checkpoint import Checkpoint, load_transformer, open_checkpoint
from ..models.devices import choose_device
from ..models.errors import SetupError, TextError
from ..models.labels import SINGLE, Labels
from ..models.sentences import Sentences
from ..models.threads import choose_threads
from ..models.tokenizer import Tokenizer
from ..models.transformer import Transformer
from .corpus import Corpus, encode_corpus
from .tasks.items import Task
from .texts import read_documents

MODEL, ORIGINAL, FLOOR = "model", "original", "original in bf16"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured and how. None means: chosen from the machine and the model, or everything.

    Each file of `text` is a corpus of its own; with neither text nor tasks, the text that ships is scored. `floor`
    puts a bf16 cast of the original beside the model: agreement above that means nothing.
    """

    model: str | Path
    against: str | Path | None = None
    text: Sequence[str | Path] = ()
    documents: int | None = None
    truncate: int | None = None
    stride: int | None = None
    tasks: Sequence[str | Path] = ()
    tasks_dir: str | Path | None = None
    limit: int | None = None
    floor: bool = False
    training_text: Sequence[str | Path] = ()
    tier: str = "full"
    device: str | None = None
    dtype: str | None = None
    threads: int | None = None
    max_context: int | None = None
    seed: int = 0

    def check(self) -> None:
        """Raises SetupError for a value that no model could serve."""
        for name, least in (("documents", 1), ("truncate", 2), ("stride", 1), ("limit", 1)):
            value = getattr(self, name)
            unit = " tokens: one to read, one to predict" if name == "truncate" else ""
            if value is not None and value < least:
                raise TextError(f"{name} is {value}, it must be at least {least}{unit}")
        for name in ("threads", "max_context", "seed"):
            BOUNDS[name].check(name, getattr(self, name))
        if self.floor and self.against is None:
            raise SetupError("floor is the original cast to bf16; name the original with --against")


class Opened:
    """The checkpoints of a plan, judged together before any weight is read."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.checkpoint = open_checkpoint(plan.model)
        if not self.checkpoint.spec.continues_text and (plan.text or not plan.tasks):
            raise SetupError(
                f"{self.checkpoint.path.name} is {self.checkpoint.spec.kind}, which predicts no text that could be "
                "scored; give labelled texts (--tasks NAME.valid.tsv), or compare its vectors with `moesaic embed`"
            )
        if self.checkpoint.spec.reads_sources:
            raise SetupError(
                f"{self.checkpoint.path.name} answers what its encoder reads, and continues no text that could be "
                "scored; `moesaic eval` scores it on pairs of a source and its target"
            )
        self.operating_point = self.checkpoint.operating_point(plan.tier)
        self.original = None if plan.against is None else open_checkpoint(plan.against)
        self.tokenizer = Tokenizer.open(self.checkpoint.path)
        if self.original is not None:
            _check_same_tokens(self.checkpoint, self.original, self.tokenizer)
            _check_same_labels(self.checkpoint, self.original)
        self.device = choose_device(plan.device)
        self.threads = choose_threads(plan.threads, self.checkpoint.weight_bytes)
        self.window = self._context if plan.max_context is None else plan.max_context
        if not 2 <= self.window <= self._context:
            raise SetupError(f"max_context is {self.window}, this model's context is 2 to {self._context}")
        if plan.stride is not None and plan.stride >= self.window:
            raise SetupError(
                f"stride is {plan.stride}, it must be below the window of {self.window} tokens, "
                "else the first token of a window would have nothing before it"
            )

    @property
    def labels(self) -> Labels | None:
        """What the model's own classifier tells apart. Raises SetupError for one whose answers are no single label."""
        found = self.checkpoint.labels
        if found and found.problem != SINGLE:
            raise SetupError(
                f"{self.checkpoint.path.name} is made for {found.problem}, and texts of one label each score a "
                f"classifier of {SINGLE}"
            )
        return found

    @property
    def text_window(self) -> int:
        """The tokens of a text that an encoder reads, or a classifier."""
        return Sentences.open(self.checkpoint.path).window_within(self.window)

    @property
    def _context(self) -> int:
        both = [each.spec.max_context for each in (self.checkpoint, self.original) if each]
        return min(both)

    def corpus(self, *files: Path) -> Corpus:
        """Some files as one corpus."""
        documents = read_documents(files, self.plan.documents)
        name = ", ".join(file.name for file in files)
        return encode_corpus(name, documents, self.tokenizer, self.plan.truncate, self.checkpoint.spec.vocab_size)

    def check_tasks(self, tasks: Sequence[Task]) -> None:
        """Raises SetupError for questions, which no encoder and no classifier answers."""
        asked = next((task.name for task in tasks if task.questions), None)
        if asked is not None and not self.checkpoint.spec.continues_text:
            raise SetupError(
                f"{asked} has questions, which are answered by models that continue text; {self.checkpoint.path.name} "
                f"is {self.checkpoint.spec.kind}: give labelled texts (NAME.valid.tsv)"
            )

    def load(self) -> dict[str, Transformer]:
        """The models by whose they are."""
        wanted: list[tuple[str, Checkpoint | None, str | None]] = [(MODEL, self.checkpoint, self.plan.dtype)]
        wanted.append((ORIGINAL, self.original, self.plan.dtype))
        wanted.append((FLOOR, self.original if self.plan.floor else None, "bfloat16"))
        models = {name: load_transformer(each, self.device, dtype) for name, each, dtype in wanted if each}
        models[MODEL].operating_point = self.operating_point
        return models


def _check_same_tokens(checkpoint: Checkpoint, original: Checkpoint, tokenizer: Tokenizer) -> None:
    same_vocabulary = checkpoint.spec.vocab_size == original.spec.vocab_size
    if not same_vocabulary or tokenizer.fingerprint() != Tokenizer.open(original.path).fingerprint():
        raise SetupError(
            f"{original.path.name} has another tokenizer than {checkpoint.path.name}; "
            "only models with the same tokens can be compared"
        )


def _check_same_labels(checkpoint: Checkpoint, original: Checkpoint) -> None:
    if checkpoint.labels != original.labels:
        raise SetupError(
            f"{original.path.name} has other labels than {checkpoint.path.name}, or no classifier; only models that "
            "tell the same apart can be compared"
        )
