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
    ("override", "key"),
    [
        *((f"inner.lr={value}", "inner.lr") for value in (".inf", ".nan", "-1", "1e999")),
        *((f"inner.steps={value}", "inner.steps") for value in ("1.5", "true")),
        ("inner.step=1", "nearest is inner.steps"),
        ("taps=[1, -2]", "taps"),
        ("weights={a: .inf}", "weights.a"),
        ("weights=[1]", "weights"),
        ("inner=3", "inner"),
        ("name=3", "name"),
        *((f"name={value}", "YAML") for value in ("[", "[" * 1100, "2026-99-99")),
        ("name", "KEY=VALUE"),
    ],
)
def test_bad_values_name_their_key(tmp_path: Path, override: str, key: str) -> None:
    with pytest.raises(ValueError, match=key):
        load(tmp_path, override)


@pytest.mark.parametrize("text", ["- a\n- b", "3", "\x00", "a: ["])
def test_other_files_are_refused_by_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match="toy.yaml"):
        load(tmp_path, "name=x", text=text)


def test_arguments_of_a_class_are_checked_by_its_annotations() -> None:
    values = {"n_q": 2, "leaky_slope": 0, "codec_name": "x"}
    assert coerce_arguments(CodecConfig, values, "model.") == values
    for key, value in (("n_q", "abc"), ("foo", 1), ("f0_max_hz", float("inf")), ("codec_name", None)):
        with pytest.raises(ValueError, match=f"model.{key}"):
            coerce_arguments(CodecConfig, {key: value}, "model.")


@pytest.mark.parametrize("override", ["model.foo=1", "model.n_q=abc", "steps=-1", "steps=0", "lr=.inf"])
def test_train_refuses_at_load(tmp_path: Path, override: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "tiny", "--data", "nope", "--out", str(tmp_path / "run"), "--set", override]
    assert main(words) == 1
    err = capsys.readouterr().err
    assert override.partition("=")[0] in err and err.count("\n") == 1 and not (tmp_path / "run").exists()
    assert main([*words[:-2], "--print-config"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] > 0
