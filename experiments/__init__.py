"""Scripts: fit, unlearn, compare, demo and their helpers; each is run as `python -m experiments.NAME`."""

import signal
import sys

# Imports take seconds and there is nothing to save yet: Ctrl-C ends a script at once instead of in a traceback through
# jax. `_flags.run` takes over after them. As `python -m experiments.NAME` imports this package, argv[0] is "-m".
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
  signal.signal(signal.SIGINT, signal.SIG_DFL)
