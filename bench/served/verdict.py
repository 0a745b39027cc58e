"""What a report on retention says of the two things that were asked for, in sentences made of its figures alone."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

INT8 = "int8"  # the name of the model whose bytes shares are shares of
_SHARE, _TOP1 = 0.6, 0.985
_Report = Mapping[str, Any]


def verdicts(report: _Report) -> Iterator[str]:
    """For each model with tiers: the fewest bytes at 98.5 % of top-1, and whether it is ahead of each control."""
    whole = report["kept"].get(INT8, [{}])[0].get("token_bytes")
    for name, tiers in report["kept"].items():
        if len(tiers) > 1 and whole:
            yield _frontier(name, tiers, whole)
    for each in report["against"]:
        if each["other"] != INT8:
            yield _beside(each)


def _frontier(name: str, tiers: Sequence[Mapping[str, Any]], whole: int) -> str:
    shares = {tier["tier"]: tier["token_bytes"] / whole for tier in tiers}
    found = [tier for tier in tiers if shares[tier["tier"]] <= _SHARE and tier["relative_top1"]["value"] >= _TOP1]
    asked = f"at most {_SHARE:g} of the bytes of int8 at {_TOP1:.1%} of top-1"
    if found:
        least = min(found, key=lambda tier: shares[tier["tier"]])
        return f"{name}: {asked} is reached by {_point(least, shares)}"
    points = "; ".join(_point(tier, shares) for tier in tiers if shares[tier["tier"]] < 1)
    return f"{name}: {asked} is not reached; what was found is {points}"


def _point(tier: Mapping[str, Any], shares: Mapping[str, float]) -> str:
    top1 = tier["relative_top1"]
    return (
        f"{tier['tier']}, {shares[tier['tier']]:.3f} at {top1['value']:.1%} ({top1['low']:.1%} to {top1['high']:.1%})"
    )


def _beside(each: Mapping[str, Any]) -> str:
    """Ahead, behind, or neither: by whether the interval of the ratio of perplexities leaves out 1."""
    ratio = each["relative_perplexity"]
    said = "is ahead of" if ratio["high"] < 1 else "is behind" if ratio["low"] > 1 else "is not told apart from"
    bytes_read = f"{each['token_bytes'] / 1e6:.4g} MB against {each['other_bytes'] / 1e6:.4g}"
    interval = f"{ratio['value']:.4f} times its perplexity ({ratio['low']:.4f} to {ratio['high']:.4f})"
    return f"{each['model']}, {each['tier']}, {said} {each['other']} at no more bytes ({bytes_read}): {interval}"
