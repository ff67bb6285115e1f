"""Images that a run keeps: as PNG in its folder, on its page, gone with the steps that a resumed run makes again."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from learners import FLOW, Flow
from selfteach.report import build_report
from selfteach.training.jsonrows import read_rows
from selfteach.training.learner import Sample
from selfteach.training.pictures import GAP, SHADE, png, side_by_side
from selfteach.training.running import run_learner
from selfteach.training.trainer import Trainer

image_of = pytest.importorskip("PIL.Image")


class Painting(Flow):
    """The flow, which also shows its weights as a picture."""

    def samples(self, batch: object, phase: str) -> list[Sample]:
        pixels = self.velocity[0].weight.detach().sigmoid()[None]
        return [
            *super().samples(None, phase),
            Sample("image", {"pixels": pixels, "caption": "<b>weights</b>"}, "weights"),
        ]


def decoded(data: bytes) -> torch.Tensor:
    """[c, h, w] of 0 … 255, as a library that is not ours reads it."""
    with image_of.open(io.BytesIO(data)) as image:
        image.load()
        channels = {"L": 1, "RGB": 3}[image.mode]
        flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        return flat.reshape(image.height, image.width, channels).permute(2, 0, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_read_as_it_was_written(channels: int) -> None:
    levels = torch.randint(256, (channels, 5, 7), generator=torch.Generator().manual_seed(0))
    assert torch.equal(decoded(png(levels / 255)), levels.to(torch.uint8))


def test_what_is_beyond_black_and_white_is_cut() -> None:
    odd = torch.tensor([[[-1.0, 2.0, float("nan"), float("inf")]]])
    assert decoded(png(odd)).tolist() == [[[0, 255, 0, 255]]]


def test_a_picture_of_two_channels_is_none() -> None:
    with pytest.raises(ValueError, match="1 or 3 channels, not 2"):
        png(torch.zeros(2, 4, 4))


def test_images_stand_in_rows_with_a_gap_between() -> None:
    images = torch.arange(5.0)[:, None, None, None].expand(5, 1, 2, 3) / 10
    laid = side_by_side(images)
    assert laid.shape == (1, 2 * 2 + GAP, 3 * 3 + 2 * GAP)
    assert laid[0, 0].tolist() == pytest.approx([0, 0, 0, SHADE, 0.1, 0.1, 0.1, SHADE, 0.2, 0.2, 0.2])
    assert laid[0, 2].eq(SHADE).all()
    assert laid[0, 3].tolist() == pytest.approx([0.3] * 3 + [SHADE] + [0.4] * 3 + [SHADE] * 4)
    assert side_by_side(images, columns=5).shape == (1, 2, 5 * 3 + 4 * GAP)


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    run_learner(Painting(6), out, FLOW)
    return out


def rows(run: Path) -> list[Mapping[str, object]]:
    return [row for row in read_rows(run / "samples.jsonl") if row["kind"] == "image"]


def test_each_look_has_a_file_and_the_page_shows_it(painted: Path) -> None:
    found = rows(painted)
    assert [(row["step"], row["phase"]) for row in found] == [
        (0, "before"), (1, "train"), (5, "train"), (6, "after"),
    ]  # fmt: skip
    assert all("pixels" not in row and row["caption"] == "<b>weights</b>" for row in found)
    assert {f"images/{one.name}" for one in (painted / "images").iterdir()} == {row["path"] for row in found}
    html = build_report(painted).read_text()
    shown = re.findall(r'src="data:image/png;base64,([^"]*)"', html)
    assert [base64.b64decode(one) for one in shown] == [(painted / row["path"]).read_bytes() for row in found]
    assert decoded(base64.b64decode(shown[0])).shape == (1, 32, 3)
    assert "img-src data:" in html
    assert "&lt;b&gt;weights&lt;/b&gt;" in html


def test_a_run_that_goes_on_has_the_files_of_one_that_was_never_stopped(
    painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed behind its last checkpoint: the picture made after it is made again, and one that belongs to no row is
    gone."""
    out, made = tmp_path / "run", Trainer.step

    def dying(self: Trainer) -> None:
        made(self)
        if self.done == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "step", dying)
    with pytest.raises(KeyboardInterrupt):
        run_learner(Painting(6), out, FLOW)
    monkeypatch.undo()
    assert (out / "images" / "step-5-train-1.png").exists()
    (out / "images" / "step-4-train-9.png").write_bytes(b"of a step behind the checkpoint")
    run_learner(Painting(6), out, FLOW, resume=True)
    assert {one.name: one.read_bytes() for one in (out / "images").iterdir()} == {
        one.name: one.read_bytes() for one in (painted / "images").iterdir()
    }
    assert (out / "samples.jsonl").read_bytes() == (painted / "samples.jsonl").read_bytes()


HEADER = png(torch.zeros(1, 2, 2))
WIDE = HEADER[:16] + (60_000).to_bytes(4, "big") + HEADER[20:]


@pytest.mark.parametrize(
    ("path", "content", "said"),
    [
        ("../secret.png", HEADER, "outside of the run"),
        ("link.png", HEADER, "outside of the run"),
        ("images/none.png", None, "cannot be read"),
        ("images", None, "is a folder"),
        ("images/page.png", b"<script>alert(1)</script>" * 9, "is no PNG"),
        ("images/short.png", HEADER[:12], "is no PNG"),
        ("images/wide.png", WIDE, "is no PNG of at most 4096"),
        ("images/large.png", HEADER + bytes(2**20), "at most 1,048,576"),
        (["images"], None, "cannot be read"),
        ("images/\0.png", None, "cannot be read"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_a_picture_that_may_not_be_shown_is_named(
    painted: Path, tmp_path: Path, path: object, content: bytes | None, said: str
) -> None:
    run = Path(shutil.copytree(painted, tmp_path / "run"))
    if path == "link.png":
        (tmp_path / "secret.png").write_bytes(HEADER)
        (run / "link.png").symlink_to(tmp_path / "secret.png")
    elif content is not None:
        (run / str(path)).write_bytes(content)
    row = {"step": 1, "phase": "train", "kind": "image", "key": "x", "path": path}
    (run / "samples.jsonl").write_text(json.dumps(row) + "\n")
    html = build_report(run).read_text()
    assert "data:image/png" not in html
    assert said in html
