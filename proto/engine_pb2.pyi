from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Command(_message.Message):
    __slots__ = ("submit", "abort", "shutdown")
    SUBMIT_FIELD_NUMBER: _ClassVar[int]
    ABORT_FIELD_NUMBER: _ClassVar[int]
    SHUTDOWN_FIELD_NUMBER: _ClassVar[int]
    submit: Submit
    abort: Abort
    shutdown: Shutdown
    def __init__(self, submit: _Optional[_Union[Submit, _Mapping]] = ..., abort: _Optional[_Union[Abort, _Mapping]] = ..., shutdown: _Optional[_Union[Shutdown, _Mapping]] = ...) -> None: ...

class Submit(_message.Message):
    __slots__ = ("key", "prompt_ids", "sampling", "max_new_tokens", "stop_token_ids", "ignore_eos", "arrived_seconds", "operating_point", "token_rules", "constraint", "prefill_point", "floor", "priority", "caller", "salt", "deadline_seconds", "pooling", "num_full", "distributions_at", "classify")
    KEY_FIELD_NUMBER: _ClassVar[int]
    PROMPT_IDS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    IGNORE_EOS_FIELD_NUMBER: _ClassVar[int]
    ARRIVED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    OPERATING_POINT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_RULES_FIELD_NUMBER: _ClassVar[int]
    CONSTRAINT_FIELD_NUMBER: _ClassVar[int]
    PREFILL_POINT_FIELD_NUMBER: _ClassVar[int]
    FLOOR_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    SALT_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    POOLING_FIELD_NUMBER: _ClassVar[int]
    NUM_FULL_FIELD_NUMBER: _ClassVar[int]
    DISTRIBUTIONS_AT_FIELD_NUMBER: _ClassVar[int]
    CLASSIFY_FIELD_NUMBER: _ClassVar[int]
    key: int
    prompt_ids: _containers.RepeatedScalarFieldContainer[int]
    sampling: Sampling
    max_new_tokens: int
    stop_token_ids: _containers.RepeatedScalarFieldContainer[int]
    ignore_eos: bool
    arrived_seconds: float
    operating_point: float
    token_rules: TokenRules
    constraint: Constraint
    prefill_point: float
    floor: float
    priority: str
    caller: str
    salt: str
    deadline_seconds: float
    pooling: Pooling
    num_full: int
    distributions_at: _containers.RepeatedScalarFieldContainer[int]
    classify: bool
    def __init__(self, key: _Optional[int] = ..., prompt_ids: _Optional[_Iterable[int]] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., max_new_tokens: _Optional[int] = ..., stop_token_ids: _Optional[_Iterable[int]] = ..., ignore_eos: bool = ..., arrived_seconds: _Optional[float] = ..., operating_point: _Optional[float] = ..., token_rules: _Optional[_Union[TokenRules, _Mapping]] = ..., constraint: _Optional[_Union[Constraint, _Mapping]] = ..., prefill_point: _Optional[float] = ..., floor: _Optional[float] = ..., priority: _Optional[str] = ..., caller: _Optional[str] = ..., salt: _Optional[str] = ..., deadline_seconds: _Optional[float] = ..., pooling: _Optional[_Union[Pooling, _Mapping]] = ..., num_full: _Optional[int] = ..., distributions_at: _Optional[_Iterable[int]] = ..., classify: bool = ...) -> None: ...

class Labels(_message.Message):
    __slots__ = ("names", "problem")
    NAMES_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    problem: str
    def __init__(self, names: _Optional[_Iterable[str]] = ..., problem: _Optional[str] = ...) -> None: ...

class Pooling(_message.Message):
    __slots__ = ("kind", "normalised")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NORMALISED_FIELD_NUMBER: _ClassVar[int]
    kind: str
    normalised: bool
    def __init__(self, kind: _Optional[str] = ..., normalised: bool = ...) -> None: ...

