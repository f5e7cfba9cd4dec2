"""Options of a latency target."""

import pytest


@pytest.mark.parametrize("option", [("--threads", "2"), ("--batch", "4"), ("--latency-cache", "cache")])
def test_options_of_latency_need_a_latency_target(invoke, model, tmp_path, option):
    found = invoke("prune", model, "-o", tmp_path / "out.onnx", *option)
    assert found.code == 2
    assert "--target latency=N" in found.err
    assert not (tmp_path / "out.onnx").exists()
