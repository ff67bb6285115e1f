"""``python -m selfteach``."""

import sys

from selfteach.cli import main

sys.exit(main())