class TokenRules(_message.Message):
    __slots__ = ("logit_bias", "allowed_token_ids", "banned_token_ids")
    class LogitBiasEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: float
        def __init__(self, key: _Optional[int] = ..., value: _Optional[float] = ...) -> None: ...
    LOGIT_BIAS_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    BANNED_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    logit_bias: _containers.ScalarMap[int, float]
    allowed_token_ids: _containers.RepeatedScalarFieldContainer[int]
    banned_token_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, logit_bias: _Optional[_Mapping[int, float]] = ..., allowed_token_ids: _Optional[_Iterable[int]] = ..., banned_token_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class Constraint(_message.Message):
    __slots__ = ("kind", "texts")
    KIND_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    kind: str
    texts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, kind: _Optional[str] = ..., texts: _Optional[_Iterable[str]] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("temperature", "top_k", "top_p", "min_p", "seed", "typical_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "min_new_tokens", "n", "logprobs", "prompt_logprobs", "num_beams", "length_penalty", "early_stopping")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    TYPICAL_P_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    MIN_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    NUM_BEAMS_FIELD_NUMBER: _ClassVar[int]
    LENGTH_PENALTY_FIELD_NUMBER: _ClassVar[int]
    EARLY_STOPPING_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int
    typical_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    min_new_tokens: int
    n: int
    logprobs: int
    prompt_logprobs: int
    num_beams: int
    length_penalty: float
    early_stopping: int
    def __init__(self, temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., min_p: _Optional[float] = ..., seed: _Optional[int] = ..., typical_p: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., presence_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., min_new_tokens: _Optional[int] = ..., n: _Optional[int] = ..., logprobs: _Optional[int] = ..., prompt_logprobs: _Optional[int] = ..., num_beams: _Optional[int] = ..., length_penalty: _Optional[float] = ..., early_stopping: _Optional[int] = ...) -> None: ...

class Abort(_message.Message):
    __slots__ = ("key", "choice")
    KEY_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    key: int
    choice: int
    def __init__(self, key: _Optional[int] = ..., choice: _Optional[int] = ...) -> None: ...

class Shutdown(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Event(_message.Message):
    __slots__ = ("ready", "step", "refused", "beat")
    READY_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    BEAT_FIELD_NUMBER: _ClassVar[int]
    ready: Ready
    step: Step
    refused: Refused
    beat: Beat
    def __init__(self, ready: _Optional[_Union[Ready, _Mapping]] = ..., step: _Optional[_Union[Step, _Mapping]] = ..., refused: _Optional[_Union[Refused, _Mapping]] = ..., beat: _Optional[_Union[Beat, _Mapping]] = ...) -> None: ...

class Ready(_message.Message):
    __slots__ = ("family", "num_parameters", "weight_bytes", "vocab_size", "max_context", "stages", "tiers", "device", "dtype", "load", "threads", "dial", "kv_tokens", "kv_bytes", "kv_cache", "tier_bytes", "other_bytes", "cache_tokens", "num_slots", "block_tokens", "pooling", "max_source", "labels", "instead")
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    NUM_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    TIERS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    DIAL_FIELD_NUMBER: _ClassVar[int]
    KV_TOKENS_FIELD_NUMBER: _ClassVar[int]
    KV_BYTES_FIELD_NUMBER: _ClassVar[int]
    KV_CACHE_FIELD_NUMBER: _ClassVar[int]
    TIER_BYTES_FIELD_NUMBER: _ClassVar[int]
    OTHER_BYTES_FIELD_NUMBER: _ClassVar[int]
    CACHE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_SLOTS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_TOKENS_FIELD_NUMBER: _ClassVar[int]
    POOLING_FIELD_NUMBER: _ClassVar[int]
    MAX_SOURCE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    INSTEAD_FIELD_NUMBER: _ClassVar[int]
    family: str
    num_parameters: int
    weight_bytes: int
    vocab_size: int
    max_context: int
    stages: _containers.RepeatedScalarFieldContainer[str]
    tiers: _containers.RepeatedScalarFieldContainer[str]
    device: str
    dtype: str
    load: Load
    threads: int
    dial: _containers.RepeatedCompositeFieldContainer[DialPoint]
    kv_tokens: int
    kv_bytes: int
    kv_cache: str
    tier_bytes: int
    other_bytes: int
    cache_tokens: int
    num_slots: int
    block_tokens: int
    pooling: Pooling
    max_source: int
    labels: Labels
    instead: str
    def __init__(self, family: _Optional[str] = ..., num_parameters: _Optional[int] = ..., weight_bytes: _Optional[int] = ..., vocab_size: _Optional[int] = ..., max_context: _Optional[int] = ..., stages: _Optional[_Iterable[str]] = ..., tiers: _Optional[_Iterable[str]] = ..., device: _Optional[str] = ..., dtype: _Optional[str] = ..., load: _Optional[_Union[Load, _Mapping]] = ..., threads: _Optional[int] = ..., dial: _Optional[_Iterable[_Union[DialPoint, _Mapping]]] = ..., kv_tokens: _Optional[int] = ..., kv_bytes: _Optional[int] = ..., kv_cache: _Optional[str] = ..., tier_bytes: _Optional[int] = ..., other_bytes: _Optional[int] = ..., cache_tokens: _Optional[int] = ..., num_slots: _Optional[int] = ..., block_tokens: _Optional[int] = ..., pooling: _Optional[_Union[Pooling, _Mapping]] = ..., max_source: _Optional[int] = ..., labels: _Optional[_Union[Labels, _Mapping]] = ..., instead: _Optional[str] = ...) -> None: ...

class DialPoint(_message.Message):
    __slots__ = ("operating_point", "share")
    OPERATING_POINT_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    operating_point: float
    share: float
    def __init__(self, operating_point: _Optional[float] = ..., share: _Optional[float] = ...) -> None: ...

class Step(_message.Message):
    __slots__ = ("rows", "load", "num_obeyed")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    NUM_OBEYED_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[Row]
    load: Load
    num_obeyed: int
    def __init__(self, rows: _Optional[_Iterable[_Union[Row, _Mapping]]] = ..., load: _Optional[_Union[Load, _Mapping]] = ..., num_obeyed: _Optional[int] = ...) -> None: ...

class Beat(_message.Message):
    __slots__ = ("cpu_seconds",)
    CPU_SECONDS_FIELD_NUMBER: _ClassVar[int]
    cpu_seconds: float
    def __init__(self, cpu_seconds: _Optional[float] = ...) -> None: ...

class Row(_message.Message):
    __slots__ = ("key", "token_ids", "finish", "stop_token_id", "error", "queue_seconds", "prefill_seconds", "decode_seconds", "bytes_share", "neurons_share", "choice", "logprobs", "prompt_logprobs", "cached_tokens", "operating_point", "embedding", "distributions", "logits")
    KEY_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    QUEUE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DECODE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    BYTES_SHARE_FIELD_NUMBER: _ClassVar[int]
    NEURONS_SHARE_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OPERATING_POINT_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    DISTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    LOGITS_FIELD_NUMBER: _ClassVar[int]
    key: int
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    finish: str
    stop_token_id: int
    error: str
    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float
    bytes_share: float
    neurons_share: float
    choice: int
    logprobs: _containers.RepeatedCompositeFieldContainer[TokenLogprobs]
    prompt_logprobs: _containers.RepeatedCompositeFieldContainer[TokenLogprobs]
    cached_tokens: int
    operating_point: float
    embedding: _containers.RepeatedScalarFieldContainer[float]
    distributions: _containers.RepeatedScalarFieldContainer[bytes]
    logits: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, key: _Optional[int] = ..., token_ids: _Optional[_Iterable[int]] = ..., finish: _Optional[str] = ..., stop_token_id: _Optional[int] = ..., error: _Optional[str] = ..., queue_seconds: _Optional[float] = ..., prefill_seconds: _Optional[float] = ..., decode_seconds: _Optional[float] = ..., bytes_share: _Optional[float] = ..., neurons_share: _Optional[float] = ..., choice: _Optional[int] = ..., logprobs: _Optional[_Iterable[_Union[TokenLogprobs, _Mapping]]] = ..., prompt_logprobs: _Optional[_Iterable[_Union[TokenLogprobs, _Mapping]]] = ..., cached_tokens: _Optional[int] = ..., operating_point: _Optional[float] = ..., embedding: _Optional[_Iterable[float]] = ..., distributions: _Optional[_Iterable[bytes]] = ..., logits: _Optional[_Iterable[float]] = ...) -> None: ...

class TokenLogprobs(_message.Message):
    __slots__ = ("token_id", "logprob", "top_ids", "top_logprobs")
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    TOP_IDS_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    token_id: int
    logprob: float
    top_ids: _containers.RepeatedScalarFieldContainer[int]
    top_logprobs: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, token_id: _Optional[int] = ..., logprob: _Optional[float] = ..., top_ids: _Optional[_Iterable[int]] = ..., top_logprobs: _Optional[_Iterable[float]] = ...) -> None: ...

