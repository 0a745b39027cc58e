"""What a task asks, and what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Question:
    """Pairs of context and continuation. With one pair: does the model say it? With more: which is likeliest?"""

    pairs: tuple[tuple[str, str], ...]
    gold: int = 0


@dataclass(frozen=True, slots=True)
class Example:
    """A text and its label."""

    label: str
    text: str


@dataclass(frozen=True, slots=True)
class Task:
    """questions for one kind of task; train and examples for the other."""

    name: str
    questions: tuple[Question, ...] = ()
    train: tuple[Example, ...] = ()
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskScore:
    """answers and correct: by rule ("greedy"; "raw", "per_token", "per_byte"; "head"), one entry an item.

    nats: -ln p of the right answer, one entry an item. chance: the share right by guessing alone.
    """

    name: str
    rule: str  # the one that is quoted
    chance: float
    answers: Mapping[str, tuple[int, ...]]
    correct: Mapping[str, tuple[bool, ...]]
    nats: tuple[float, ...] = field(default=())

    @property
    def num_items(self) -> int:
        return len(self.correct[self.rule])

    def score(self, rule: str | None = None) -> float:
        """The share that is right."""
        return sum(self.correct[rule or self.rule]) / self.num_items

    def above_chance(self, rule: str | None = None) -> float:
        """(score - chance) / (1 - chance): 0 is guessing, 1 is perfect."""
        return (self.score(rule) - self.chance) / (1 - self.chance) if self.chance < 1 else 0.0

    def agreement(self, original: "TaskScore") -> float:
        """The share of items answered as `original` answers them."""
        pairs = zip(self.answers[self.rule], original.answers[self.rule], strict=True)
        return sum(mine == other for mine, other in pairs) / self.num_items

    def summary(self) -> dict[str, float | int | str]:
        """The figures as they are written to files."""
        figures: dict[str, float | int | str] = {
            "items": self.num_items,
            "rule": self.rule,
            "score": self.score(),
            "chance": self.chance,
            "above_chance": self.above_chance(),
        }
        figures |= {f"score_{rule}": self.score(rule) for rule in self.correct if len(self.correct) > 1}
        return figures | ({"nats_of_the_answer": sum(self.nats) / len(self.nats)} if self.nats else {})
