"""How long a test waits for what has to come: it guards against hanging, and judges no speed."""

from typing import Final

DEADLINE_S: Final = 60.0