class Load(_message.Message):
    __slots__ = ("num_slots", "free_slots", "running", "waiting", "num_blocks", "free_blocks")
    NUM_SLOTS_FIELD_NUMBER: _ClassVar[int]
    FREE_SLOTS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    FREE_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    num_slots: int
    free_slots: int
    running: int
    waiting: int
    num_blocks: int
    free_blocks: int
    def __init__(self, num_slots: _Optional[int] = ..., free_slots: _Optional[int] = ..., running: _Optional[int] = ..., waiting: _Optional[int] = ..., num_blocks: _Optional[int] = ..., free_blocks: _Optional[int] = ...) -> None: ...

class Refused(_message.Message):
    __slots__ = ("message",)
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    message: str
    def __init__(self, message: _Optional[str] = ...) -> None: ...

class Tokenize(_message.Message):
    __slots__ = ("text", "turns", "window", "ids", "written", "split", "tools")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TURNS_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    text: str
    turns: _containers.RepeatedCompositeFieldContainer[Turn]
    window: int
    ids: _containers.RepeatedScalarFieldContainer[int]
    written: bool
    split: int
    tools: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, text: _Optional[str] = ..., turns: _Optional[_Iterable[_Union[Turn, _Mapping]]] = ..., window: _Optional[int] = ..., ids: _Optional[_Iterable[int]] = ..., written: bool = ..., split: _Optional[int] = ..., tools: _Optional[_Iterable[str]] = ...) -> None: ...

