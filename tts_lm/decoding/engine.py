"""Decoding loop of the AR model: KV cache, batching, and a fast step of a small Llama on a CPU.

The loop equals ``generate()`` of the stock model up to rounding, restricted to codes of codebook 0 and ``</audio>``. On
one CPU thread, numpy runs the many small operations of a step faster than torch. Products of several rows use oneDNN
with prepacked weights.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .sampling import FinishReason, FrameLimits, Sampling, draw, find_loop, find_silence, row_noise

_CHECK_EVERY = 10  # steps between searches for loops and silence
Array = np.ndarray[Any, Any]


class Product:
    """Matrix product with a constant weight.

    Args:
        weight: [in, out]. It must not change afterwards.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self._packed = _pack(weight.t())

    def __call__(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out], without a gradient."""
        if self._packed is None or x.dtype != torch.float32:
            return x @ self.weight
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, None, "none", [], "")

    def rows(self, x: Array) -> Array:
        """[B, in] to [B, out] float32, on a CPU."""
        if self._packed is None or len(x) == 1:
            return x @ self.weight.numpy()
        return self(torch.from_numpy(x)).numpy()


class PackedLinear(nn.Module):
    """A linear layer for inference.

    Args:
        linear: the layer whose weights are copied.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._packed = _pack(linear.weight.detach())
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] float32 to [..., out], without a gradient."""
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")


def pack_linears(model: nn.Module) -> Any:
    """Pack the linear layers of a model for inference.

    Args:
        model: the model. It is not changed.

    Returns:
        A copy with packed linear layers, or the model itself where packing is not available.
    """
    linears = [name for name, part in model.named_modules() if isinstance(part, nn.Linear)]
    if not linears or _pack(model.get_submodule(linears[0]).weight.detach()) is None:  # type: ignore[arg-type]
        return model
    packed = copy.deepcopy(model).eval()
    for name in linears:
        packed.set_submodule(name, PackedLinear(packed.get_submodule(name)))  # type: ignore[arg-type]
    return packed


def _pack(weight: Tensor) -> Tensor | None:
    """[out, in] in the blocked format of oneDNN; None where it is not available."""
    ours = (
        weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available()
    )
    if not ours or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return None
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())


@dataclass(frozen=True)
class FusedLayer:
    """The fused weights of one block.

    Products that share an input are joined. Constant factors (norm weights, attention scale, the 1/2 in SiLU) are
    folded into the weights. The two values of a rotary pair are adjacent in queries and keys, so that the rotation is
    a complex product.
    """

    qkv: Product
    out: Product
    gate_up: Product
    down: Product


def fuse(layer: Any, heads: int, kv_heads: int, size: int) -> FusedLayer:
    """Fuse the weights of a ``LlamaDecoderLayer``.

    Args:
        layer: the block.
        heads: query heads.
        kv_heads: key and value heads.
        size: width of a head.
    """
    attention, feed = layer.self_attn, layer.mlp
    order = torch.arange(size, device=attention.q_proj.weight.device).view(2, size // 2).t().flatten()
    query, key = (
        projection.weight.detach().view(count, size, -1)[:, order].flatten(0, 1)
        for projection, count in ((attention.q_proj, heads), (attention.k_proj, kv_heads))
    )
    qkv = torch.cat((query * size**-0.5, key, attention.v_proj.weight.detach()))
    gate_up = torch.cat((feed.gate_proj.weight * 0.5, feed.up_proj.weight)).detach()
    weights = (
        qkv * layer.input_layernorm.weight.detach(),
        attention.o_proj.weight.detach(),
        gate_up * layer.post_attention_layernorm.weight.detach(),
        feed.down_proj.weight.detach(),
    )
    return FusedLayer(*(Product(weight.t().contiguous()) for weight in weights))


class NumpyStep:
    """One decoding step for a batch, one id per row.

    Args:
        layers: the blocks, float32 on the CPU.
        heads: query heads.
        kv_heads: key and value heads.
        eps: epsilon of the norms.
    """

    def __init__(self, layers: Sequence[FusedLayer], heads: int, kv_heads: int, eps: float) -> None:
        self._layers = list(layers)
        self.heads, self.kv_heads, self.eps = heads, kv_heads, eps

    def __call__(
        self, x: Array, turn: Array, positions: Array, cache: Sequence[tuple[Array, Array]]
    ) -> Array:
        """Hidden states after the last block, without the last norm's weight.

        Args:
            x: [B, D] float32, the embedded ids.
            turn: [B, 1, size / 2] complex64, the rotation of their positions.
            positions: [B] int64, the positions of the ids.
            cache: keys and values of each block, [B, H_kv, P, size] float32, written to.

        Returns:
            [B, D] float32, normed.
        """
        batch, heads, kv, size = len(x), self.heads, self.kv_heads, 2 * turn.shape[-1]
        reach = int(positions.max()) + 1
        place: Any = (slice(None), slice(None), reach - 1)
        hidden = None
        if int(positions.min()) + 1 < reach:  # rows that are shorter than the longest
            place = (np.arange(batch), slice(None), positions)
            hidden = (np.arange(reach) > positions[:, None])[:, None, None]
        for layer, (keys, values) in zip(self._layers, cache, strict=True):
            mixed = layer.qkv.rows(self.norm(x)).reshape(batch, heads + 2 * kv, size)
            turned = (mixed[:, : heads + kv].view(np.complex64) * turn).view(np.float32)
            keys[place], values[place] = turned[:, heads:], mixed[:, heads + kv :]
            query = turned[:, :heads].reshape(batch, kv, heads // kv, size)
            scores = query @ keys[:, :, :reach].swapaxes(-1, -2)  # [B, H_kv, H / H_kv, P]
            if hidden is not None:
                np.putmask(scores, np.broadcast_to(hidden, scores.shape), np.float32(-np.inf))
            scores -= scores.max(axis=-1, keepdims=True)
            np.exp(scores, out=scores)
            scores /= scores.sum(axis=-1, keepdims=True)
            x = x + layer.out.rows((scores @ values[:, :, :reach]).reshape(batch, heads * size))
            both = layer.gate_up.rows(self.norm(x))
            half = both[:, : both.shape[1] // 2]
            gate = np.tanh(half)  # silu(2 h) = h (1 + tanh h), which cannot overflow
            gate += 1
            gate *= half
            gate *= both[:, both.shape[1] // 2 :]
            x += layer.down.rows(gate)
        return self.norm(x)

    def norm(self, x: Array) -> Array:
        """RMS norm of [B, D], without a weight."""
        if len(x) == 1:  # Python numbers are faster than arrays of one element
            row = x[0]
            return x * np.float32(1 / math.sqrt(float(row.dot(row)) / len(row) + self.eps))
        squares = np.einsum("bd,bd->b", x, x) / x.shape[-1] + self.eps
        return x * (1 / np.sqrt(squares))[:, None].astype(np.float32)


@dataclass(frozen=True)
class Answer:
    """Generated codes of one prompt."""

    codes: Tensor
    """[T] int64, codebook 0."""
    finish_reason: FinishReason


class ArDecoder:
    """Fast decoding loop over the weights of a stock Llama.

    Weights are fused once and the cache is allocated once. Only codes of codebook 0 and ``</audio>`` are generated.

    Args:
        model: a Llama of :func:`~tts_lm.models.ar.build_ar`. It is not changed.

    Raises:
        ValueError: the config of the model does not describe a codec.
    """

    def __init__(self, model: Any) -> None:
        config = model.config
        if not getattr(config, "audio", None):
            raise ValueError(
                "expected a language model with audio ids, but its config.json has no 'audio'; train one"
            )
        self.audio = config.audio
        self.end = config.eos_token_id[0] if isinstance(config.eos_token_id, list) else config.eos_token_id
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.size = config.head_dim
        self.eps = config.rms_norm_eps
        self.limit = config.max_position_embeddings
        core = model.model
        self.embedding = core.embed_tokens.weight.detach()
        low = self.audio["audio_offset"]
        rows = model.lm_head.weight.detach()
        # Output vocabulary: V codes, then </audio>. The weight of the last norm is folded in.
        rows = torch.cat((rows[low : low + self.audio["codebook_size"]], rows[self.end : self.end + 1]))
        self.head = Product((rows * core.norm.weight.detach()).t().contiguous())
        positions = torch.arange(self.limit, device=self.embedding.device)[None]
        cos, sin = core.rotary_emb(self.embedding[:1, None].float(), positions)
        # One rotation for each rotary pair.
        self.turn = torch.complex(cos[0, :, : self.size // 2].float(), sin[0, :, : self.size // 2].float())
        self.layers = [fuse(layer, self.heads, self.kv_heads, self.size) for layer in core.layers]
        self.fast: NumpyStep | None = None
        if self.embedding.device.type == "cpu" and self.embedding.dtype == torch.float32:
            self.fast = NumpyStep(self.layers, self.heads, self.kv_heads, self.eps)

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
        rows = self._rows(prompts, limits, noise_keys)
        for _ in rows.steps(prompts, sampling, silent):
            pass
        return [answer for answer in rows.answers if answer is not None]

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
        rows = self._rows([prompt], [limits], [noise_key])
        yield from (int(chosen[0]) for chosen in rows.steps([prompt], sampling, silent))
        answer = rows.answers[0]
        assert answer is not None
        return answer

    def _rows(
        self,
        prompts: Sequence[Sequence[int]],
        limits: Sequence[FrameLimits],
        noise_keys: Sequence[tuple[int, int]],
    ) -> _Rows:
        if any(not 0 < len(prompt) < self.limit for prompt in prompts):
            raise ValueError(f"expected prompts of 1 to {self.limit - 1} ids; split the text into sentences")
        longest = [min(limit.longest, self.limit - len(p)) for limit, p in zip(limits, prompts, strict=True)]
        return _Rows(self, prompts, longest, limits, noise_keys)

    def _norm(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], None, self.eps)

    def _rotate(self, x: Tensor, turn: Tensor) -> Tensor:
        """[..., size] in any dtype, pairs side by side; turn [..., size / 2]."""
        pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)

    def _forward(self, ids: Tensor, positions: Tensor, cache: Tensor, mask: Tensor | None) -> Tensor:
        """ids and positions [B, S], cache [L, 2, B, H, P, size] (written to) to hidden states [B, S, D]."""
        batch, length = ids.shape
        x = self.embedding[ids]
        turn = self.turn[positions][:, None]  # [B, 1, S, size / 2]
        row = torch.arange(batch, device=ids.device)[:, None]
        reach = mask.shape[-1] if mask is not None else length
        heads, kv = self.heads, self.kv_heads
        # A cache of fewer layers runs only those.
        for layer, (keys, values) in zip(self.layers, cache, strict=False):
            qkv = layer.qkv(self._norm(x)).view(batch, length, heads + 2 * kv, self.size).transpose(1, 2)
            turned, value = self._rotate(qkv[:, : heads + kv], turn), qkv[:, heads + kv :]
            keys[row, :, positions] = turned[:, heads:].transpose(1, 2)
            values[row, :, positions] = value.transpose(1, 2)
            mixed = F.scaled_dot_product_attention(
                turned[:, :heads],
                keys[:, :, :reach],
                values[:, :, :reach],
                attn_mask=mask,
                is_causal=mask is None,
                scale=1.0,  # it is in the weights
                enable_gqa=heads != kv,
            )
            x = x + layer.out(mixed.transpose(1, 2).reshape(batch, length, -1))
            half, up = layer.gate_up(self._norm(x)).chunk(2, dim=-1)
            x = x + layer.down(half * (1 + torch.tanh(half)) * up)
        return x

    def _logits(self, normed: Tensor) -> Tensor:
        """[B, D], normed, to [B, V + 1] float32."""
        if self.fast is not None:
            return torch.from_numpy(self.head.rows(normed.numpy()))
        return self.head(normed).float()


class _Rows:
    """The unfinished rows of one generation: cache, noise and generated codes."""

    def __init__(
        self,
        decoder: ArDecoder,
        prompts: Sequence[Sequence[int]],
        longest: Sequence[int],
        limits: Sequence[FrameLimits],
        noise_keys: Sequence[tuple[int, int]],
    ) -> None:
        device, batch = decoder.embedding.device, len(prompts)
        self.decoder = decoder
        self.answers: list[Answer | None] = [None] * batch
        self.alive = np.arange(batch)  # index of the prompt of each row
        self.lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        self.longest = np.asarray(longest)
        self.shortest = torch.tensor([limit.shortest for limit in limits], device=device)
        steps = max(longest)
        noise = np.stack([row_noise(seed, row, steps) for seed, row in noise_keys])
        self.noise = torch.tensor(noise, device=device)
        self.said = torch.full((batch, steps), -1, dtype=torch.int64, device=device)
        places = int((self.lengths + torch.tensor(longest, device=device)).max())
        shape = (len(decoder.layers), 2, batch, decoder.kv_heads, places, decoder.size)
        self.cache = torch.zeros(shape, dtype=decoder.embedding.dtype, device=device)
        self.blocks = self._blocks()

    def steps(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, silent: Collection[int]
    ) -> Iterator[Tensor]:
        """Generate. Yields the codes [B] int64 of the unfinished rows after each step but the last."""
        logits, most = self._start(prompts), int(self.shortest.max())
        for step in range(int(self.longest.max())):
            if step < most:
                logits[step < self.shortest, -1] = -torch.inf
            recent = self.said[:, max(0, step - sampling.window) : step]
            self._record(step, draw(logits, self.noise[:, step], recent, sampling), silent)
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
        last = hidden[torch.arange(len(prompts)), self.lengths - 1]
        return self.decoder._logits(self.decoder._norm(last))

    def _record(self, step: int, chosen: Tensor, silent: Collection[int]) -> None:
        """Record the drawn codes and remove finished rows."""
        size, rate = self.decoder.audio["codebook_size"], self.decoder.audio["frame_rate"]
        self.said[:, step] = chosen
        over = chosen == size
        looks = (step + 1) % _CHECK_EVERY == 0
        done = over.cpu().numpy() | (step + 1 >= self.longest[self.alive])
        if not looks and not done.any():
            return
        said = self.said.cpu().numpy()
        for index, prompt in enumerate(self.alive):
            frames, reason = step + 1, None
            if over[index]:
                frames, reason = step, "eos"
            elif done[index]:
                reason = "length"
            elif looks and (kept := find_loop(said[index, :frames], rate)) is not None:
                frames, reason = kept, "loop"
            elif looks and (kept := find_silence(said[index, :frames], silent, rate)) is not None:
                frames, reason = kept, "silence"
            if reason is not None:
                done[index] = True
                self.answers[prompt] = Answer(torch.from_numpy(said[index, :frames].copy()), reason)
        if done.any():
            self._drop(done, step)

    def _advance(self, step: int) -> Tensor:
        """Feed the codes of ``step`` and return the logits of the next step."""
        decoder, positions = self.decoder, self.lengths + step
        ids = self.said[:, step] + decoder.audio["audio_offset"]
        if decoder.fast is not None:
            x, turn = decoder.embedding[ids].numpy(), decoder.turn[positions].numpy()[:, None]
            return decoder._logits(torch.from_numpy(decoder.fast(x, turn, positions.numpy(), self.blocks)))
        reach = int(positions.max()) + 1
        mask = (torch.arange(reach, device=positions.device) <= positions[:, None])[:, None, None]
        hidden = decoder._forward(ids[:, None], positions[:, None], self.cache, mask)
        return decoder._logits(decoder._norm(hidden[:, 0]))

    def _blocks(self) -> list[tuple[Any, Any]]:
        """The cache in the form that :class:`NumpyStep` takes."""
        return (
            [(keys, values) for keys, values in self.cache.numpy()] if self.decoder.fast is not None else []
        )

    def _drop(self, done: np.ndarray, step: int) -> None:
        """Remove rows. The last remaining rows move into their places, so that little of the cache is copied."""
        left = int((~done).sum())
        holes, movers = np.nonzero(done[:left])[0], left + np.nonzero(~done[left:])[0]
        for hole, mover in zip(holes, movers, strict=True):
            reach = int(self.lengths[mover]) + step
            self.cache[:, :, hole, :, :reach] = self.cache[:, :, mover, :, :reach]
            for rows in (self.alive, self.lengths, self.shortest, self.noise, self.said):
                rows[hole] = rows[mover]
        self.alive, self.lengths, self.shortest = self.alive[:left], self.lengths[:left], self.shortest[:left]
        self.noise, self.said, self.cache = self.noise[:left], self.said[:left], self.cache[:, :, :left]
        self.blocks = self._blocks()
