"""Chat templates of four published forms, in our own words, and tokenizers that know their control tokens."""

import json
from pathlib import Path

from builders import byte_tokenizer
from tokenizers import processors

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_2 = """{% if messages[0].role == 'system' %}
    {% set opening = '<<SYS>>\n' ~ messages[0].content ~ '\n<</SYS>>\n\n' %}
    {% set turns = messages[1:] %}
{% else %}
    {% set opening, turns = '', messages %}
{% endif %}
{% for turn in turns %}
    {% if (turn.role == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('turns go user, assistant, user, not ' ~ turn.role) }}
    {% endif %}
    {% if turn.role == 'user' %}
        {{- bos_token ~ '[INST] ' ~ (opening if loop.first) ~ turn.content.strip() ~ ' [/INST]' -}}
    {% else %}
        {{- ' ' ~ turn.content | trim ~ ' ' ~ eos_token -}}
    {% endif %}
{% endfor %}
"""
LLAMA_3 = """{% set loop_messages = messages %}
{%- for message in loop_messages %}
    {%- set text = '<|header|>' + message['role'] + '<|end_header|>\n\n' + message['content'] | trim + '<|eot|>' %}
    {%- if loop.index0 == 0 %}{% set text = bos_token + text %}{% endif %}
    {{- text }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|header|>assistant<|end_header|>\n\n' }}{% endif %}"""
REASONING = """{%- macro turn(role, text) -%}
<|im_start|>{{ role }}
{{ text }}<|im_end|>
{% endmacro -%}
{%- set ns = namespace(last=-1) -%}
{%- for m in messages[::-1] %}
    {%- if m.role == 'user' %}{% set ns.last = messages|length - 1 - loop.index0 %}{% break %}{% endif %}
{%- endfor -%}
{%- if tools %}{{ tools | tojson }}{% endif -%}
{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {%- set said = m.content.split('</think>')[-1].lstrip('\n') if loop.index0 < ns.last else m.content %}
        {%- generation %}{{ turn(m.role, said) }}{% endgeneration %}
    {%- elif m.name is defined %}{{ turn(m.role, m | tojson) }}
    {%- else %}{{ turn(m['role'], m['content']) }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think>{% endif %}{% endif %}"""
FORMS = {"chatml": CHATML, "llama-2": LLAMA_2, "llama-3": LLAMA_3, "reasoning": REASONING}
CONTROL = ["<|im_start|>", "<|im_end|>", "<|header|>", "<|end_header|>", "<|eot|>"]


def write_tokenizer(folder: Path, template: object = None, **config: object) -> Path:
    """Bytes, control tokens, and a begin token that `encode` adds; the template stands in tokenizer_config.json."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens(CONTROL)
    tokenizer.add_tokens(["<think>"])
    tokenizer.post_processor = processors.TemplateProcessing(single=["<s>", "$A"], special_tokens=[("<s>", 256)])
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    values = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", **config}
    if template is not None:
        values["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    return folder
