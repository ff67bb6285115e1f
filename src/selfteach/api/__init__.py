"""Use from Python: ``selfteach.train``, ``evaluate``, ``compare`` and ``load_run`` (docs/python.md)."""
