"""Continue one prompt at every tier of a model, and say what each answer read of the feed-forward layers.

    python examples/tiers.py MODEL "Once upon a time"

MODEL is what examples/compress.py wrote, or any other model with tiers.
"""

import sys

import moesaic


def main(model: str, prompt: str) -> None:
    llm = moesaic.LLM(model)
    for tier in llm.description.tiers:
        answer = llm.generate([prompt], tier=tier, max_new_tokens=32, temperature=0)[0]
        share = answer.usage.bytes_share
        print(f"{tier}, {1 if share is None else share:.0%} of the bytes: {prompt}{answer.text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
