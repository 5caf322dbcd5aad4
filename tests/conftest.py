"""How random cases are drawn: the same ones every time, and no verdict from a slow machine.

`make test-long` draws ten times as many, fresh ones; a failure prints the case, which becomes a
test of its own.
"""

import os

from hypothesis import HealthCheck, settings

_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}

settings.register_profile("short", derandomize=True, database=None, **_COMMON)
settings.register_profile("long", max_examples=1_000, print_blob=True, **_COMMON)
settings.load_profile("long" if os.environ.get("ATPAR_TEST_LONG") else "short")
