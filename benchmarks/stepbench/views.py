"""A recipe with any number of teachers, each with a view of its own: how a step's cost grows with them.

``selfteach train views.py:Views --views 4`` on a task with the private fields ``hint0`` … ``hint3``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from selfteach.recipes.kit import (
    Field,
    FromRole,
    Frozen,
    Match,
    PositiveInt,
    Recipe,
    Role,
    Statistics,
    Term,
    gkd_jsd,
    settings,
)


@settings
class Views(Recipe):
    """The mean over V frozen teachers of the full-vocabulary JSD with the student."""

    title = "Several views"
    views: PositiveInt = 1
    """Teachers, each of which reads a private field of its own."""

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {f"view{i}": Role(Frozen(), Field(f"hint{i}"), None) for i in range(self.views)}

    def terms(self, stats: Statistics) -> Iterable[Term]:
        for name in self.teachers:
            yield Match(
                name=name, target=FromRole(name), divergence=gkd_jsd(0.5), coefficient=1 / self.views,
                mean_over="tokens",
            )  # fmt: skip
