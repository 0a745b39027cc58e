"""moesaic.json: what was done to a checkpoint. Facts are written here, never guessed from names.

Format 4: {"format": 4, "moesaic": version, "spec": overrides, "stages": [...], "files": {name: sha256}}. A reader
takes its own format and older ones; a newer one is refused with the way out.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .errors import CheckpointError
from .spec import BIT_PLANES, NORM_REGRESSION

RECORD_NAME = "moesaic.json"
FORMAT = 4
_SINCE = {BIT_PLANES: 2, NORM_REGRESSION: 3}  # the formats from which on their tiers mean what they mean
_MAX_BYTES = 64 << 20
_MOST_DIGITS = 20  # of a count; floating-point numbers are shorter
_FIGURES = {"bytes_share", "neurons_share", "tokens", "active_by_layer"}  # what every calibration saw


def _counted(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


@dataclass(frozen=True, slots=True)
class StageRecord:
    """One stage that was run: its settings and seed, the hash of what it was given, what was measured after it.

    notes: what the stage itself found out.
    """

    name: str
    settings: Mapping[str, Any]
    seed: int
    input_sha256: str
    measured: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TierRecord:
    """A named operating point. share: the part of the bytes that tiers govern that a lone token should read.

    calibrated: what it does on the calibration text, above all `bytes_share` and `neurons_share`. measured: what it
    keeps on the recipe's evaluation text, above all `perplexity`, and `top1_agreement` with the original.
    """

    name: str
    share: float
    calibrated: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)

    @property
    def bytes_share(self) -> float:
        """The share of bytes that calibration saw, or the one asked for where it did not run."""
        return float(self.calibrated.get("bytes_share", self.share))

    @property
    def between(self) -> list[tuple[float, float]]:
        """(part of the way from the tier before to this one, share of bytes that is read there); 0 is just beyond it"""
        return [(float(part), float(share)) for part, share in self.calibrated.get("between", ())]

    @property
    def together(self) -> dict[int, list[tuple[float, float]]]:
        """By the tokens of a step that choose together, pairs (factor on thresholds, share of bytes that the step
        reads), the factors rising; empty where calibration did not look.
        """
        known = self.calibrated.get("together", {})
        if not isinstance(known, dict):
            raise TypeError("what steps read is no object")
        return {int(size): [(float(factor), float(share)) for factor, share in row] for size, row in known.items()}

    def check(self, num_layers: int) -> None:
        """Raises ValueError for what no calibration of a model of so many layers gives."""
        active = self.calibrated["active_by_layer"]
        figures = [self.share, self.calibrated["neurons_share"], self.calibrated["tokens"], *active]
        if len(active) != num_layers:
            raise ValueError(f"tier {self.name!r} has figures of {len(active)} layers, the model has {num_layers}")
        if not all(type(each) in (int, float) and 0 <= each < math.inf for each in figures) or self.share > 1:
            raise ValueError(f"tier {self.name!r} has figures that are no shares or counts")

    def check_form(self) -> None:
        """Raises TypeError or ValueError for a record that was not written by us."""
        if not isinstance(self.name, str) or not all(
            isinstance(each, dict) for each in (self.calibrated, self.measured)
        ):
            raise TypeError("a tier has no name, or its figures are no object")
        if not _FIGURES <= self.calibrated.keys():
            missing = ", ".join(sorted(_FIGURES - self.calibrated.keys()))
            raise ValueError(f"tier {self.name!r} lacks {missing}")
        if not isinstance(self.calibrated["active_by_layer"], list):
            raise TypeError(f"tier {self.name!r} has no list of layers")
        if not all(0 <= part < 1 and share > 0 for part, share in [*self.between, (0.5, self.bytes_share)]):
            raise ValueError(f"tier {self.name!r} lies nowhere")
        for size, points in self.together.items():
            factors = [factor for factor, _ in points]
            if size < 2 or not points or min(factors) < 1 or factors != sorted(set(factors)):
                raise ValueError(f"tier {self.name!r} has no thresholds for steps of {size} tokens")


@dataclass(frozen=True, slots=True)
class Record:
    """The content of moesaic.json; empty for a checkpoint that moesaic has not worked on."""

    spec: Mapping[str, Any] = field(default_factory=dict)
    stages: tuple[StageRecord, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    recipe_sha256: str = ""
    tiers: tuple[TierRecord, ...] = ()  # all but the full one, which every model has

    @classmethod
    def read(cls, folder: Path) -> "Record":
        """The record of a directory, or an empty one. Raises CheckpointError for one that cannot be read."""
        file = folder / RECORD_NAME
        if not file.exists():
            return cls()
        try:
            if file.stat().st_size > _MAX_BYTES:
                raise ValueError(f"it has more than {_MAX_BYTES:,} bytes")
            values = json.loads(file.read_bytes(), parse_int=_counted)
            if not isinstance(values["format"], int) or values["format"] > FORMAT:
                raise CheckpointError(
                    f"{file} has format {values['format']!r}, this version reads up to {FORMAT}; update moesaic"
                )
            for router, since in _SINCE.items():
                if values["format"] < since and values.get("tiers") and router in json.dumps(values["spec"]):
                    raise CheckpointError(
                        f"{file} has format {values['format']}, whose tiers of {router} this version computes "
                        "otherwise; compress the model again"
                    )
            stages = tuple(StageRecord(**stage) for stage in values["stages"])
            if not all(
                isinstance(each, dict) for stage in stages for each in (stage.measured, stage.settings, stage.notes)
            ):
                raise TypeError("a stage's settings or figures are no object")
            tiers = tuple(TierRecord(**tier) for tier in values.get("tiers", ()))
            for tier in tiers:
                tier.check_form()
            record = cls(dict(values["spec"]), stages, dict(values["files"]), str(values["recipe_sha256"]), tiers)
        except (ValueError, TypeError, KeyError, RecursionError, OSError) as error:
            raise CheckpointError(f"{file} is damaged ({error}); make the checkpoint again") from None
        return record

    @property
    def notices(self) -> tuple[str, ...]:
        """What the recipe's run found that must be known of the result before any figure."""
        found = self.stages[-1].measured.get("notices", ()) if self.stages else ()
        return tuple(map(str, found)) if isinstance(found, list | tuple) else ()

    def with_measured(self, figures: Sequence[Mapping[str, Any]]) -> "Record":
        """The same with what was measured after each of the last stages, and after the last one at each tier."""
        first = len(self.stages) - len(figures)
        told = (replace(stage, measured=each) for stage, each in zip(self.stages[first:], figures, strict=True))
        at = figures[-1].get("tiers", {}) if figures else {}
        tiers = tuple(replace(tier, measured=at.get(tier.name, {})) for tier in self.tiers)
        return replace(self, stages=(*self.stages[:first], *told), tiers=tiers)

    def with_files(self, files: Mapping[str, str], recipe_sha256: str) -> "Record":
        """The same for these weight files, by name and SHA-256."""
        return replace(self, files=files, recipe_sha256=recipe_sha256)

    def to_json(self, version: str) -> str:
        """What `read` takes."""
        return json.dumps({"format": FORMAT, "moesaic": version, **asdict(self)}, indent=2) + "\n"

    def verify(self, folder: Path, weights: Sequence[Path]) -> None:
        """Raises CheckpointError where weight files differ from the hashes that were written for them, if any were."""
        names = {file.relative_to(folder).as_posix() for file in weights}
        if self.files and names != set(self.files):
            raise CheckpointError(
                f"the weights are in {', '.join(sorted(names))}, {RECORD_NAME} speaks of "
                f"{', '.join(sorted(map(repr, self.files)))}; make the checkpoint again"
            )
        for file in weights if self.files else ():
            with file.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
            if found != self.files[file.relative_to(folder).as_posix()]:
                raise CheckpointError(
                    f"{file} is not the file that was written (its hash differs from {RECORD_NAME}): "
                    "it is damaged; make or copy it again"
                )
