"""How long a cache still takes: of each kind of rows by itself, by the time that its own rows took."""

from __future__ import annotations

import re

from vldistill.commands import cache
from vldistill.training.caches import _ticking


def test_a_slow_kind_says_nothing_of_a_quick_one(monkeypatch, capsys):
    """100 images of 0.1 s, then 900 texts of 0.01 s in turns with 50 words of 1 s: halfway, 5 s, 4.5 s and 25 s are left."""
    now = [1000.0]
    monkeypatch.setattr(cache.time, "monotonic", lambda: now[0])
    tick = _ticking(cache._Progress(), {"images": 100, "texts": 900, "words": 50})

    def spend(kind: str, rows: int, seconds: float) -> None:
        now[0] += seconds
        tick(kind, rows, seconds)

    for _ in range(10):
        spend("images", 10, 1.0)
    for _ in range(50):
        spend("texts", 18, 0.18)
        spend("words", 1, 1.0)
    told = re.findall(r"^(\w+): (\d+)/(\d+) rows, (\d+) a second, (\d+) s left of them$", capsys.readouterr().out, re.M)
    of_kind = {kind: [row[1:] for row in told if row[0] == kind] for kind in ("images", "texts", "words")}
    assert of_kind["images"] == [("100", "100", "10", "0")]
    for kind, seconds, rate in (("texts", 0.01, "100"), ("words", 1.0, "1")):
        assert len(of_kind[kind]) >= 3 and of_kind[kind][-1][3] == "0"
        for done, todo, told_rate, left in of_kind[kind]:
            assert told_rate == rate and abs(int(left) - (int(todo) - int(done)) * seconds) <= 0.5
