"""Models and their words. Compiled code of the hub stays off unless the user's own environment switches it on."""

import os

os.environ.setdefault("USE_HUB_KERNELS", "NO")  # read when transformers is imported
