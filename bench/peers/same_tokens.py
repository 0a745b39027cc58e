r"""Whether an encoder-decoder answers with the tokens of transformers: greedily and by beam search, prompt by prompt.

    python -m moesaic.bench.peers.same_tokens OUT.json --model t5 --prompts 200

Prompts are sentences of the text that ships behind each of three prefixes in turn; both sides compute in fp32.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ...engine.llm import LLM
from ...evaluate.provenance import command_line
from ...evaluate.texts import embedded_text, read_documents
from ...models.bounds import Bound
from ...models.errors import MoesaicError, SetupError, TextError
from ...models.files import check_file, write_whole
from ...models.locate import locate
from ..machine import machine_facts
from . import transformers

KIND = "same tokens"
_PREFIXES = ("translate English to German: ", "translate English to French: ", "title: ")
_SEARCHES = {"greedily": 1, "by beam search of 4": 4}


def measured(model: str, count: int, num_new: int, threads: int) -> dict[str, Any]:
    """Of each way to answer, how many answers are the same, and the prompts of those that are not."""
    if why := transformers.why_absent():
        raise SetupError(why)
    torch.set_num_threads(threads)
    llm = LLM(model)
    prompts = [_PREFIXES[i % len(_PREFIXES)] + line for i, line in enumerate(sentences(count))]
    found = {}
    for name, num_beams in _SEARCHES.items():
        ours = llm.generate(prompts, max_new_tokens=num_new, temperature=0, num_beams=num_beams)
        theirs = _theirs(model, [llm.tokenizer.encode(prompt) for prompt in prompts], num_new, num_beams)
        pairs = list(zip(prompts, (list(each.token_ids) for each in ours), theirs, strict=True))
        found[name] = {
            "same": sum(mine == other for _, mine, other in pairs),
            "differing": [
                {"prompt": prompt, "ours": mine, "theirs": other} for prompt, mine, other in pairs if mine != other
            ],
        }
    return {
        "kind": KIND, "machine": machine_facts(), "model": Path(model).name, "prompts": count, "new_tokens": num_new,
        "answers": found,
    }  # fmt: skip


def _theirs(model: str, sources: Sequence[Sequence[int]], num_new: int, num_beams: int) -> Iterator[list[int]]:
    """The new tokens of transformers, each source alone, without those that end an answer."""
    library = import_module("transformers")
    library.utils.logging.disable_progress_bar()
    original = library.AutoModelForSeq2SeqLM.from_pretrained(str(locate(model)), dtype=torch.float32).eval()
    ends = original.generation_config.eos_token_id
    ends = {*ends} if isinstance(ends, list) else {ends}
    for ids in sources:
        with torch.inference_mode():
            row = original.generate(
                torch.tensor([[*ids]]), do_sample=False, max_new_tokens=num_new, num_beams=num_beams
            )[0, 1:]
        yield [token for token in row.tolist() if token not in ends]


def sentences(count: int) -> list[str]:
    """The first lines of the text that ships. Raises TextError for more than it has."""
    lines = [line for document in read_documents([embedded_text()]) for line in document.splitlines() if len(line) > 30]
    if len(lines) < count:
        raise TextError(f"the text that ships has {len(lines)} lines, {count} are asked for; ask for fewer --prompts")
    return [line[:200] for line in lines[:count]]


def run(
    description: str | None,
    defaults: tuple[str, int, int],
    compare: Callable[[str, int, int, int], dict[str, Any]],
    peer: str,
) -> int:
    """Compares as the command line asks, prints a line a way and writes. defaults: model, prompts, new tokens."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    for name, default in zip(("--model", "--prompts", "--new-tokens", "--threads"), (*defaults, 2), strict=True):
        parser.add_argument(name, type=type(default), default=default)
    args = parser.parse_args()
    try:
        check_file(args.out, str(args.out))
        Bound(1).check("prompts", args.prompts)
        report = compare(args.model, args.prompts, args.new_tokens, args.threads)
        write_whole(args.out, (json.dumps({"command": command_line(args.out), **report}, indent=2) + "\n").encode())
    except MoesaicError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    for name, each in report["answers"].items():
        sys.stdout.write(f"{name}: {each['same']} of {report['prompts']} answers are those of {peer}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(run(__doc__, ("t5", 200, 32), measured, "transformers"))
