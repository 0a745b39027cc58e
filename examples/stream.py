"""Stream an answer from a running server, token by token.

moesaic serve MODEL --port 50051
python examples/stream.py localhost:50051 "Once upon a time"
"""

import sys

import moesaic


def main(address: str, prompt: str) -> None:
    with moesaic.Client(address) as client:
        for chunk in client.stream(prompt, max_new_tokens=32, temperature=0):
            print(chunk.text, end="", flush=True)
    print()
    if chunk.usage:
        print(f"{chunk.usage.prompt_tokens} prompt tokens, {chunk.usage.completion_tokens} new ones")


if __name__ == "__main__":
    main(*sys.argv[1:])
