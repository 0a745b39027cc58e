"""The process that makes ids of long prompts, for long_prompts.py. It ends with its standard input.

python -m moesaic.server.prompt_process FOLDER
"""

import os
import sys
from typing import BinaryIO

from ..models.chat import ChatTemplate, message_of
from ..models.errors import InvalidRequest, Unsupported
from ..models.tokenizer import Tokenizer
from ..proto import engine_pb2 as pb
from .frames import LENGTH, frame


def main() -> int:
    """The entry of the process."""
    reader, writer = os.fdopen(0, "rb"), os.fdopen(os.dup(1), "wb", 0)
    os.dup2(2, 1)  # what a library prints belongs to the log
    tokenizer = Tokenizer.open(sys.argv[1])
    template = ChatTemplate.open(sys.argv[1], tokenizer)
    while (prompt := _read(reader)) is not None:
        writer.write(frame(_tokenized(prompt, tokenizer, template)))
    return 0


def _read(reader: BinaryIO) -> pb.Tokenize | None:
    head = reader.read(LENGTH.size)
    return pb.Tokenize.FromString(reader.read(*LENGTH.unpack(head))) if head else None


def _tokenized(prompt: pb.Tokenize, tokenizer: Tokenizer, template: ChatTemplate) -> pb.Tokenized:
    if prompt.ids:
        return pb.Tokenized(text=tokenizer.decode(prompt.ids))
    turns, tools = [*map(message_of, prompt.turns)], [*prompt.tools]
    before = 0
    try:
        text = template.written(turns, tools) if prompt.written else ""
        if prompt.HasField("split"):
            ids, before = tokenizer.encode_split(prompt.text, prompt.split)
        else:
            ids = template.prompt_ids(turns, tools) if turns else tokenizer.encode(prompt.text)
    except InvalidRequest as error:
        wrong = [pb.Wrong(field=each.field, message=each.message, reason=each.reason) for each in error.violations]
        return pb.Tokenized(wrong=wrong)
    except Unsupported as error:
        return pb.Tokenized(unsupported=str(error))
    told = ids if len(ids) <= prompt.window else ()
    return pb.Tokenized(ids=told, num_ids=len(ids), text=text, num_before=before)


if __name__ == "__main__":
    sys.exit(main())
