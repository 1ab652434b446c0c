"""Reads and runs the code blocks of the documentation.

A block marked ``python`` is executed, all blocks of a page in one namespace. A block marked ``sh`` is executed line by
line: commands of ``audiotok`` and ``tts-lm`` in this process, with the options of ``TINY`` behind their own, anything
else in bash. A block marked ``bash`` installs something or needs a server, a cluster, a pipe or hours, so its commands
of the two programs are only parsed.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PROGRAMS = {"audiotok": "audiotok.cli.main", "tts-lm": "tts_lm.cli.main"}
# Beginning of a command -> options behind it that make it quick; the first match counts.
TINY = {
    "audiotok train entropy": "--set steps=2 --set batch=2",
    "audiotok train speech-16k-decoder": "--set steps=2 --set batch=2",
    "audiotok train": "--set steps=4 --set quantize_from=2 --set kmeans_crops=16 --set batch=2 --set own_pitch_from=3 "
    "--set adversarial_from=3 --set eval_every=4",
    "audiotok eval": "--limit 1 --n-q 2 --workers 0",
    "tts-lm train": "--set max_steps=2 --set max_minutes=0 --set data.batch_tokens=900",
    "tts-lm eval": "--limit 1",
}  # fmt: skip
SMALL_LM = (
    "model.hidden_size=32 model.layers=2 model.heads=2 model.intermediate_size=48 attention.layers=[0,1]"
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; ``line`` is that of its first line of code, counted from 1."""

    page: str
    line: int
    language: str
    text: str


def read_blocks(page: Path) -> list[Block]:
    """The fenced blocks of a Markdown file, in order."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [Block(page.name, text[: m.start(2)].count("\n") + 1, m[1], m[2]) for m in found]


def shell_lines(block: Block) -> list[str]:
    """The lines of a script, continued ones joined, without comments."""
    lines = (line.split("  #")[0].strip() for line in block.text.replace("\\\n", " ").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def program_commands(block: Block) -> list[list[str]]:
    """The commands of the two programs in a shell block, whatever stands before them in their line."""
    if block.language not in ("sh", "bash"):
        return []
    found = []
    for line in shell_lines(block):
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if not set(word) <= set("();<>|&"):
                words.append({module: name for name, module in PROGRAMS.items()}.get(word, word))
                continue
            starts = [index for index, name in enumerate(words) if name in PROGRAMS]
            if starts and words[:1] != ["pip"] and not Path(words[0]).suffix:
                found.append(words[starts[0] :])
            words = []
    return found


def parse(words: list[str]) -> None:
    """Have the real parser read a command, and look for the recipe of a training. SystemExit: it is refused."""
    program, *rest = words
    verb = next((word for word in rest if not word.startswith("-")), None)
    args = import_module(PROGRAMS[program]).build_parser(verb).parse_args(rest)
    if verb == "train" and not list(ROOT.glob(f"*/**/recipes/{args.recipe}.yaml")):
        sys.exit(f"no recipe {args.recipe}")


def run_command(words: list[str]) -> None:
    """Run a command of one of the two programs in this process, in small form."""
    if "accelerate.state" in sys.modules:  # device and precision are fixed once per process otherwise
        sys.modules["accelerate.state"].AcceleratorState._reset_state(reset_partial_state=True)
    typed = " ".join(words)
    more = next((more.split() for start, more in TINY.items() if typed.startswith(start)), [])
    if typed.startswith("tts-lm train") and "--init" not in words:
        more += [word for value in SMALL_LM.split() for word in ("--set", value)]
    program, *rest = [*words, *more]
    assert import_module(PROGRAMS[program]).main(rest) == 0, typed


def run_block(block: Block, names: dict[str, object]) -> None:
    """Run a block in the current folder; ``names`` is the namespace of the page's Python blocks."""
    if block.language == "python":
        # Line numbers of a traceback are those of the page.
        exec(compile("\n" * (block.line - 1) + block.text, block.page, "exec"), names)
    elif block.language == "sh":
        for line in shell_lines(block):
            words = shlex.split(line)
            if words[0] in PROGRAMS:
                run_command(words)
            elif words[0] == "python":
                environment = {**os.environ, "PYTHONPATH": str(ROOT)}
                subprocess.run([sys.executable, *words[1:]], env=environment, check=True, timeout=300)
            else:
                subprocess.run(["bash", "-euo", "pipefail", "-c", line], check=True, timeout=60)


def write_base_model(folder: Path, texts: list[str], **config: Any) -> None:
    """Write a small random causal model where the pages name one of the hub. Its vocabulary is trained on ``texts``."""
    from tokenizers import ByteLevelBPETokenizer, Tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    learner = ByteLevelBPETokenizer()
    learner.train_from_iterator(texts, vocab_size=300, special_tokens=["<|end|>"], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(learner.to_str()), eos_token="<|end|>"
    )
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(**{"vocab_size": len(tokenizer)} | sizes | config))
    model.save_pretrained(folder / "Qwen/Qwen3-0.6B")
    tokenizer.save_pretrained(folder / "Qwen/Qwen3-0.6B")
