"""Decoding of the AR model: sampling, stopping conditions, KV cache, batching, and a fast step on a CPU.

The loop equals ``generate()`` of the stock model up to rounding, restricted to codes of codebook 0 and ``</audio>``.
Noise is a function of (seed, row, step), so that the codes of a row do not depend on the other rows of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

FinishReason = Literal["eos", "length", "loop", "silence"]
TEXT_START = 3
"""Position of the first text id in a prompt."""
_CHECK_EVERY = 10  # steps between searches for loops and silence
_LOOP_SECONDS = 1.0
_LOOP_PERIOD_SECONDS = 0.4
_LOOP_TURNS = 4
_SILENCE_SECONDS = 1.5
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Sampling:
    """Sampling settings.

    Args:
        temperature: divides the logits; 0 is greedy.
        top_k: number of the most likely codes to sample from, 0 = all.
        top_p: probability mass of the most likely codes to sample from, 0 < top_p <= 1.
        window: frames of repetition-aware sampling (VALL-E 2, arXiv:2406.05370); 0 turns it off.
        ratio: if a code fills more than this share of the window, the next code is drawn again from all codes.
        n_q: codebooks that the NAR model fills, 0 = all.
        best_of: candidates of each sentence, of which the reranker keeps the best.

    Raises:
        TypeError: a value is not a number, or not an int where one is required.
        ValueError: a value is out of range.
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.8
    window: int = 10
    ratio: float = 0.1
    n_q: int = 0
    best_of: int = 1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            kind = int if name in ("top_k", "window", "n_q", "best_of") else (int, float)
            if isinstance(value, bool) or not isinstance(value, kind):
                number = "a whole number" if kind is int else "a number"
                raise TypeError(f"expected {name} to be {number}, got {value!r}")
            low, high = {"top_p": (math.ulp(0.0), 1), "best_of": (1, math.inf)}.get(name, (0, math.inf))
            if not low <= value <= high or value == math.inf:
                rule = {"top_p": "> 0 and <= 1", "best_of": ">= 1"}.get(name, ">= 0")
                raise ValueError(f"expected {name} {rule}, got {value}")


@dataclass(frozen=True)
class FrameLimits:
    """Shortest and longest answer to a text, in frames."""

    shortest: int
    longest: int


def frame_limits(symbols: int, frame_rate: float) -> FrameLimits:
    """Limits for a text of this many phonemes or letters: 25 to 160 ms for each, and one more second at most."""
    return FrameLimits(
        max(1, int(0.025 * symbols * frame_rate)), int((0.16 * max(symbols, 1) + 1.0) * frame_rate)
    )


def build_prompt(tokenizer: Any, text_ids: list[int], voice: int) -> list[int]:
    """Wrap text ids for the AR model: ``<bos> <voice_k> <text> t… </text> <audio>``.

    Args:
        tokenizer: an ``audiotok`` tokenizer (``control_id``).
        text_ids: ids of one sentence.
        voice: 0..15, the voice's control token.

    Returns:
        The prompt. The model continues it with ids of codebook 0, then ``</audio>``.
    """
    control = tokenizer.control_id
    head = [control("bos"), control(f"voice_{voice:02}"), control("text_start")]
    return [*head, *text_ids, control("text_end"), control("audio_start")]


class _Layer(NamedTuple):
    """Weights [in, out] of one block.

    Products that share an input are joined. Constant factors (norm weights, attention scale, the 1/2 in SiLU) are
    folded into the weights. The two values of a rotary pair are adjacent in queries and keys, so that the rotation is
    a complex product.
    """

    qkv: Tensor
    out: Tensor
    gate_up: Tensor
    down: Tensor


