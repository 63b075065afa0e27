"""The commands of `vldistill prepare`, over the table of data sets: each has the options that mean something for it alone."""

from __future__ import annotations

import itertools

import hints
import pytest

from vldistill.data.lowshot import LOWSHOT_RULES
from vldistill.data.records import TASKS
from vldistill.data.sources.table import SOURCES, source_of
from vldistill.data.variants import SHIFTS, STATEMENTS

OPTIONS = {name.removeprefix("prepare "): options for name, options in hints.options_of().items() if name.startswith("prepare ")}
VARIANTS = {"--lowshot", "--seeds", "--domain-shift", "--statements"}


def test_every_source_has_a_command_with_its_own_options():
    assert {name.replace("_", "-") for name in SOURCES} | {"toy", "list", "regions import", "regions compute"} == set(OPTIONS)
    common = set.intersection(*(OPTIONS[name.replace("_", "-")] for name in SOURCES))
    own = {name: OPTIONS[name.replace("_", "-")] - common - VARIANTS for name in SOURCES}
    assert {name: options for name, options in own.items() if options} == {
        "vqa": {"--min-count", "--vqa-split"},
        "nlvr": {"--val-directories"},
        "jsonl": {"--min-count", "--labels", "--task"},
    }


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_has_the_variants_of_its_task(name):
    source = source_of(name)
    assert source.task is None or source.task in TASKS
    known = source.task is None or source.task in LOWSHOT_RULES
    assert source.variants == known and LOWSHOT_RULES.keys() == SHIFTS.keys() == STATEMENTS.keys()
    assert OPTIONS[name.replace("_", "-")] & VARIANTS == (VARIANTS if known else set())


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_of_another_is_refused_by_name_and_says_whose_it_is(command, tree, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    vain = sorted(set().union(*OPTIONS.values()) - OPTIONS[name] - {"--help"})
    result = command("prepare", *name.split(), *itertools.chain.from_iterable((option, "1") for option in vain))
    assert result.code == 2 and result.out == "" and result.err.count("\n") == 1 and tree(tmp_path) == {}
    having = [other for other in OPTIONS if OPTIONS[other] & set(vain)]
    assert f"{', '.join(vain)} means nothing for {name} (leave it out; it is for {having[0]}" in result.err and len(vain) > 5


@pytest.mark.parametrize("spelling", [("snli-ve",), ("snli_ve",), ("SNLI-VE",), ("Snli_VE",)])
def test_a_data_set_may_be_written_in_either_way(command, spelling):
    result = command("prepare", *spelling)
    assert result.code == 2 and "--raw is missing (vldistill prepare snli-ve --raw FOLDER" in result.err


def test_the_list_names_them_all_with_what_is_read(well):
    shown = well("prepare", "list").out
    for name, source in zip(SOURCES, map(source_of, SOURCES), strict=True):
        assert any(line.startswith(f"{name.replace('_', '-')} ") and source.layout in line for line in shown.splitlines())
    assert "toy " in shown and "regions " in shown


def test_two_sources_are_two_things():
    for one, other in itertools.combinations(map(source_of, SOURCES), 2):
        assert one.about != other.about and one.layout != other.layout and one.read is not other.read
