"""Settings of the property tests."""

from __future__ import annotations

import hypothesis

# No deadline: shared machines are slow now and then, and a slow example is no wrong one.
hypothesis.settings.register_profile("data", max_examples=40, deadline=None)
hypothesis.settings.load_profile("data")
