"""The arithmetic of many small MLPs at once, in tiles that stay in a core's cache.

One autograd node replaces some forty: each tile is encoded, multiplied through and rectified in
place, and its activations are kept for the way back. Products are batched over patients,
[B, n, in] @ [B, in, out].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .frequency import encoding_gradient, frequency_encoding

MANY_POINTS = 32_768  # of a patient: from here on a GPU takes longer over them than over a launch


def affine(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """x Wᵀ + b of every patient: [B, n, in], [B, out, in], [B, 1, out] -> [B, n, out].

    A GPU writes a bias that is the batched product's third operand out for every point first. Few
    points get it added in place; many are worth a product for each patient, which adds it on the
    way.
    """
    if x.device.type == "cpu":
        return torch.baddbmm(b, x, w.transpose(1, 2))
    if x.shape[1] < MANY_POINTS:
        return torch.bmm(x, w.transpose(1, 2)).add_(b)
    out = x.new_empty((*x.shape[:2], w.shape[1]))
    for i in range(len(x)):
        torch.addmm(b[i, 0], x[i], w[i].T, out=out[i])
    return out


class TiledMlp(torch.autograd.Function):
    """Raw outputs [B, N, out] of points x [B, N, 3] for layers W [B, out, in], b [B, out].

    They are differentiable once, in points and layers.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, octaves: int, skip: int, tile: int, dtype: torch.dtype, *layers: Tensor
    ) -> Tensor:
        weights = [w.to(dtype) for w in layers[0::2]]
        biases = [b.to(dtype)[:, None] for b in layers[1::2]]
        keep = any(ctx.needs_input_grad)
        out = x.new_empty((*x.shape[:2], weights[-1].shape[1]), dtype=torch.float32)
        ctx.tiles = []
        for start in range(0, x.shape[1], tile):
            points = x[:, start : start + tile]
            encoded = frequency_encoding(points, octaves, dtype, weights[0].shape[2])
            h = encoded
            inputs = []
            for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
                h = torch.cat([h, encoded], -1) if skip and i == skip else h
                inputs.append(h)
                h = affine(h, w, b)
                h = h.relu_() if i < len(weights) - 1 else h
            out[:, start : start + tile] = h
            if keep:
                ctx.tiles.append(inputs)
        ctx.weights = weights
        ctx.octaves = octaves
        ctx.skip = skip
        ctx.tile = tile
        ctx.points = x.shape
        ctx.needs_x = ctx.needs_input_grad[0]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.tiles:
            raise RuntimeError(
                "the activations of this MLP were freed by the first way back; run it again"
            )
        weights = ctx.weights
        dtype = weights[0].dtype
        grad_w = [torch.zeros_like(w, dtype=torch.float32) for w in weights]
        grad_b = [torch.zeros(w.shape[:2], device=w.device) for w in weights]
        grad_x = torch.empty(ctx.points, device=gradient.device) if ctx.needs_x else None
        for k, inputs in enumerate(ctx.tiles):
            span = slice(k * ctx.tile, (k + 1) * ctx.tile)
            g = gradient[:, span].to(dtype)
            again = None  # what the skip connection sends back to the encoding
            for i in reversed(range(len(weights))):
                grad_w[i] += torch.bmm(g.transpose(1, 2), inputs[i])
                grad_b[i] += g.sum(1)
                if i == 0 and grad_x is None:
                    break
                g = torch.bmm(g, weights[i])
                if ctx.skip and i == ctx.skip:
                    width = inputs[0].shape[-1]
                    g, again = g[..., :-width], g[..., -width:]
                if i > 0:
                    g = torch.ops.aten.threshold_backward(g, inputs[i][..., : g.shape[-1]], 0)
            if grad_x is not None:
                g = g if again is None else g + again
                grad_x[:, span] = encoding_gradient(g, inputs[0], ctx.octaves)
        ctx.tiles = []
        pairs = [t for pair in zip(grad_w, grad_b, strict=True) for t in pair]
        return (grad_x, None, None, None, None, *pairs)
