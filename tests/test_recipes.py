"""Recipes with unknown keys, wrong types or numbers out of range are refused."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from audiotok import CodecConfig, load_recipe
from audiotok.cli.main import main
from audiotok.recipes import coerce_arguments


@dataclass(frozen=True)
class Inner:
    lr: float = 1e-3
    steps: int = 10


@dataclass(frozen=True)
class Toy:
    name: str = "x"
    on: bool = False
    inner: Inner = Inner()
    taps: tuple[int, ...] = (1, 2)
    weights: dict[str, float] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)


def load(folder: Path, *overrides: str, text: str = "") -> Toy:
    (folder / "toy.yaml").write_text(text)
    return load_recipe(Toy, folder / "toy.yaml", folder, overrides)


def test_values_have_their_types(tmp_path: Path) -> None:
    toy = load(tmp_path, "inner.lr=1e-2", "taps=[3, 4]", "on=true", text="weights: {a: 2}\nmodel: {n_q: 2}")
    assert toy == Toy("x", True, Inner(0.01), (3, 4), {"a": 2.0}, {"n_q": 2})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("inner.lr=.inf", "expected inner.lr to be a number of at least 0, got inf"),
        ("inner.lr=.nan", "expected inner.lr to be a number"),
        ("inner.lr=-1", "expected inner.lr to be a number of at least 0, got -1"),
        ("inner.lr=1e999", "expected inner.lr to be a number"),
        ("inner.steps=-1", "expected inner.steps to be a number of at least 0, got -1"),
        ("inner.steps=1.5", "expected inner.steps to be int, got 1.5"),
        ("inner.steps=true", "expected inner.steps to be int, got True"),
        ("inner.step=1", "unknown key inner.step; the nearest is inner.steps"),
        ("taps=[1, -2]", "expected taps to be a number of at least 0, got -2"),
        ("weights={a: .inf}", "expected weights.a to be a number"),
        ("weights=[1]", "expected weights to be"),
        ("inner=3", "expected settings under inner."),
        ("name=3", "expected name to be str, got 3"),
        ("name=[", "expected YAML"),
        ("name=" + "[" * 50_000, "expected YAML"),
        ("name=2026-99-99", "expected YAML"),
    ],
)
def test_bad_values_name_their_key(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(tmp_path, override)


@pytest.mark.parametrize("text", ["- a\n- b", "3", "\x00", "a: [", "[" * 50_000])
def test_other_files_are_refused_by_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match="toy.yaml: expected"):
        load(tmp_path, "name=x", text=text)


def test_arguments_of_a_class_are_checked_by_its_annotations() -> None:
    values = {"n_q": 2, "leaky_slope": 0, "codec_name": "x"}
    assert coerce_arguments(CodecConfig, values, "model.") == values
    for wrong, message in (
        ({"n_q": "abc"}, "expected model.n_q to be int, got 'abc'"),
        ({"foo": 1}, "unknown key model.foo"),
        ({"f0_max_hz": float("inf")}, "expected model.f0_max_hz to be a number"),
        ({"codec_name": None}, "expected model.codec_name to be str"),
    ):
        with pytest.raises(ValueError, match=message):
            coerce_arguments(CodecConfig, wrong, "model.")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.foo=1", "unknown key model.foo"),
        ("model.n_q=abc", "expected model.n_q to be int"),
        ("steps=-1", "expected steps to be a number of at least 0"),
        ("steps=0", "expected steps above 0, got 0"),
        ("lr=.inf", "expected lr to be a number"),
    ],
)
def test_train_refuses_at_load(
    tmp_path: Path, override: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "tiny", "--data", "nope", "--out", str(tmp_path / "run"), "--set", override]
    assert main(words) == 1
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and not (tmp_path / "run").exists()
    assert main([*words[:-2], "--print-config"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] > 0