def _fuse(layer: Any, heads: int, kv_heads: int, size: int) -> _Layer:
    """Join the weights of a ``LlamaDecoderLayer``."""
    attention, feed = layer.self_attn, layer.mlp
    order = torch.arange(size, device=attention.q_proj.weight.device).view(2, size // 2).t().flatten()
    query, key = (
        projection.weight.view(count, size, -1)[:, order].flatten(0, 1)
        for projection, count in ((attention.q_proj, heads), (attention.k_proj, kv_heads))
    )
    qkv = torch.cat((query * size**-0.5, key, attention.v_proj.weight))
    gate_up = torch.cat((feed.gate_proj.weight * 0.5, feed.up_proj.weight))
    weights = (
        qkv * layer.input_layernorm.weight,
        attention.o_proj.weight,
        gate_up * layer.post_attention_layernorm.weight,
        feed.down_proj.weight,
    )
    return _Layer(*(weight.t().contiguous() for weight in weights))


@dataclass(frozen=True)
class Answer:
    """Generated codes of one prompt."""

    codes: Tensor
    """[T] int64, codebook 0."""
    finish_reason: FinishReason


class ArDecoder:
    """Fast decoding loop over the weights of a stock Llama. Only codes of codebook 0 and ``</audio>`` are generated.

    Args:
        model: a Llama of :func:`~tts_lm.models.ar.build_ar`. It is not changed.

    Raises:
        ValueError: the config of the model does not describe a codec.
    """

    @torch.no_grad()
    def __init__(self, model: Any) -> None:
        config, core = model.config, model.model
        if not getattr(config, "audio", None):
            raise ValueError(
                "expected a language model with audio ids, but its config.json has no 'audio'; train one"
            )
        self.codebook_size, self.offset = config.audio["codebook_size"], config.audio["audio_offset"]
        self.frame_rate, self.end = config.audio["frame_rate"], config.eos_token_id
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.size, self.eps, self.limit = config.head_dim, config.rms_norm_eps, config.max_position_embeddings
        self.embedding = core.embed_tokens.weight.detach()
        rows = model.lm_head.weight
        # Output vocabulary: V codes, then </audio>. The weight of the last norm is folded in.
        rows = torch.cat(
            (rows[self.offset : self.offset + self.codebook_size], rows[self.end : self.end + 1])
        )
        self.head = (rows * core.norm.weight).t().contiguous()
        positions = torch.arange(self.limit, device=self.embedding.device)[None]
        cos, sin = core.rotary_emb(self.embedding[:1, None].float(), positions)
        # One rotation for each rotary pair.
        self.turn = torch.complex(cos[0, :, : self.size // 2].float(), sin[0, :, : self.size // 2].float())
        self.layers = [_fuse(layer, self.heads, self.kv_heads, self.size) for layer in core.layers]
        # On one CPU thread, numpy runs the many small operations of a step faster than torch.
        self.fast = self.embedding.device.type == "cpu" and self.embedding.dtype == torch.float32

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        limits: Sequence[FrameLimits],
        noise_keys: Sequence[tuple[int, int]],
        sampling: Sampling,
        silent: Collection[int] = (),
    ) -> list[Answer]:
        """Generate codes for a batch of prompts.

        Args:
            prompts: B lists of ids that end with ``<audio>``.
            limits: shortest and longest answer of each prompt, in frames.
            noise_keys: (seed, row) of each prompt. Equal keys give equal noise.
            sampling: sampling settings.
            silent: codes of silence. A long run of them stops the row.

        Returns:
            B answers in the order of the prompts. A row's answer does not depend on the others.

        Raises:
            ValueError: a prompt is empty or leaves no room for an answer.
        """
        rows = _Rows(self, prompts, limits, noise_keys)
        for _ in rows.steps(prompts, sampling, silent):
            pass
        return [rows.answers[index] for index in range(len(prompts))]

    @torch.inference_mode()
    def stream(
        self,
        prompt: Sequence[int],
        limits: FrameLimits,
        noise_key: tuple[int, int],
        sampling: Sampling,
        silent: Collection[int] = (),
    ) -> Generator[int, None, Answer]:
        """Generate codes for one prompt, frame by frame. Arguments and errors are those of :meth:`generate`.

        Yields:
            Codes as they are generated. At the end they may differ from the answer, which omits loops and long silence.

        Returns:
            The answer, equal to that of :meth:`generate`.
        """
        rows = _Rows(self, [prompt], [limits], [noise_key])
        yield from (int(chosen[0]) for chosen in rows.steps([prompt], sampling, silent))
        return rows.answers[0]

    def _forward(self, ids: Tensor, positions: Tensor, cache: Tensor, mask: Tensor | None) -> Tensor:
        """ids and positions [B, S], cache [L, 2, B, H_kv, P, size] (written to) to hidden states [B, S, D]."""
        batch, length = ids.shape
        heads, kv = self.heads, self.kv_heads
        x = self.embedding[ids]
        turn = self.turn[positions][:, None]  # [B, 1, S, size / 2]
        row = torch.arange(batch, device=ids.device)[:, None]
        reach = mask.shape[-1] if mask is not None else length
        for layer, (keys, values) in zip(self.layers, cache, strict=True):
            qkv = (self._norm(x) @ layer.qkv).view(batch, length, heads + 2 * kv, self.size).transpose(1, 2)
            pairs = torch.view_as_complex(qkv[:, : heads + kv].float().unflatten(-1, (-1, 2)))
            turned = torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)
            keys[row, :, positions] = turned[:, heads:].transpose(1, 2)
            values[row, :, positions] = qkv[:, heads + kv :].transpose(1, 2)
            mixed = F.scaled_dot_product_attention(
                turned[:, :heads],
                keys[:, :, :reach],
                values[:, :, :reach],
                attn_mask=mask,
                is_causal=mask is None,
                scale=1.0,  # it is in the weights
                enable_gqa=heads != kv,
            )
            x = x + mixed.transpose(1, 2).reshape(batch, length, -1) @ layer.out
            half, up = (self._norm(x) @ layer.gate_up).chunk(2, dim=-1)
            x = x + (half * (1 + torch.tanh(half)) * up) @ layer.down
        return x

    def _norm(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], None, self.eps)

    def _logits(self, hidden: Tensor) -> Tensor:
        """[B, D] to [B, V + 1] float32."""
        normed = self._norm(hidden)
        if self.fast:
            return torch.from_numpy(normed.numpy() @ self.head.numpy())
        return (normed @ self.head).float()

    def _numpy_step(self, ids: Tensor, positions: Tensor, cache: Tensor) -> Tensor:
        """:meth:`_forward` of one id per row: ids and positions [B] to hidden states [B, D] float32, on a CPU."""
        x, turn, at = self.embedding[ids].numpy(), self.turn[positions].numpy()[:, None], positions.numpy()
        batch, heads, kv, size = len(x), self.heads, self.kv_heads, self.size
        reach = int(at.max()) + 1
        place: Any = (slice(None), slice(None), reach - 1)
        hidden = None
        if int(at.min()) + 1 < reach:  # rows that are shorter than the longest
            place = (np.arange(batch), slice(None), at)
            hidden = (np.arange(reach) > at[:, None])[:, None, None]
        for layer, (keys, values) in zip(self.layers, cache.numpy(), strict=True):
            mixed = (_rms_norm(x, self.eps) @ layer.qkv.numpy()).reshape(batch, heads + 2 * kv, size)
            turned = (mixed[:, : heads + kv].view(np.complex64) * turn).view(np.float32)
            keys[place], values[place] = turned[:, heads:], mixed[:, heads + kv :]
            query = turned[:, :heads].reshape(batch, kv, heads // kv, size)
            scores = query @ keys[:, :, :reach].swapaxes(-1, -2)  # [B, H_kv, H / H_kv, P]
            if hidden is not None:
                np.putmask(scores, np.broadcast_to(hidden, scores.shape), np.float32(-np.inf))
            scores -= scores.max(axis=-1, keepdims=True)
            np.exp(scores, out=scores)
            scores /= scores.sum(axis=-1, keepdims=True)
            x = x + (scores @ values[:, :, :reach]).reshape(batch, heads * size) @ layer.out.numpy()
            half, up = np.split(_rms_norm(x, self.eps) @ layer.gate_up.numpy(), 2, axis=1)
            gate = np.tanh(half)  # silu(2 h) = h (1 + tanh h), which cannot overflow
            gate += 1
            gate *= half
            gate *= up
            x += gate @ layer.down.numpy()
        return torch.from_numpy(x)


def _rms_norm(x: Array, eps: float) -> Array:
    """RMS norm of [B, D], without a weight."""
    if len(x) == 1:  # Python numbers are faster than arrays of one element
        row = x[0]
        return x * np.float32(1 / math.sqrt(float(row.dot(row)) / len(row) + eps))
    squares = np.einsum("bd,bd->b", x, x) / x.shape[-1] + eps
    return x * (1 / np.sqrt(squares))[:, None].astype(np.float32)


class _Rows:
    """The unfinished rows of one generation: cache, noise and generated codes."""

    def __init__(
        self,
        decoder: ArDecoder,
        prompts: Sequence[Sequence[int]],
        limits: Sequence[FrameLimits],
        noise_keys: Sequence[tuple[int, int]],
    ) -> None:
        room = decoder.limit
        if any(not 0 < len(prompt) < room for prompt in prompts):
            raise ValueError(f"expected prompts of 1 to {room - 1} ids; split the text into sentences")
        longest = [min(limit.longest, room - len(p)) for limit, p in zip(limits, prompts, strict=True)]
        device, batch, steps = decoder.embedding.device, len(prompts), max(longest)
        self.decoder = decoder
        self.answers: dict[int, Answer] = {}
        self.alive = np.arange(batch)  # index of the prompt of each row
        self.longest = np.asarray(longest)
        self.lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        self.shortest = torch.tensor([limit.shortest for limit in limits], device=device)
        noise = np.stack([row_noise(seed, row, steps) for seed, row in noise_keys])
        self.noise = torch.tensor(noise, device=device)
        self.said = torch.full((batch, steps), -1, dtype=torch.int64, device=device)
        places = max(len(p) + most for p, most in zip(prompts, longest, strict=True))
        shape = (len(decoder.layers), 2, batch, decoder.kv_heads, places, decoder.size)
        self.cache = torch.zeros(shape, dtype=decoder.embedding.dtype, device=device)

    def steps(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, silent: Collection[int]
    ) -> Iterator[Tensor]:
        """Generate. Yields the codes [B] int64 of the unfinished rows after each step but the last."""
        logits, most = self._start(prompts), int(self.shortest.max())
        for step in range(self.said.shape[1]):
            if step < most:
                logits[step < self.shortest, -1] = -torch.inf
            recent = self.said[:, max(0, step - sampling.window) : step]
            self.said[:, step] = draw(logits, self.noise[:, step], recent, sampling)
            self._finish(step, silent)
            if not len(self.alive):
                return
            yield self.said[:, step]
            logits = self._advance(step)

    def _start(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Process the prompts, padded on the right, and return the logits [B, V + 1] of the first frame."""
        width = max(map(len, prompts))
        ids = torch.tensor([[*p, *[0] * (width - len(p))] for p in prompts], device=self.lengths.device)
        positions = torch.arange(width, device=ids.device).expand(len(prompts), -1)
        hidden = self.decoder._forward(ids, positions, self.cache, None)
        return self.decoder._logits(hidden[torch.arange(len(prompts)), self.lengths - 1])

    def _advance(self, step: int) -> Tensor:
        """Feed the codes of ``step`` and return the logits of the next step."""
        decoder, positions = self.decoder, self.lengths + step
        ids = self.said[:, step] + decoder.offset
        if decoder.fast:
            return decoder._logits(decoder._numpy_step(ids, positions, self.cache))
        reach = int(positions.max()) + 1
        mask = (torch.arange(reach, device=positions.device) <= positions[:, None])[:, None, None]
        return decoder._logits(decoder._forward(ids[:, None], positions[:, None], self.cache, mask)[:, 0])

    def _finish(self, step: int, silent: Collection[int]) -> None:
        """Record the answers of rows that end at this step, and remove these rows."""
        rate = self.decoder.frame_rate
        over = (self.said[:, step] == self.decoder.codebook_size).cpu().numpy()
        full = step + 1 >= self.longest
        looks = (step + 1) % _CHECK_EVERY == 0
        if not looks and not (over | full).any():
            return
        said = self.said[:, : step + 1].cpu().numpy()
        kept = np.ones(len(said), dtype=bool)
        for row, (prompt, codes) in enumerate(zip(self.alive, said, strict=True)):
            frames: int | None = step + 1
            reason: FinishReason = "length"
            if over[row]:
                frames, reason = step, "eos"
            elif not full[row]:
                frames, reason = (find_loop(codes, rate) if looks else None), "loop"
                if frames is None and looks:
                    frames, reason = find_silence(codes, silent, rate), "silence"
            if frames is not None:
                kept[row] = False
                self.answers[int(prompt)] = Answer(torch.from_numpy(codes[:frames].copy()), reason)
        if not kept.all():
            rows = torch.from_numpy(kept)
            self.alive, self.longest = self.alive[kept], self.longest[kept]
            self.lengths, self.shortest = self.lengths[rows], self.shortest[rows]
            self.noise, self.said, self.cache = self.noise[rows], self.said[rows], self.cache[:, :, rows]


def row_noise(seed: int, row: int, steps: int) -> np.ndarray:
    """Uniform noise of one row: [steps, 2] float64 in [0, 1). The first steps do not depend on ``steps``."""
    key = np.array([seed % 2**64, row % 2**64], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random((steps, 2))


def draw(logits: Tensor, noise: Tensor, recent: Tensor, sampling: Sampling) -> Tensor:
    """Draw one code per row with repetition-aware nucleus sampling.

    Args:
        logits: [B, V] float32; -inf forbids.
        noise: [B, 2] in [0, 1), from :func:`row_noise`.
        recent: [B, W] int64, the last codes of the row, -1 before its start.
        sampling: sampling settings.

    Returns:
        [B] int64.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    scaled = logits / sampling.temperature
    chosen = _invert(nucleus(scaled, sampling.top_k, sampling.top_p), noise[:, 0])
    if sampling.window and recent.shape[1]:
        share = (recent[:, -sampling.window :] == chosen[:, None]).sum(1) / sampling.window
        again = _invert(scaled.softmax(-1), noise[:, 1])
        chosen = torch.where(share > sampling.ratio, again, chosen)
    return chosen


def nucleus(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Probabilities [..., V] of the smallest set with mass ``top_p``, at most ``top_k`` codes (0 = any number)."""
    probabilities = logits.softmax(-1)
    ordered = _descending(probabilities)
    kept = (ordered.cumsum(-1) - ordered < top_p).sum(-1, keepdim=True)
    if top_k:
        kept = kept.clamp(max=top_k)
    least = ordered.gather(-1, kept - 1)
    above, equal = probabilities > least, probabilities == least
    # ties: the first code
    equal &= equal.cumsum(-1) <= kept - above.sum(-1, keepdim=True)
    probabilities = probabilities * (above | equal)
    return probabilities / probabilities.sum(-1, keepdim=True)


def find_loop(codes: np.ndarray, frame_rate: float) -> int | None:
    """Find a loop at the end of codes [T]: frames to keep, up to the end of the first period, or None."""
    for period in range(1, int(_LOOP_PERIOD_SECONDS * frame_rate) + 1):
        span = max(int(_LOOP_SECONDS * frame_rate), _LOOP_TURNS * period)
        if len(codes) >= span and np.array_equal(codes[-span:-period], codes[-span + period :]):
            return len(codes) - span + period
    return None


def find_silence(codes: np.ndarray, silent: Collection[int], frame_rate: float) -> int | None:
    """Find silence at the end of codes [T]: frames to keep, at least one, or None if the silence is short."""
    span = int(_SILENCE_SECONDS * frame_rate)
    if not silent or len(codes) < span or not np.isin(codes[-span:], list(silent)).all():
        return None
    return max(len(codes) - span, 1)


def _descending(values: Tensor) -> Tensor:
    if values.device.type == "cpu":  # numpy sorts 1,000 numbers ten times as fast as torch
        return torch.from_numpy(np.sort(-values.numpy(), axis=-1)).neg_()
    return values.sort(dim=-1, descending=True).values


def _invert(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Inverse transform sampling: the code [B] where the cumulative probability passes ``uniform``."""
    edges = probabilities.double().cumsum(-1)
    found = torch.searchsorted(edges, (uniform.double() * edges[:, -1])[:, None], right=True)[:, 0]
    last = probabilities.shape[-1] - 1 - (probabilities > 0).int().flip(-1).argmax(-1)
    return found.minimum(last)
