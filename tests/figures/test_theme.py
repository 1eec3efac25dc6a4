"""Colours and text that every figure shares."""

from __future__ import annotations

import subprocess
import sys

import pytest

from workbench.figures import theme
from workbench.variant import POSITIONS


def test_streams_have_distinct_colours() -> None:
    assert len({theme.variant_colour(variant) for variant in ("none", "query", "key", "value")}) == 4


def test_suffixed_variants_keep_the_colour_of_their_stream_and_differ_by_line_style() -> None:
    variants = ["value", "value-first", "value-accumulated", "value-detached", "value-permuted"]
    assert {theme.variant_colour(variant) for variant in variants} == {theme.variant_colour("value")}
    assert len({theme.variant_dash(variant) for variant in variants}) == len(variants)
    assert theme.variant_dash("value") == "solid"


def test_position_types_are_told_by_the_name() -> None:
    names = {"none": "standard", "value-first": "standard", "none-rotary": "rotary", "value-nopos-0.5-0.5": "nopos", "relative": "standard"}
    assert {name: theme.position_type(name) for name in names} == names
    assert set(theme.POSITION_LOOKS) == set(POSITIONS)
    for looks in zip(*theme.POSITION_LOOKS.values(), strict=True):
        assert len(set(looks)) == len(POSITIONS)
    assert len({theme.variant_dash(f"value-{suffix}") for suffix in POSITIONS}) == len(POSITIONS)


def test_unknown_variants_look_the_same_in_every_process() -> None:
    code = "from workbench.figures.theme import *; print(variant_colour('pythia-70m'), variant_dash('pythia-70m'))"
    printed = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() for _ in range(2)}
    assert printed == {f"{theme.variant_colour('pythia-70m')} {theme.variant_dash('pythia-70m')}"}


def test_translucent() -> None:
    assert theme.translucent("#0072B2", 0.25) == "rgba(0,114,178,0.25)"


@pytest.mark.parametrize(
    "module",
    [
        "theme",
        "tables",
        "formation",
        "head_curves",
        "heads",
        "attention",
        "viewer",
        "length",
        "amicl",
        "matrices",
        "stream",
        "predictions",
        "circuitsvis",
    ],
)
def test_figures_import_neither_torch_nor_circuitsvis(module: str) -> None:
    code = f"import sys, workbench.figures.{module}; print(sorted({{'torch', 'circuitsvis', 'transformer_lens'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
