"""How many random models, and whether a failure is made small.

`ONNXPRUNE_EXAMPLES` sets the number of models and with it seeds of their own for each run; without it the seeds are fixed.
`ONNXPRUNE_SHRINK=1` makes a failure small.
"""

import os

import pytest
from hypothesis import HealthCheck, Phase, settings

_asked = os.environ.get("ONNXPRUNE_EXAMPLES")
_phases = [Phase.explicit, Phase.generate] + [Phase.shrink] * (os.environ.get("ONNXPRUNE_SHRINK") == "1")
settings.register_profile(
    "onnxprune",
    max_examples=int(_asked or 25),
    derandomize=not _asked,
    phases=_phases,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("onnxprune")

_KNOWN = {
    "test_each_block[per_group]": "cells of a product grid that also run per convolution group are cut inconsistently",
    "test_width_keeps_models_valid": "width and heads of one component can leave a Reshape with another length",
}


def pytest_collection_modifyitems(items):
    """Open engine cases stay visible until they are mended."""
    for item in items:
        if item.name in _KNOWN and not _asked:
            item.add_marker(pytest.mark.xfail(strict=True, reason=_KNOWN[item.name]))
