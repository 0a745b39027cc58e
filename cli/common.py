"""What the subcommands share: options of an engine and of a generation, and how both are described."""

import argparse
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

from ..engine.completion import Usage
from ..engine.options import EngineOptions, ModelDescription
from ..engine.sampling import OPTIONS
from ..engine.settings import GenerationSettings
from ..engine.standing import PRIORITIES
from ..models.setting import Setting, settings

_DEFAULTS = {"temperature": 0.0}  # greedy, so that a command can be repeated
_FOR_SLOTS = ("kv_memory", "kv_cache", "step_share")


def add_engine_options(parser: argparse.ArgumentParser, slots: bool = True) -> None:
    """--device and the rest, the same wherever a model runs. slots: with those that need requests in slots."""
    group = parser.add_argument_group("where and how the model runs (by default chosen from the machine, and printed)")
    for name, each in settings(EngineOptions).items():
        if name != "num_slots" and (slots or name not in _FOR_SLOTS):
            add_setting(group, each, "engine_seed" if name == "seed" else name)


def engine_options(args: argparse.Namespace, num_slots: int = 8) -> EngineOptions:
    """The options that `add_engine_options` parsed."""
    return EngineOptions(
        args.device, args.dtype, args.threads, args.max_context, args.kv_memory, num_slots,
        args.engine_seed or 0, args.step_share, args.kv_cache,
    )  # fmt: skip


def add_setting(parser: Any, each: Setting, name: str) -> None:
    """The flag of a setting; None when it is not given."""
    told = f"{each.help} (default: {each.shown_default})" if each.shown_default else each.help
    if each.is_switch:
        parser.add_argument(each.flag, dest=name, action=argparse.BooleanOptionalAction, help=told)
    elif each.choices:
        parser.add_argument(each.flag, dest=name, choices=each.choices, help=told)
    else:
        parser.add_argument(each.flag, dest=name, type=_typed(each.read), metavar=each.metavar, help=told)


def _typed(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """What argparse calls with a text: whatever is wrong with it is told in its own words."""

    def typed(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return typed


def add_generation_options(parser: argparse.ArgumentParser, without: Container[str] = ()) -> None:
    """How a prompt is continued: `settings_of` gathers it. Greedy unless a temperature is given."""
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="default: 128, or what the context holds")
    for name, option in OPTIONS.items():
        if name not in without:
            default = _DEFAULTS.get(name)
            told = option.help if default is None else f"{option.help}; default: {default:g}"
            flag = f"--{name.replace('_', '-')}"
            parser.add_argument(flag, type=option.kind, default=default, metavar=option.metavar, help=told)
    _add_token_rules(parser)
    _add_constraints(parser)
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text; repeatable")
    _add_compute(parser)
    _add_standing(parser)


def _add_compute(parser: argparse.ArgumentParser) -> None:
    dial = parser.add_mutually_exclusive_group()
    dial.add_argument("--tier", metavar="TIER", help="how much of the weights to read: a tier the model lists")
    dial.add_argument(
        "--share", type=float, metavar="S", help="or the part of the bytes that tiers govern: 0.6 lies between tiers"
    )
    floor = parser.add_mutually_exclusive_group()
    floor.add_argument("--floor-tier", metavar="TIER", help="the engine may go down to this tier while others wait")
    floor.add_argument("--floor-share", type=float, metavar="S", help="or down to this part of the bytes")
    parser.add_argument("--prefill-tier", metavar="TIER", help="the tier at which the prompt is read; default: full")


def _add_standing(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("beside other requests")
    group.add_argument("--priority", choices=PRIORITIES, help="the higher goes first while requests wait")
    group.add_argument("--cache-salt", metavar="TEXT", help="share what was read with requests of this salt alone")
    group.add_argument(
        "--first-token-seconds", type=float, metavar="S", help="drop the request where its first token comes later"
    )


def _add_token_rules(parser: argparse.ArgumentParser) -> None:
    rules = parser.add_argument_group("single tokens, by their ids; each is repeatable")
    rules.add_argument(
        "--logit-bias", action=_Bias, metavar="ID=X", help="added to the logit of this token, -100 to 100"
    )
    allowed, banned = "no other token than these", "never this token"
    for flag, name, told in (("--allow-token", "allowed", allowed), ("--ban-token", "banned", banned)):
        rules.add_argument(flag, dest=f"{name}_token_ids", action="append", type=int, metavar="ID", help=told)


def _add_constraints(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what the answer must be, one of these (pip install 'moesaic[guided]')")
    kinds = group.add_mutually_exclusive_group()
    kinds.add_argument("--json-schema", type=_text_or_file, metavar="FILE|TEXT", help="JSON that follows this schema")
    kinds.add_argument("--regex", metavar="TEXT", help="text that matches all of this regular expression")
    kinds.add_argument("--grammar", type=_text_of, metavar="FILE", help="text of this grammar, in Lark's syntax")
    kinds.add_argument("--choice", dest="choices", action="append", metavar="TEXT", help="one of these; repeatable")


class _Bias(argparse.Action):
    """Gathers ID=NUMBER into one mapping."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, flag: str | None = None) -> None:
        token, _, number = values.partition("=")
        try:
            bias = {**(getattr(namespace, self.dest) or {}), int(token): float(number)}
        except ValueError:
            parser.error(f"{flag} takes a token id and a number such as 42=-5, not {values!r}")
        setattr(namespace, self.dest, bias)


def _text_or_file(text: str) -> str:
    """A schema begins with a brace; anything else is the name of a file."""
    return text if text.lstrip().startswith("{") else _text_of(text)


def _text_of(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{name!r} cannot be read: {error}") from None


def settings_of(args: argparse.Namespace) -> GenerationSettings:
    """What `add_generation_options` parsed; None is left open."""
    settings: Any = {name: value for name, value in vars(args).items() if name in GenerationSettings.__annotations__}
    return settings  # type: ignore[no-any-return]


def describe_tier(usage: Usage) -> str:
    """The tier that was used, the one that was asked for where they differ, and, where the model has several, what it
    read.
    """
    tier = f"tier {usage.tier_used}" if usage.tier_used else "between tiers"
    if usage.tier_asked not in ("", usage.tier_used):
        tier += f" (asked for {usage.tier_asked})"
    if usage.bytes_share is None:
        return tier
    return f"{tier}, {usage.bytes_share:.0%} of the bytes that tiers govern"


def describe(name: str, model: ModelDescription) -> str:
    """One line: what runs, and on what."""
    stages = f", after {' + '.join(model.stages)}" if model.stages else ""
    how = f"module by module, since {model.without_program}" if model.without_program else "a step in one call"
    threads = f"{model.threads} thread{'s' * (model.threads != 1)}, {how}" if model.device == "cpu" else ""
    return (
        f"{name}: {model.family}, {model.num_parameters / 1e6:.4g}M parameters in {model.weight_bytes / 1e6:.4g} MB"
        f"{stages}; {model.device} {model.dtype} {threads}; context {model.max_context}, {model.num_slots} slots, "
        f"{model.room}"
    )
