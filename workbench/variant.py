"""The names of model variants: the stream, with a suffix for everything that differs from plain addition of the layer
before (Burns et al., arXiv 2412.15113) and from learned positions. A name is read back into the fields that it stands for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from workbench.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from workbench.config import ModelConfig

Stream = Literal["none", "query", "key", "value"]
STREAMS: tuple[Stream, ...] = get_args(Stream)
SUFFIXES: Mapping[str, tuple[str, Any]] = {
    "accumulated": ("stream_source", "accumulated"),
    "first": ("stream_source", "first"),
    "learned": ("stream_mix", "learned"),
    "permuted": ("stream_permute_heads", "fixed"),
    "scrambled": ("stream_permute_heads", "by-position"),
    "detached": ("stream_detach", True),
    "standard": ("positional_embedding_type", "standard"),
    "sinusoidal": ("positional_embedding_type", "sinusoidal"),
    "relative": ("positional_embedding_type", "relative"),
    "rotary": ("positional_embedding_type", "rotary"),
    "nopos": ("positional_embedding_type", "none"),
}
"""suffix -> the field and the value that it stands for; a pair of numbers is stream_init"""
POSITIONS = tuple(suffix for suffix, (field, _) in SUFFIXES.items() if field == "positional_embedding_type")
"""the suffixes that name how positions are told; "standard" is read but not written"""
PLAIN_ADDITION = (1.0, 1.0)


def variant_name(model: ModelConfig) -> str:
    """How tables and figures call a model: "none", "value", "value-first", "value-0.5-0.5", "none-rotary", ..."""
    told = [suffix for suffix, (name, value) in SUFFIXES.items() if suffix != "standard" and getattr(model, name) == value]
    if model.stream == "none":
        return "-".join(["none", *(suffix for suffix in told if suffix in POSITIONS)])
    parts = [model.stream, *told]
    if model.stream_init != PLAIN_ADDITION:
        parts += [f"{part:g}" for part in model.stream_init]
    return "-".join(parts)


def variant_fields(name: str) -> dict[str, Any]:
    """The fields of ModelConfig that a variant's name stands for. Raises UsageError, with the nearest names, for
    anything else.

    >>> variant_fields("value-first-detached")
    {'stream': 'value', 'stream_source': 'first', 'stream_detach': True}
    >>> variant_fields("key-0.5-0.5")
    {'stream': 'key', 'stream_init': (0.5, 0.5)}
    >>> variant_fields("none-rotary")
    {'stream': 'none', 'positional_embedding_type': 'rotary'}
    """
    stream, _, rest = name.partition("-")
    if stream not in STREAMS:
        raise unknown_name("stream", stream, STREAMS)
    fields: dict[str, Any] = {"stream": stream}
    if numbers := re.search(r"(?:^|-)(-?[0-9.]+(?:e-?[0-9]+)?)-(-?[0-9.]+(?:e-?[0-9]+)?)$", rest):
        try:
            fields["stream_init"] = (float(numbers[1]), float(numbers[2]))
        except ValueError:
            raise UsageError(f"stream variant {name!r}: {numbers[0].lstrip('-')} is no pair of numbers") from None
        rest = rest[: numbers.start()]
    for suffix in rest.split("-") if rest else ():
        if suffix not in SUFFIXES:
            raise unknown_name(f"suffix in the stream variant {name!r}:", suffix, SUFFIXES)
        field, value = SUFFIXES[suffix]
        if fields.get(field, value) != value:
            raise UsageError(f"stream variant {name!r}: {suffix} contradicts an earlier suffix, which also sets {field}")
        fields[field] = value
    if stream == "none" and fields.keys() - {"stream", "positional_embedding_type"}:
        raise UsageError(f"stream variant {name!r}: without a stream there is nothing to vary")
    return fields