class Turn(_message.Message):
    __slots__ = ("role", "content", "tool_calls")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    TOOL_CALLS_FIELD_NUMBER: _ClassVar[int]
    role: str
    content: str
    tool_calls: _containers.RepeatedCompositeFieldContainer[Called]
    def __init__(self, role: _Optional[str] = ..., content: _Optional[str] = ..., tool_calls: _Optional[_Iterable[_Union[Called, _Mapping]]] = ...) -> None: ...

class Called(_message.Message):
    __slots__ = ("name", "arguments")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    arguments: str
    def __init__(self, name: _Optional[str] = ..., arguments: _Optional[str] = ...) -> None: ...

class Tokenized(_message.Message):
    __slots__ = ("ids", "num_ids", "wrong", "unsupported", "text", "num_before")
    IDS_FIELD_NUMBER: _ClassVar[int]
    NUM_IDS_FIELD_NUMBER: _ClassVar[int]
    WRONG_FIELD_NUMBER: _ClassVar[int]
    UNSUPPORTED_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    NUM_BEFORE_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    num_ids: int
    wrong: _containers.RepeatedCompositeFieldContainer[Wrong]
    unsupported: str
    text: str
    num_before: int
    def __init__(self, ids: _Optional[_Iterable[int]] = ..., num_ids: _Optional[int] = ..., wrong: _Optional[_Iterable[_Union[Wrong, _Mapping]]] = ..., unsupported: _Optional[str] = ..., text: _Optional[str] = ..., num_before: _Optional[int] = ...) -> None: ...

class Wrong(_message.Message):
    __slots__ = ("field", "message", "reason")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    field: str
    message: str
    reason: str
    def __init__(self, field: _Optional[str] = ..., message: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...
