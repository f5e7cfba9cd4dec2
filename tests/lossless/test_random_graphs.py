"""Whatever is found in random graphs with changed weights can go without a change of any output."""

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from onnxprune.proof.inputs import random_inputs
from onnxprune.proof.oracle import relative_error
from onnxprune.proof.session import run
from tests.lossless.plants import Planted, outcome, unit_of
from tests.properties.random_graphs import models

pytestmark = pytest.mark.slow


def spoil(plants: Planted, rng: np.random.Generator) -> None:
    """Zeros, constants, copies and multiples in some or all of the slices of some units: lossless or just nearly so."""
    for group in plants.groups.groups:
        for k in range(1, group.units):
            if rng.random() < 0.6:
                continue
            kind = rng.choice(["zero", "constant", "copy", "multiple"])
            factor = rng.choice([1.7, 2.0, -1.3]) if kind == "multiple" else 1.0
            partly = rng.random() < 0.5
            source, target = unit_of(group, int(rng.integers(0, k))), unit_of(group, k)
            for reading in (False, True) if partly else (False,):
                places = dict(plants.slices(source, reading=reading))
                for name, index in plants.slices(target, reading=reading):
                    array = plants.weights[name]
                    if array.dtype.kind != "f" or (partly and rng.random() < 0.4):
                        continue
                    if kind in ("zero", "constant"):
                        plants.change(name, index, 0.7 if kind == "constant" and array.ndim == 1 else 0.0)
                    elif name in places:
                        plants.change(name, index, array[places[name]] * array.dtype.type(factor))


@settings(max_examples=30, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(models(), st.integers(0, 2**16))
def test_no_output_changes(model: onnx.ModelProto, seed: int):
    plants = Planted(model)
    spoil(plants, np.random.default_rng(seed))
    spoiled = plants.build()
    feeds = random_inputs(plants.prepared.graph, plants.prepared.shapes, plants.groups.trace.values, 0)
    names = [o.name for o in spoiled.graph.output]
    moved = {n: np.nextafter(a, np.array(np.inf, a.dtype)) if a.dtype.kind == "f" else a for n, a in feeds.items()}
    expected, nearby = run(spoiled, feeds, names), run(spoiled, moved, names)
    assume(all(np.isfinite(a).all() for a in expected if a.dtype.kind == "f"))
    noise = max(map(relative_error, expected, nearby))
    *_, error = outcome(spoiled)
    assert error <= max(1e-5, 8 * noise)
