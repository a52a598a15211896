"""What a command says of its stages: the first line soon, then no more than one line in a while, with the tasks that have ended."""

import io
import time

from rich.console import Console

from sdvae_ray.cluster import ordered_tasks
from sdvae_ray.cluster.ordered_tasks import count_tasks, stage


def lines_of(console: Console) -> list[str]:
    return console.export_text(clear=False).splitlines()


def test_many_short_stages_share_one_line_and_a_long_one_goes_on_telling(monkeypatch):
    console = Console(record=True, width=120, file=io.StringIO())
    monkeypatch.setattr(ordered_tasks, "_FIRST", 0.05)
    monkeypatch.setattr(ordered_tasks, "_BETWEEN", 0.4)
    monkeypatch.setattr("sdvae_ray.console._NEXT_LINE", 0.2)
    monkeypatch.setattr(ordered_tasks._Stage, "last_told", float("-inf"))
    for number in range(4):
        with stage(console, f"score: pair {number}"):
            count_tasks(1, 3)
            time.sleep(0.1)
    assert lines_of(console) == ["score: pair 0: 1 of 3 tasks"]
    with stage(console, "score: floors"):
        time.sleep(0.9)
    first, second, *_ = lines_of(console)[1:]
    assert first == "score: floors"
    assert second.startswith("score: floors; ")
    assert second.endswith(" s so far")
