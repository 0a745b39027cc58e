"""A served model as OpenAI's list has it, with what is known of it under a key of ours."""

from typing import Any

from ...proto import generation_pb2 as pb


def model_object(info: pb.ModelInfo, created: int) -> dict[str, Any]:
    """created: when this server was started; there is no other date."""
    tiers = list(info.tiers)
    return {
        "id": info.name,
        "object": "model",
        "created": created,
        "owned_by": "moesaic",
        "max_model_len": info.max_context or None,
        "moesaic": {
            "state": pb.ModelInfo.State.Name(info.state),
            "chat": info.chat,
            "pooling": info.pooling or None,
            "labels": list(info.labels) or None,
            "family": info.family,
            "num_parameters": info.num_parameters,
            "weight_bytes": info.weight_bytes,
            "stages": list(info.stages),
            "device": info.device,
            "dtype": info.dtype,
            "tiers": [
                {"name": name, "bytes_share": share} for name, share in zip(tiers, info.tier_shares, strict=True)
            ],
        },
    }
