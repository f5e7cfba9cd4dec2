"""How many random models, and whether a failure is made small.

`ONNXPRUNE_EXAMPLES` sets the number of models and with it seeds of their own for each run; without it the seeds are fixed.
`ONNXPRUNE_SHRINK=1` makes a failure small.
"""

import os

from hypothesis import HealthCheck, Phase, settings

_asked = os.environ.get("ONNXPRUNE_EXAMPLES")
_phases = [Phase.explicit, Phase.generate] + [Phase.shrink] * (os.environ.get("ONNXPRUNE_SHRINK") == "1")
settings.register_profile(
    "onnxprune",
    max_examples=int(_asked or 50),
    derandomize=not _asked,
    phases=_phases,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("onnxprune")
