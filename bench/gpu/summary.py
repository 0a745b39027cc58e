"""The most telling figures of all sections, as plain text: what is printed last, and so is seen first."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..energy import told as energy_told
from .rows import Row, figures

MOST = 10_000  # characters: who reads may be shown no more than the end
MOST_BAD = 12
TOKENS = (1, 8, 64, 2048)
_GRADED = (0.55, 1.0)
Report = Mapping[str, Any]


def summary(reports: Sequence[Report]) -> str:
    """A table or a few lines a section, and what went wrong."""
    lines: list[str] = []
    for report in reports:
        rows = report["rows"]
        lines += ["", f"{report['section']}: {report['state']}, {report['seconds']} s"]
        lines += [*_bad(rows), *_last_words(report)]
        if report["section"] in _SHOWN:
            lines += _SHOWN[report["section"]](figures(rows))
    text = "\n".join(lines).strip() + "\n"
    return text if len(text) <= MOST else text[:MOST] + "\n... the rest is in the files of the sections\n"


def _bad(rows: Sequence[Row]) -> Iterator[str]:
    bad = [row for row in rows if row.keys() & {"failed", "cut"}]
    for row in bad[:MOST_BAD]:
        what = " ".join(str(row[key]) for key in ("contestant", "what", "module", "test", "kernel") if key in row)
        yield f"  {what}: {str(row.get('failed', row.get('cut'))).strip().splitlines()[-1][:160]}"
    if len(bad) > MOST_BAD:
        yield f"  and {len(bad) - MOST_BAD} more"


def _last_words(report: Report) -> Iterator[str]:
    """The end of the log of a section that ended before it could say what failed."""
    lines = str(report.get("log_tail", "")).strip().splitlines()
    if lines and not any(row.keys() & {"failed", "cut"} for row in report["rows"]):
        yield f"  {lines[-1][:160]}"


def _device(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        if row.get("what") == "machine":
            yield f"  {row['device']}, torch {row['versions'].get('torch')}, {row['nvidia_smi']}"


def _constants(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        if row["what"] == "launch":
            yield "  " + ", ".join(f"{key} {value:.2f}" for key, value in row.items() if key != "what")
        elif "teraflops" in row:
            yield f"  {row['what']}: {row['teraflops']:.4g} TFLOP/s"
        elif row["what"] != "cublas bf16":
            yield f"  {row['what']}: {row['gigabytes_per_second']:.5g} GB/s"
    yield from _table(
        ["cublas bf16, us at rows", "1", "2", "4", "8", "16"],
        _pivot(rows, lambda row: f"{row['inputs']}x{row['outputs']}", lambda row: row["rows"], (1, 2, 4, 8, 16)),
    )


def _tests(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        if row.get("what") == "tests":
            yield f"  {row['by_outcome']}, {row['ended']}"
    checked = [row["kernel"] for row in rows if row.get("checked")]
    yield f"  compute-sanitizer: {', '.join(checked) or 'nothing checked'}"


def _kernels(rows: Sequence[Row]) -> Iterator[str]:
    """Microseconds, the ratio to dense torch in bf16 and the part of a plain read's speed: at a quarter of the experts,
    whole, and at the share of bits that a tier reads.
    """
    for hidden in dict.fromkeys(row["hidden"] for row in rows):
        mine = [row for row in rows if row["hidden"] == hidden and row["share"] in (0.25, *_GRADED)]
        mine = [row for row in mine if row["share"] == 0.25 or not _has(mine, row, 0.25)]
        yield from _table(
            [f"{hidden}x{mine[0]['width']}: us (ratio, of a plain read), tokens", *map(str, TOKENS)],
            _pivot(mine, _contestant, lambda row: row["tokens"], TOKENS),
        )
    yield from _energy(rows, "share")


def _contestant(row: Row) -> str:
    return f"{row['contestant']}{', a share of ' + str(row['share']) if row['share'] == _GRADED[0] else ''}"


def _has(rows: Sequence[Row], row: Row, share: float) -> bool:
    return any(each["contestant"] == row["contestant"] and each["share"] == share for each in rows)


def _end_to_end(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        yield f"  {row['contestant']}, batch {row['batch']}, {row['how']}: {row['ms_per_step']:.3f} ms a step"
    yield from _energy(rows, "batch")


def _streams(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        yield (
            f"  {row['contestant']}: {row['tokens_per_second']:.0f} tokens/s, TTFT {row['ttft_ms_p50']:.1f} ms, "
            f"ITL {row['itl_ms_p50']:.2f} ms"
        )
    yield from _energy(rows, "streams")


def _energy(rows: Sequence[Row], key: str) -> Iterator[str]:
    """By contestant and what else tells its rows apart; of kernels, of one layer."""
    weighed = {f"{row['contestant']}, {key} {row[key]}": row for row in rows if "joules_per_token" in row}
    yield from (f"  {line}" for line in energy_told(weighed))


def _pivot(
    rows: Sequence[Row], line: Callable[[Row], str], column: Callable[[Row], int], columns: Sequence[int]
) -> list[list[str]]:
    cells: dict[str, dict[int, str]] = {}
    for row in rows:
        if "microseconds" in row:
            told = [f"{row['ratio']:.2f}"] if "ratio" in row else []
            told += [f"{row['of_limit']:.0%}"] if "of_limit" in row else []
            ratio = f" ({', '.join(told)})" if told else ""
            cells.setdefault(line(row), {})[column(row)] = f"{row['microseconds']:.4g}{ratio}"
    return [[name, *(found.get(each, "") for each in columns)] for name, found in cells.items()]


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(line[i]) for line in (head, *lines)) for i in range(len(head))]
    for line in (head, *lines):
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


_SHOWN: Mapping[str, Callable[[Sequence[Row]], Iterator[str]]] = {
    "device": _device,
    "constants": _constants,
    "checks": _tests,
    "kernels": _kernels,
    "end_to_end": _end_to_end,
    "streams": _streams,
}
