"""Softmax, and normalizations by a mean and a variance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxprune.gradient.registry import Array, Gradients, Step, derivative, summed_to


def _along_axis(function: Callable[[Step, Array, Array, int], Array]) -> Callable[[Step], Gradients]:
    """Before version 13 all axes from `axis` on are one."""

    def rule(step: Step) -> Gradients:
        y, dy = step.out, step.grad
        axis = int(step.attrs.get("axis", -1 if step.version >= 13 else 1)) % y.ndim
        if step.version >= 13:
            return {0: function(step, y, dy, axis)}
        flat = (int(np.prod(y.shape[:axis])), -1)
        return {0: function(step, y.reshape(flat), dy.reshape(flat), 1).reshape(y.shape)}

    return rule


def _softmax(step: Step, y: Array, dy: Array, axis: int) -> Array:
    return np.asarray(y * (dy - (y * dy).sum(axis=axis, keepdims=True)))


def _log_softmax(step: Step, y: Array, dy: Array, axis: int) -> Array:
    return np.asarray(dy - np.exp(y) * dy.sum(axis=axis, keepdims=True))


derivative("Softmax")(_along_axis(_softmax))
derivative("LogSoftmax")(_along_axis(_log_softmax))


def _standardized(x: Array, axes: tuple[int, ...], epsilon: float, *, centred: bool = True) -> tuple[Array, Array]:
    """The tensor without mean and with unit variance over axes, and the factor 1 / deviation."""
    if centred:
        x = x - x.mean(axis=axes, keepdims=True)
    factor = 1 / np.sqrt(np.square(x).mean(axis=axes, keepdims=True) + x.dtype.type(epsilon))
    return x * factor, factor


def _back(z: Array, factor: Array, dz: Array, axes: tuple[int, ...], *, centred: bool = True) -> Array:
    """Gradient of x from that of the standardized z.

    Source: Ioffe & Szegedy 2015, "Batch Normalization", section 3 (the chain rule), with mean and variance put together.
    """
    inner = dz - z * (dz * z).mean(axis=axes, keepdims=True)
    return np.asarray(factor * (inner - dz.mean(axis=axes, keepdims=True) if centred else inner))


def _channelwise(values: Array, rank: int) -> Array:
    """`(C,)` for `(N, C, ...)`."""
    return values.reshape(-1, *[1] * (rank - 2))


@derivative("BatchNormalization", inputs=[0], when=lambda n, a: not a.get("training_mode"))
def batch_normalization(step: Step) -> Gradients:
    """A factor for each channel."""
    factor = step.need(1) / np.sqrt(step.need(4) + step.attrs.get("epsilon", 1e-5))
    return {0: step.grad * _channelwise(factor, step.grad.ndim).astype(step.grad.dtype)}


def _layer(step: Step, x: Array, dy: Array, scale: Array, *, centred: bool) -> Array:
    axes = tuple(range(int(step.attrs.get("axis", -1)) % x.ndim, x.ndim))
    z, factor = _standardized(x, axes, step.attrs.get("epsilon", 1e-5), centred=centred)
    return _back(z, factor, dy * scale, axes, centred=centred)


@derivative("LayerNormalization", inputs=[0])
def layer_normalization(step: Step) -> Gradients:
    """Over all axes from `axis` on."""
    return {0: _layer(step, step.need(0), step.grad, step.need(1), centred=True)}


@derivative("RMSNormalization", "SimplifiedLayerNormalization", inputs=[0])
def rms_normalization(step: Step) -> Gradients:
    """Without a mean."""
    return {0: _layer(step, step.need(0), step.grad, step.need(1), centred=False)}


def _skip(*, centred: bool) -> Callable[[Step], Gradients]:
    """(x, skip, gamma, beta, bias), or without beta; the fourth output is the sum that is normalized."""

    def rule(step: Step) -> Gradients:
        bias = step.given(4 if centred else 3)
        x = step.need(0) + step.need(1)
        x = x if bias is None else x + bias
        d = np.zeros_like(x)
        if step.dy[0] is not None:
            d = d + _layer(step, x, step.dy[0], step.need(2), centred=centred)
        if len(step.dy) > 3 and step.dy[3] is not None:
            d = d + step.dy[3]
        return {k: summed_to(d, step.need(k).shape) for k in (0, 1)}

    return rule


derivative("SkipLayerNormalization", domain="com.microsoft", inputs=[0, 1])(_skip(centred=True))
derivative("SkipSimplifiedLayerNormalization", domain="com.microsoft", inputs=[0, 1])(_skip(centred=False))


@derivative("InstanceNormalization", inputs=[0])
def instance_normalization(step: Step) -> Gradients:
    """Over the places of one channel."""
    x = step.need(0)
    axes = tuple(range(2, x.ndim))
    z, factor = _standardized(x, axes, step.attrs.get("epsilon", 1e-5))
    return {0: _back(z, factor, step.grad * _channelwise(step.need(1), x.ndim), axes)}


@derivative("MeanVarianceNormalization")
def mean_variance_normalization(step: Step) -> Gradients:
    """Over the axes that are named."""
    axes = tuple(step.attrs.get("axes", (0, 2, 3)))
    z, factor = _standardized(step.need(0), axes, 0.0)
    return {0: _back(z, factor, step.grad, axes)}


@derivative("GroupNormalization", inputs=[0])
def group_normalization(step: Step) -> Gradients:
    """Over the channels and places of a group; scales are one a group before version 21, then one a channel."""
    x, scale = step.need(0), step.need(1)
    groups = int(step.attrs["num_groups"])
    if scale.size != x.shape[1]:
        scale = np.repeat(scale, x.shape[1] // groups)
    folded = x.reshape(len(x), groups, -1)
    z, factor = _standardized(folded, (2,), step.attrs.get("epsilon", 1e-5))
    dz = (step.grad * _channelwise(scale, x.ndim)).reshape(folded.shape)
    return {0: _back(z, factor, dz, (2,)).reshape(x.shape)}


@derivative("LpNormalization", when=lambda n, a: a.get("p", 2) == 2)
def l2_normalization(step: Step) -> Gradients:
    """The vector x / |x|."""
    x, y, axis = step.need(0), step.out, int(step.attrs.get("axis", -1))
    norm = np.maximum(np.sqrt(np.square(x).sum(axis=axis, keepdims=True)), np.finfo(x.dtype).tiny)
    return {0: (step.grad - y * (y * step.grad).sum(axis=axis, keepdims=True)) / norm}
