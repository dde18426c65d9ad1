"""How tangents are stored."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dist_attr.config.base import Settings

CodecName = Literal["float32", "bfloat16", "int8", "int4"]


class StoreConfig(Settings):
    """What a number of a tangent becomes in the store; `dist-attr copy` makes a store of another codec."""

    codec: CodecName = Field("int8", description="float32 loses nothing, bfloat16 little; int8 and int4 share scales")
    block_size: Literal[16, 32, 64, 128, 256] = Field(
        64, description="numbers that share a scale; of int8 and int4, the others have none"
    )
