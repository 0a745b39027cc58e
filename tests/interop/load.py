"""What GuideLLM measures of a server under its load: python tests/interop/load.py WEB TOKENIZER, where it is."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PROMPTS = [f"Once upon a time there were {count}" for count in ("two", "three", "four", "five", "six", "seven")]


def main(web: str, tokenizer: str, *_: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        [measured] = benchmarks(web, tokenizer, Path(folder))
    told, wrong = measured["requests"]["successful"], measured["requests"]["errored"]
    assert len(told) == len(PROMPTS) and not wrong, wrong[:1]
    for each in told:
        assert each["output"] and each["prompt_tokens"] > 3 and each["output_tokens"] > 1, each
        assert 0 < each["time_to_first_token_ms"] < 1000 * each["request_latency"], each


def benchmarks(web: str, tokenizer: str, folder: Path) -> list[Any]:
    """Its own report of streamed completions, two at a time; nothing is fetched."""
    prompts, report = folder / "prompts.jsonl", folder / "report.json"
    prompts.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    options = {
        "backend": f"kind=openai_http,target={web},request_format=/v1/completions",
        "profile": "kind=concurrent,streams=2",
        "constraint": f"kind=max_requests,count={len(PROMPTS)}",
        "tokenizer": f"kind=huggingface_auto,model={tokenizer}",
        "data": f"kind=json_file,path={prompts}",
        "output": f"kind=json,path={report}",
    }
    given = [part for name, value in options.items() for part in (f"--{name}", value)]
    command = [sys.executable, "-m", "guidellm", "run", *given, "--disable-console"]
    subprocess.run(command, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    found: list[Any] = json.loads(report.read_text())["benchmarks"]
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
