"""Residual vector quantisation: latents <-> codes, level by level, in float32.

SoundStream (arXiv:2107.03312), algorithm 1, with the EMA codebooks and the expiry of section III-C. The residual is
taken from the detached codeword, with one straight-through step around the whole stack, so that the commitment loss has
a gradient at every level.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import initialization as init

from .layers import Float32Module, no_autocast


@dataclass
class QuantizerOutput:
    """Result of one quantisation in training: the sum of codewords [B, D, T] and the codeword of codebook 0 (of the
    semantic codebook if there is one) with straight-through gradients, codes [B, K, T] int64, and the mean squared
    distance of each level's input to its codeword.
    """

    quantized: Tensor
    first: Tensor
    codes: Tensor
    commitment: Tensor


def nearest(x: Tensor, codebook: Tensor) -> Tensor:
    """Index [M] int64 of the codeword in [V, D] nearest to each x [M, D] float32, the first of equally near ones."""
    # |x - c|^2 without |x|^2, which is the same for every c.
    return torch.addmm(codebook.square().sum(1), x, codebook.t(), beta=1.0, alpha=-2.0).argmin(dim=1)


class ResidualVectorQuantizer(Float32Module):
    """K codebooks in a row; each quantises the residual of the ones before.

    Args:
        n_q, codebook_size, dim: K, V and D.
        decay: decay of the moving averages per step.
        expiry: a codeword used less often than ``expiry`` times the average is replaced by a latent of the batch.
        semantic_dim: extra channels after the D of the latents that select the code of level 0, the nearest entry of
            ``semantic_codebook``. ``codebooks[0]`` holds the mean latent of each such code, which the other levels
            refine. Level 0 can then be trained for linguistic content (SpeechTokenizer, arXiv:2308.16692) without
            changing the residual levels. 0 quantises level 0 like the others.

    Latents have ``D + semantic_dim`` channels at the input of :meth:`encode` and D at the output of :meth:`decode`.
    """

    codebooks: Tensor
    semantic_codebook: Tensor | None
    usage: Tensor
    sums: Tensor
    semantic_sums: Tensor

    def __init__(
        self,
        n_q: int,
        codebook_size: int,
        dim: int,
        decay: float = 0.99,
        expiry: float = 0.1,
        semantic_dim: int = 0,
    ) -> None:
        super().__init__()
        self.n_q = n_q
        self.dim = dim
        self.semantic_dim = semantic_dim
        self.codebook_size = codebook_size
        self.decay = decay
        self.expiry = expiry
        self.register_buffer("codebooks", torch.empty(n_q, codebook_size, dim))
        semantic = torch.empty(codebook_size, semantic_dim) if semantic_dim else None
        self.register_buffer("semantic_codebook", semantic)
        # Moving averages are part of training checkpoints but not of released weights.
        self.register_buffer("usage", torch.empty(n_q, codebook_size, dtype=torch.float32), persistent=False)
        self.register_buffer(
            "sums", torch.empty(n_q, codebook_size, dim, dtype=torch.float32), persistent=False
        )
        semantic_sums = torch.empty(codebook_size, semantic_dim, dtype=torch.float32)
        self.register_buffer("semantic_sums", semantic_sums, persistent=False)
        self.init_tables()

    def init_tables(self) -> None:
        """Initialise every buffer; the random codebooks are always the same."""
        generator = torch.Generator().manual_seed(0)
        for codebooks in (self.codebooks, self.semantic_codebook):
            if codebooks is not None and not codebooks.is_meta:
                init.copy_(codebooks, torch.randn(codebooks.shape, generator=generator, device="cpu"))
        init.ones_(self.usage)
        init.zeros_(self.sums)
        init.zeros_(self.semantic_sums)

    @no_autocast
    def encode(self, latents: Tensor, n_q: int | None = None) -> Tensor:
        """Latents [B, D + semantic_dim, T] float -> codes [B, n_q, T] int64 in [0, V); None uses all levels."""
        batch, _, frames = latents.shape
        flat = latents.float().transpose(1, 2).reshape(batch * frames, -1)
        residual, semantic = flat[:, : self.dim], flat[:, self.dim :]
        codes = []
        for k in range(n_q or self.n_q):
            if k == 0 and self.semantic_codebook is not None:
                index = nearest(semantic, self.semantic_codebook)
            else:
                index = nearest(residual, self.codebooks[k])
            residual = residual - self.codebooks[k][index]
            codes.append(index.view(batch, frames))
        return torch.stack(codes, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, K, T] int64, any K from 1 to n_q -> latents [B, D, T] float32: the sum of each level's codeword."""
        levels = torch.arange(codes.shape[1], device=codes.device)[:, None]
        return self.codebooks[levels, codes].sum(dim=1).transpose(1, 2)

    @no_autocast
    def forward(self, latents: Tensor, levels_per_item: Tensor | None = None) -> QuantizerOutput:
        """Quantise latents [B, D + semantic_dim, T] for training and, in training mode, move the codebooks.
        ``levels_per_item`` [B] int64 are the levels kept of each item (quantizer dropout); None keeps all.
        """
        batch, _, frames = latents.shape
        flat, semantic = latents.float().transpose(1, 2).split([self.dim, self.semantic_dim], dim=-1)
        residual, total = flat, torch.zeros_like(flat)
        first, commitment, codes = flat, flat.new_zeros(()), []
        for k in range(self.n_q):
            keep = torch.ones(batch, dtype=torch.bool, device=flat.device)
            if levels_per_item is not None:
                keep = levels_per_item > k
            semantic_codebook = self.semantic_codebook if k == 0 else None
            given, codebook = residual, self.codebooks[k]
            if semantic_codebook is not None:
                given, codebook = semantic, semantic_codebook
            index = nearest(given.detach().reshape(batch * frames, -1), codebook)
            match = codebook[index].view_as(given)
            word = self.codebooks[k][index].view_as(residual)
            if self.training:
                live = keep[:, None].expand(batch, frames)
                meaning = semantic.detach()[live] if semantic_codebook is not None else None
                self._follow(k, residual.detach()[live], index[live.reshape(-1)], meaning)
            weight = keep[:, None, None].to(flat.dtype)
            gap = (given - match).square().mean(-1, keepdim=True)
            commitment = commitment + (gap * weight).mean()
            residual = residual - word * weight
            total = total + word * weight
            if k == 0:
                first = given + (match - given).detach()
            codes.append(index.view(batch, frames))
        quantized = flat + (total - flat).detach()
        return QuantizerOutput(
            quantized.transpose(1, 2), first.transpose(1, 2), torch.stack(codes, dim=1), commitment / self.n_q
        )

    @torch.no_grad()
    def _follow(self, k: int, x: Tensor, index: Tensor, semantic: Tensor | None = None) -> None:
        """One EMA step of codebook k towards the latents that it quantised in all processes, then expiry."""
        counts = torch.bincount(index, minlength=self.codebook_size).to(x.dtype)
        sums = torch.zeros_like(self.sums[k]).index_add_(0, index, x)
        semantic_sums = torch.zeros_like(self.semantic_sums)
        if semantic is not None:
            semantic_sums.index_add_(0, index, semantic)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for value in (counts, sums, semantic_sums):
                torch.distributed.all_reduce(value)
        if not float(counts.sum()):
            return
        self.usage[k].mul_(self.decay).add_(counts, alpha=1 - self.decay)
        self.sums[k].mul_(self.decay).add_(sums, alpha=1 - self.decay)
        fair_share = float(counts.sum()) / self.codebook_size
        dead = self.usage[k] < self.expiry * fair_share
        n_dead = int(dead.sum())
        if semantic is not None:
            self.semantic_sums.mul_(self.decay).add_(semantic_sums, alpha=1 - self.decay)
        if n_dead:
            # A reinitialised code starts with average usage and its own sum; otherwise it would expire again at once.
            pick = torch.randint(max(len(x), 1), (n_dead,), device=x.device)
            born = x[pick] if len(x) else self.codebooks[k, dead]
            self.usage[k, dead] = fair_share
            self.sums[k, dead] = _of_rank_0(born) * fair_share
            if semantic is not None:
                self.semantic_sums[dead] = _of_rank_0(semantic[pick]) * fair_share
        usage = self.usage[k].clamp_min(1e-6)[:, None]
        self.codebooks[k] = self.sums[k] / usage
        if semantic is not None and self.semantic_codebook is not None:
            self.semantic_codebook.copy_(self.semantic_sums / usage)

    @torch.no_grad()
    def init_from(self, latents: Tensor, iterations: int = 10, seed: int = 0) -> None:
        """Start every codebook with k-means on latents [M, D + semantic_dim] float32, best 50 per codeword, level k on
        the residual of the levels before it. ValueError: M < V.
        """
        if latents.shape[0] < self.codebook_size:
            raise ValueError(
                f"expected at least codebook_size={self.codebook_size} latents for k-means, got {latents.shape[0]}"
            )
        generator = torch.Generator().manual_seed(seed)
        picks = [
            torch.randperm(latents.shape[0], generator=generator)[: self.codebook_size].to(latents.device)
            for _ in range(self.n_q)
        ]
        self._kmeans(latents.float(), picks, iterations, generator)

    @torch.no_grad()
    def refine(self, latents: Tensor, iterations: int = 4, seed: int = 0) -> None:
        """Continue k-means from the present codebooks, because the moving averages of training are noisy means. Takes
        latents as :meth:`init_from`, some 500 per codeword or more; the seed is for unused codewords.
        """
        generator = torch.Generator().manual_seed(seed)
        self._kmeans(latents.float(), None, iterations, generator)

    def _kmeans(
        self, latents: Tensor, picks: list[Tensor] | None, iterations: int, generator: torch.Generator
    ) -> None:
        """k-means of every level, from the latents that ``picks`` names or from the present codebooks."""
        residual, semantic = latents[:, : self.dim], latents[:, self.dim :]
        for k in range(self.n_q):
            if k == 0 and self.semantic_codebook is not None:
                start = self.semantic_codebook if picks is None else semantic[picks[k]].clone()
                centroids, index = kmeans(semantic, start, iterations, generator)
                self.semantic_codebook.copy_(centroids)
                counts = torch.bincount(index, minlength=self.codebook_size).clamp_min(1)[:, None]
                self.codebooks[k] = (
                    torch.zeros_like(self.codebooks[k]).index_add_(0, index, residual) / counts
                )
            else:
                start = self.codebooks[k] if picks is None else residual[picks[k]].clone()
                self.codebooks[k], index = kmeans(residual, start, iterations, generator)
            residual = residual - self.codebooks[k][index]

    @torch.no_grad()
    def start_averages(self, vectors_per_step: float) -> None:
        """Start the moving averages at the present codebooks, for training with so many latents per step."""
        self.usage.fill_(vectors_per_step / self.codebook_size)
        self.sums.copy_(self.codebooks * self.usage[..., None])
        if self.semantic_codebook is not None:
            self.semantic_sums.copy_(self.semantic_codebook * self.usage[0, :, None])


