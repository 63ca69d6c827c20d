"""Where tests keep compiled programs: most of their time is compilation, and files and scripts share many programs."""

from pathlib import Path

CACHE = Path(__file__).parents[1] / ".pytest_cache" / "jaxunlearn"  # as JAXUNLEARN_CACHE of a script
XLA = CACHE / "xla"
