r"""Whether llama.cpp's server answers a GGUF file that is written here as the same weights are answered here.

    python -m moesaic.bench.peers.same_gguf OUT.json --model smollm2 --prompts 60

The model is written in each kind, and the file read again; prompts are lines of the text that ships, answers greedy.
llama.cpp rounds activations to eight bits a block of 32, and here they stay as they are, so that answers may part where
two tokens are nearly as likely.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from ...compress.export import export
from ...engine.llm import LLM
from ...engine.options import EngineOptions
from ...models.errors import SetupError
from ...models.gguf.reader import import_gguf
from ...models.locate import locate
from ..load.llama_server import LlamaServer, why_absent
from ..machine import machine_facts
from .same_tokens import run, sentences

KIND = "same answers of a GGUF file"
_KINDS = ("Q8_0", "Q4_0")
_SECONDS = 300.0


def measured(model: str, count: int, num_new: int, threads: int) -> dict[str, Any]:
    """Of each kind, how many answers are the same, and the texts of those that part."""
    if why := why_absent(model):
        raise SetupError(why)
    prompts, found, about = sentences(count), {}, ""
    with tempfile.TemporaryDirectory() as scratch:
        for kind in _KINDS:
            export(locate(model), Path(scratch) / kind, "gguf", kind=kind)
            [file] = (Path(scratch) / kind).glob("*.gguf")
            ours = _ours(file, Path(scratch) / f"{kind}-again", prompts, num_new, threads)
            with LlamaServer(str(file), threads) as server:
                theirs, about = list(_theirs(server.address, prompts, num_new)), server.about
            triples = list(zip(prompts, ours, theirs, strict=True))
            found[kind] = {
                "same": sum(mine == other for _, mine, other in triples), "bytes": file.stat().st_size,
                "parted": [{"prompt": a, "ours": b, "theirs": c} for a, b, c in triples if b != c],
            }  # fmt: skip
    return {
        "kind": KIND, "machine": machine_facts(), "model": Path(model).name, "peer": about, "prompts": count,
        "new_tokens": num_new, "answers": found,
    }  # fmt: skip


def _ours(file: Path, folder: Path, prompts: Sequence[str], num_new: int, threads: int) -> list[str]:
    import_gguf(file, folder)
    llm = LLM(folder, EngineOptions(threads=threads))
    return [each.text for each in llm.generate(prompts, max_new_tokens=num_new, temperature=0)]


def _theirs(address: str, prompts: Sequence[str], num_new: int) -> Iterator[str]:
    for prompt in prompts:
        body = {"prompt": prompt, "max_tokens": num_new, "temperature": 0, "cache_prompt": False}
        request = Request(
            f"http://{address}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urlopen(request, timeout=_SECONDS) as answer:
            yield json.load(answer)["choices"][0]["text"]


if __name__ == "__main__":
    raise SystemExit(run(__doc__, ("smollm2", 60, 24), measured, "llama.cpp"))