def _of_rank_0(value: Tensor) -> Tensor:
    """Broadcast a value from rank 0, so that the codebooks of all ranks stay equal."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.broadcast(value, 0)
    return value


def kmeans(
    x: Tensor, centroids: Tensor, iterations: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm on x [M, D] from initial centroids [clusters, D]; an empty cluster moves to a random vector.
    Returns the centroids and the index [M] int64 of each vector's centroid.
    """
    clusters = centroids.shape[0]
    index = nearest(x, centroids)
    for _ in range(iterations):
        counts = torch.bincount(index, minlength=clusters)
        sums = torch.zeros_like(centroids).index_add_(0, index, x)
        centroids = sums / counts.clamp_min(1)[:, None]
        empty = counts == 0
        if bool(empty.any()):
            refill = torch.randint(x.shape[0], (int(empty.sum()),), generator=generator)
            centroids[empty] = x[refill.to(x.device)]
        index = nearest(x, centroids)
    return centroids, index


def perplexity(codes: Tensor, codebook_size: int) -> Tensor:
    """Effective number of codewords in use, in [1, V]: exp of the entropy of the codes of one codebook."""
    p = torch.bincount(codes.reshape(-1), minlength=codebook_size).float()
    p = p / p.sum()
    return torch.exp(-(p * torch.log(p.clamp_min(1e-12))).sum())
