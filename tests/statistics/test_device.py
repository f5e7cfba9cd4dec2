"""Moments from ONNX Runtime are those of the host, for every way of taking rows."""

import numpy as np
import pytest

from onnxprune.statistics.device import DeviceMoments, Target, can_be_in_graph, on_device
from onnxprune.statistics.linear import Contraction, Convolution, Dense
from onnxprune.statistics.moments import Moments
from onnxprune.statistics.providers import CPU


def conv(kernel, strides, dilations, pads, auto="NOTSET", groups=1):
    return Convolution(kernel, strides, dilations, pads, auto, groups, False)


FORMS = {
    "channels last": (Dense(-1, False), (5, 9, 6)),
    "channels first": (Dense(1, False), (5, 6, 4, 3)),
    "time first": (Dense(-1, False, 1), (5, 9, 6)),
    "rank 2": (Dense(-1, False), (5, 6)),
    "1x1": (conv((1, 1), (1, 1), (1, 1), (0,) * 4), (5, 6, 8, 8)),
    "3x3": (conv((3, 3), (1, 1), (1, 1), (1,) * 4), (5, 6, 8, 8)),
    "strided": (conv((3, 2), (2, 1), (1, 2), (1, 0, 2, 3)), (5, 6, 9, 8)),
    "cropped": (conv((3, 3), (1, 1), (1, 1), (-1, 0, 0, 1)), (5, 6, 8, 8)),
    "same": (conv((3, 3), (2, 2), (1, 1), (0,) * 4, "SAME_LOWER"), (5, 6, 9, 8)),
    "grouped": (conv((3, 3), (1, 1), (1, 1), (1,) * 4, groups=3), (5, 6, 8, 8)),
    "depthwise": (conv((3, 3), (1, 1), (1, 1), (1,) * 4, groups=6), (5, 6, 8, 8)),
    "one axis": (conv((3,), (2,), (1,), (1, 1)), (5, 6, 11)),
}


def close(found, expected):
    scale_x = np.sqrt(np.einsum("gkk->gk", expected.xx)) + 1e-30
    scale_y = np.sqrt(expected.yy) + 1e-30
    assert found.rows == expected.rows
    assert np.allclose(found.x, expected.x, rtol=1e-5, atol=1e-5) and np.allclose(found.y, expected.y, rtol=1e-5, atol=1e-4)
    assert (np.abs(found.xx - expected.xx) <= 1e-5 * scale_x[:, :, None] * scale_x[:, None]).all()
    assert (np.abs(found.xy - expected.xy) <= 1e-5 * scale_x[:, :, None] * scale_y[:, None]).all()
    assert (np.abs(found.yy - expected.yy) <= 1e-5 * scale_y**2).all()


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_rows_are_those_of_the_host(name, dtype):
    """Far from 0 (mean 20 at a deviation of 1): the shift keeps the digits."""
    form, shape = FORMS[name]
    rng = np.random.default_rng(0)
    batches = [(rng.standard_normal(shape) + 20).astype(dtype) for _ in range(3)]
    probe = form.rows(batches[0], np.arange(2) if batches[0].ndim > 2 else np.arange(1))
    groups, k = probe.shape[2:]
    total = positions(form, shape)
    chosen = np.sort(rng.permutation(total)[: max(total // 2, 1)])
    found = DeviceMoments(form, (groups, k, 0), [], 2, CPU)
    expected = [Moments.empty(groups, k, 0) for _ in range(2)]
    for x in batches:
        first = rng.random((x.shape[form.x_lead], chosen.size)) < 0.7
        rows = form.rows(x, chosen)
        for total_of, mask in zip(expected, (first, ~first), strict=True):
            if mask.any():
                total_of.add(Moments.of(rows[mask], rows[mask][..., :0]))
        found.add(on_device(x, CPU.device), [], chosen, [first, ~first])
    for one, two in zip(found.total, expected, strict=True):
        close(one, two)


def positions(form, shape):
    if isinstance(form, Dense):
        return form.positions(np.empty(shape))
    pads = form.padding(shape[2:])
    spans = [d * (k - 1) + 1 for k, d in zip(form.kernel, form.dilations, strict=True)]
    sizes = [s + a + b for s, (a, b) in zip(shape[2:], pads, strict=True)]
    return int(np.prod([(s - p) // t + 1 for s, p, t in zip(sizes, spans, form.strides, strict=True)]))


@pytest.mark.parametrize(("form", "shape", "axis"), [(conv((1, 1), (1, 1), (1, 1), (0,) * 4), (5, 6, 4, 4), 1),
                                                     (Dense(-1, False), (5, 9, 6), 2)])  # fmt: skip
def test_targets_have_kept_channels_and_sums(form, shape, axis):
    """Two nodes read x: one keeps some channels, the other makes up for a difference."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal(shape).astype(np.float32)
    kept, factor = np.array([0, 2, 3]), np.array([0.5, 2.0, -1.0, 1.0])
    sizes = list(shape)
    tensors = []
    for channels in (5, 4, 7, 4):
        sizes[axis] = channels
        tensors.append((rng.standard_normal(sizes) + 3).astype(np.float32))
    some = np.array([0, 2, 3, 6])
    targets = [Target(form, 3, kept), Target(form, 4, None, ((some, factor),))]
    chosen = np.arange(1, form.positions(x), 2)
    found = DeviceMoments(form, (1, 6, 7), targets, 1, CPU)
    values = [on_device(t, CPU.device) for t in tensors]
    mask = np.ones((len(x), chosen.size), np.bool_)
    found.add(on_device(x, CPU.device), values, chosen, [mask])
    one = form.outputs(np.take(tensors[0], kept, axis), chosen)
    lost = form.outputs(np.take(tensors[2], some, axis) - tensors[3], chosen)
    two = form.outputs(tensors[1], chosen) + lost * factor
    wanted = np.concatenate([one, two], axis=3)
    close(found.total[0], Moments.of(form.rows(x, chosen)[mask], wanted[mask]))


def test_stretched_inputs_are_left_to_the_host():
    assert not can_be_in_graph(Convolution((2, 2), (2, 2), (1, 1), (0,) * 4, "NOTSET", 1, True))
    assert not can_be_in_graph(Contraction("ab", "bc", "ac"))
    assert can_be_in_graph(FORMS["3x3"][0]) and can_be_in_graph(FORMS["rank 2"][0])
