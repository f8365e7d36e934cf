"""`python -m cloner`: the same as the console script."""

import sys

from .server.cli import main

sys.exit(main())
