"""Parts of ``bench_step.py`` and ``growth.py``: the same step made by several libraries, timed phase by phase."""
