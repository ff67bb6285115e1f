"""The server of a running run's report, asked over real sockets."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from selfteach.cli.watch import Page, Server, command
from selfteach.errors import UserError

ROW = {"step": 1, "loss": 0.5, "length/mean": 10.0, "spent/tokens": 80}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.toml").write_text('[recipe]\nname = "opsd"\n')
    (folder / "metrics.jsonl").write_text(json.dumps(ROW) + "\n")
    return folder


@pytest.fixture
def server(run: Path, tmp_path: Path) -> Iterator[Server]:
    with Server(Page(run, tmp_path / "aside" / "report.html"), port=0, every=7) as made:
        thread = Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def ask(
    server: Server, path: str = "/", *, host: str | None = None, method: str = "GET"
) -> tuple[http.client.HTTPResponse, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.putrequest(method, path, skip_host=True)
    if host != "":
        connection.putheader("Host", host or f"127.0.0.1:{server.port}")
    connection.endheaders()
    response = connection.getresponse()
    return response, response.read().decode()


def test_the_page_is_the_report_and_loads_itself_again(server: Server) -> None:
    response, text = ask(server)
    assert response.status == 200
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "<!doctype html>" in text
    assert "opsd" in text
    assert response.headers["Refresh"] == "7"


def test_a_run_that_has_ended_is_not_loaded_again(server: Server, run: Path) -> None:
    (run / "summary.json").write_text('{"steps": 1}')
    response, text = ask(server)
    assert response.status == 200
    assert response.headers["Refresh"] is None
    assert "Finished" in text


def test_what_the_run_writes_is_on_the_next_page(server: Server, run: Path) -> None:
    assert "9876" not in ask(server)[1].replace(",", "")
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps({**ROW, "step": 2, "spent/tokens": 9876}) + "\n")
    assert "9876" in ask(server)[1].replace(",", "").replace("\u202f", "").replace(" ", "")


def test_an_unchanged_run_is_not_read_again(server: Server, run: Path) -> None:
    _, first = ask(server)
    metrics = run / "metrics.jsonl"
    times = metrics.stat().st_atime_ns, metrics.stat().st_mtime_ns
    metrics.write_bytes(b" " * metrics.stat().st_size)
    os.utime(metrics, ns=times)
    assert ask(server)[1] == first


def test_the_run_folder_is_not_written_to(server: Server, run: Path) -> None:
    before = sorted(run.iterdir())
    ask(server)
    assert sorted(run.iterdir()) == before


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "0.0.0.0", "127.0.0.1:1", "localhost.evil", ""]
)
def test_a_request_under_another_name_gets_nothing_of_the_run(server: Server, host: str) -> None:
    response, text = ask(server, host=host)
    assert response.status == 421
    assert "opsd" not in text


def test_localhost_is_a_name_of_this_machine(server: Server) -> None:
    assert ask(server, host=f"localhost:{server.port}")[0].status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/metrics.jsonl",
        "/config.toml",
        "/../config.toml",
        "/%2e%2e/config.toml",
        "/./",
        "/?x",
        "/report.html",
    ],
)
def test_there_is_no_other_file(server: Server, path: str) -> None:
    response, text = ask(server, path)
    assert response.status == 404
    assert "opsd" not in text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD", "CONNECT"])
def test_there_is_no_other_method(server: Server, method: str) -> None:
    assert ask(server, method=method)[0].status == 501


def test_only_this_machine_is_listened_to(server: Server) -> None:
    assert server.server_address[0] == "127.0.0.1"


def test_a_folder_without_a_run_yet_says_so_and_is_asked_again(server: Server, run: Path) -> None:
    for path in list(run.iterdir()):
        path.unlink()
    response, text = ask(server)
    assert response.status == 503
    assert "holds no run" in text
    assert response.headers["Refresh"] == "7"


def test_a_taken_port_is_one_line(server: Server, run: Path) -> None:
    with pytest.raises(UserError, match=r"--port \d+: .*choose another"):
        Server(Page(run, run / "x.html"), server.port, every=5)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["nowhere"], "nowhere is no folder"),
        ([".", "--every", "0"], "every must be above 0"),
        ([".", "--port", "99999"], "port must be at most 65,535"),
    ],
)
def test_wrong_words_are_one_line(words: list[str], what: str) -> None:
    with pytest.raises(UserError, match=what):
        command(words)
