"""Recipes: every fault is one message with its file and line, overrides win, and a written recipe reads back the same."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

from vldistill.errors import InputError
from vldistill.recipe.load import (
    all_keys,
    copy_recipe,
    dump_recipe,
    find_recipe,
    load_recipe,
    recipe_hash,
    shipped_recipes,
    variant_name,
)
from vldistill.recipe.reference import explained, reference

# Lines:   1               2               3                   4      5                   6
BASE = """\
data:
  path: artifacts/data/toy
student:
  kind: dual_encoder
train:
  epochs: 3
"""
DIDE = (
    BASE
    + """\
teacher:
  model: runs/teacher
objective:
  kind: dide
"""
)  # lines 7-10; a fault appended after it begins at line 11


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Writes a recipe as `r.yaml` in the working folder and loads it."""
    monkeypatch.chdir(tmp_path)

    def call(text: str | bytes, *overrides: str):
        path = Path("r.yaml")
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_recipe("r.yaml", list(overrides))

    return call


@pytest.fixture
def refusal(load):
    def call(text: str | bytes, *overrides: str) -> InputError:
        with pytest.raises(InputError) as caught:
            load(text, *overrides)
        assert caught.value.exit_code == 2
        return caught.value

    return call


def test_the_smallest_recipe_and_its_defaults(load):
    recipe = load(BASE)
    assert recipe.name == "r" and recipe.train.epochs == 3 and recipe.train.steps is None
    assert recipe.optim.lr == 1e-4 and recipe.optim.betas == [0.9, 0.98] and recipe.objective.kind == "labels"
    distil = load(DIDE).objective
    assert (distil.attention, distil.soft_labels, distil.hidden_states, distil.layers, distil.kl) == (
        "cross",
        True,
        False,
        "last",
        "forward",
    )
    assert distil.hard_label_weight == 0  # ground truth is off in the paper


def edited(old: str, new: str, text: str = BASE) -> str:
    assert old in text
    return text.replace(old, new)


# What is wrong -> (text, line, parts of the message)
FAULTS = {
    "unknown section": (BASE + "optimizer:\n  lr: 1\n", 7, ["unknown key `optimizer`", "did you mean `optim`?"]),
    "unknown key": (BASE + "optim:\n  learning_rate: 1\n", 8, ["unknown key `optim.learning_rate`", "valid here: kind, lr"]),
    "misspelt key": (edited("epochs", "epoch"), 6, ["unknown key `train.epoch`", "did you mean `train.epochs`?"]),
    "key of another section": (BASE + "lr: 0.1\n", 7, ["unknown key `lr`", "did you mean `optim.lr`?"]),
    "nested unknown key": (
        BASE + "  batch:\n    pair: 3\n",
        8,
        ["unknown key `train.batch.pair`", "did you mean `train.batch.pairs`?"],
    ),
    "key of the other kind": (BASE + "objective:\n  kind: labels\n  attention: uni\n", 9, ["unknown key `objective.attention`"]),
    "misspelt key of a kind": (DIDE + "  atention: uni\n", 11, ["`objective.atention`", "did you mean `objective.attention`?"]),
    "duplicate section": (BASE + "data:\n  path: b\n", 7, ["key `data` appears twice", "first in line 1"]),
    "duplicate key": (BASE + "  seed: 1\n  seed: 2\n", 8, ["key `train.seed` appears twice", "first in line 7"]),
    "text for a number": (edited("epochs: 3", "epochs: three"), 6, ["`train.epochs`", "'three'", "valid integer"]),
    "quoted number": (edited("epochs: 3", 'epochs: "3"'), 6, ["`train.epochs`", "'3'", "valid integer"]),
    "float for an integer": (edited("epochs: 3", "epochs: 3.0"), 6, ["`train.epochs`", "valid integer"]),
    "sexagesimal": (edited("epochs: 3", "epochs: 1:30"), 6, ["'1:30'", "valid integer"]),
    "octal": (edited("epochs: 3", "epochs: 010"), 6, ["'010'", "valid integer"]),
    "hexadecimal": (edited("epochs: 3", "epochs: 0x10"), 6, ["'0x10'", "valid integer"]),
    "underscores": (edited("epochs: 3", "epochs: 1_000"), 6, ["'1_000'", "valid integer"]),
    "boolean for an integer": (edited("epochs: 3", "epochs: true"), 6, ["`train.epochs`", "valid integer"]),
    "no for a boolean": (DIDE + "  soft_labels: no\n", 11, ["`objective.soft_labels`", "'no'", "valid boolean"]),
    "on for a boolean": (DIDE + "  soft_labels: on\n", 11, ["'on'", "valid boolean"]),
    "number for text": (edited("path: artifacts/data/toy", "path: 7"), 2, ["`data.path`", "7", "valid string"]),
    "date stays text": (edited("epochs: 3", "epochs: 2020-01-01"), 6, ["'2020-01-01'"]),
    "zero": (edited("epochs: 3", "epochs: 0"), 6, ["`train.epochs`", "greater than 0"]),
    "fraction of one": (BASE + "optim:\n  betas: [0.9, 1.0]\n", 8, ["`optim.betas.1`", "less than 1"]),
    "list too short": (BASE + "optim:\n  betas: [0.9]\n", 8, ["`optim.betas`", "at least 2"]),
    "item of a list": (BASE + "  trackers:\n    - tensorboard\n    - tensorbord\n", 9, ["`train.trackers.1`", "'tensorbord'"]),
    "wrong kind of student": (
        edited("dual_encoder", "bert"),
        4,
        ["`student.kind`", "must be one of 'vilt', 'dual_encoder'"],
    ),
    "value of an ablation": (DIDE + "  attention: crossed\n", 11, ["`objective.attention`", "'crossed'", "'cross', 'uni'"]),
    "wrong kind of the union": (edited("kind: dide", "kind: dyde", DIDE), 10, ["'dyde'", "'labels'", "'dide'"]),
    "union without a kind": (BASE + "objective:\n  attention: uni\n", 7, ["`objective.kind`", "labels, dide"]),
    "text for a section": (BASE + "objective: dide\n", 7, ["`objective` is 'dide'"]),
    "empty section": (edited("  path: artifacts/data/toy\n", ""), 1, ["`data` is None"]),
    "missing section": (edited("student:\n  kind: dual_encoder\n", ""), 1, ["`student` is missing"]),
    "missing key": (edited("path: artifacts/data/toy", "limit: 3"), 1, ["`data.path` is missing"]),
    "epochs and steps": (BASE + "  steps: 9\n", 5, ["exactly one of `epochs` and `steps`"]),
    "neither epochs nor steps": (edited("epochs: 3", "seed: 3"), 5, ["exactly one of `epochs` and `steps`"]),
    "momentum of AdamW": (BASE + "optim:\n  momentum: 0.9\n", 7, ["momentum is SGD's"]),
    "betas of SGD": (BASE + "optim:\n  kind: sgd\n  betas: [0.9, 0.999]\n", 7, ["betas and eps are AdamW's"]),
    "milestones of a line": (BASE + "optim:\n  milestones: [1]\n", 7, ["milestones and factor need schedule=steps"]),
    "factor of a line": (BASE + "optim:\n  factor: 0.5\n", 7, ["milestones and factor need schedule=steps"]),
    "steps without milestones": (BASE + "optim:\n  schedule: steps\n", 7, ["`steps` needs milestones"]),
    "milestones that fall": (BASE + "optim:\n  schedule: steps\n  milestones: [2, 1]\n", 7, ["milestones must rise"]),
    "milestones of two kinds": (BASE + "optim:\n  schedule: steps\n  milestones: [0.5, 2]\n", 7, ["fractions below 1, or"]),
    "a milestone beyond the run": (
        BASE + "optim:\n  schedule: steps\n  milestones: [1, 3]\n",
        1,
        ["optim.milestones: 3 lies beyond the run of 3 epochs"],
    ),
    "after comments": (BASE + "# comment\n\nstudent_: 1\n", 9, ["unknown key `student_`", "did you mean `student`?"]),
    "field of another kind": (
        edited("dual_encoder", "vilt\n  visual: end_to_end"),
        5,
        ["unknown key `student.visual`", "only a student of kind vlbert has it"],
    ),
    "field of another objective": (
        BASE + "objective:\n  kind: labels\n  soft_labels: true\n",
        9,
        ["unknown key `objective.soft_labels`", "only an objective of kind dide or pretrain has it"],
    ),
    "size of another kind": (
        edited("dual_encoder", "uniter\n  sizes:\n    patch: 16\nregions:\n  path: x"),
        6,
        ["unknown key `student.sizes.patch`", "valid for this kind: layers, width, heads, feedforward"],
    ),
    "sizes that do not fit": (
        edited("dual_encoder", "vilt\n  sizes:\n    width: 10\n    heads: 3"),
        5,
        ["student.sizes: width 10 is not a multiple of heads 3"],
    ),
    "dide without a teacher": (BASE + "objective:\n  kind: dide\n", 1, ["`dide` needs a `teacher`"]),
    "dide that learns nothing": (DIDE + "  attention: none\n  soft_labels: false\n", 9, ["nothing to learn"]),
    "head of nothing": (edited("dual_encoder", "vilt\n  keep_head: true"), 1, ["keep_head needs student.init"]),
    "a list": ("- data\n- train\n", 1, ["a table of sections"]),
    "a word": ("hello\n", 1, ["a table of sections"]),
    "tab": (BASE + "\tseed: 1\n", 7, ["not valid YAML"]),
    "unclosed bracket": (BASE + "optim:\n  betas: [0.9,\n", 9, ["not valid YAML"]),
    "two documents": (BASE + "---\ndata: 1\n", 7, ["not valid YAML", "another document"]),
    "alias": ("a: &a [x]\nb: *a\n", 2, ["aliases", "write the value out"]),
    "merge key": (BASE + "<<: {name: x}\n", 7, ["unknown key `<<`"]),
    "tag": (BASE + "name: !!python/object/apply:os.getcwd []\n", 7, ["tags", "not allowed"]),
    "short tag": (BASE + "name: !thing x\n", 7, ["tags (!thing)"]),
    "nested too deeply": (BASE + "name: " + "[" * 25 + "]" * 25 + "\n", 7, ["nested too deeply"]),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_is_one_message_with_its_line(refusal, case):
    text, line, parts = FAULTS[case]
    error = refusal(text)
    assert error.where == f"r.yaml:{line}"
    assert "\n" not in str(error) and str(error).startswith(f"r.yaml:{line}: ")
    for part in parts:
        assert part in str(error)


@pytest.mark.parametrize(
    "text, part",
    [
        pytest.param("", "`data` is missing"),
        pytest.param("# nothing\n", "`data` is missing"),
        pytest.param(BASE + "name: false\n", "`name` is False"),
        pytest.param(BASE + "name: 0\n", "`name` is 0"),
        pytest.param(BASE + "optim:\n  lr: e5\n", "valid number"),
        pytest.param(BASE + "optim:\n  lr: 1e999\n", "`optim.lr`"),
        pytest.param(BASE + "  seed: " + "1" * 5000 + "\n", "`train.seed`"),
        pytest.param(BASE + "  validate_every: often\n", "`train.validate_every` is 'often'"),
    ],
    ids=["empty", "comment", "name false", "name zero", "exponent", "infinite", "long number", "either of two types"],
)
def test_more_faults_are_told_in_one_line(refusal, text, part):
    first = str(refusal(text)).splitlines()[0]
    assert re.match(r"r\.yaml:\d+: ", first) and part in first and "constrained" not in str(refusal(text))


def test_a_word_like_an_exponent_is_text(load):
    assert load(BASE + "name: e5\n").name == "e5"


def test_not_text_and_too_large(refusal):
    assert "UTF-8 at byte 9" in refusal(b"data:\n # \xff\n").message
    assert refusal(BASE + "#" * (1 << 20)).message == "is larger than 1 MiB"
    assert "not valid YAML" in refusal(BASE + "name: \x00\n").message


def test_all_faults_in_one_pass(refusal):
    text = "data:\n  path: 7\nstudent:\n  kind: vilt\n  drop: 1\n  keep_head: 1\n"
    text += "train:\n  epochs: x\n  seed: 1\n  seed: 2\nextra: 1\n"
    lines = str(refusal(text)).splitlines()
    assert lines[-1] == "6 problems in r.yaml, nothing was written"
    assert sorted(int(line.split(":")[1]) for line in lines[:-1]) == [2, 5, 6, 8, 10, 11]


def test_many_faults_are_counted(refusal):
    text = BASE + "".join(f"unknown{number}: 1\n" for number in range(30))
    lines = str(refusal(text)).splitlines()
    assert len(lines) == 22 and lines[20] == "... and 10 more" and lines[21].startswith("30 problems")


def test_an_alias_bomb_is_refused_at_its_first_alias(refusal):
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for previous, name in zip("abcdefgh", "bcdefghi", strict=True):
        bomb += f"{name}: &{name} [{', '.join(['*' + previous] * 9)}]\n"
    assert refusal(bomb).where == "r.yaml:2"


@pytest.mark.parametrize("opening", ["- ", "{a: ", "[\n"])
def test_deep_nesting_is_refused(refusal, opening):
    """Deeper than the interpreter's own recursion limit, which is left as it was."""
    limit = sys.getrecursionlimit()
    error = refusal(BASE + "name:\n " + opening * 3000 + "\n")
    assert error.where.startswith("r.yaml") and sys.getrecursionlimit() == limit


def test_deep_nesting_is_refused_before_the_rest_is_read(load, monkeypatch):
    """Counts what the scanner takes in, so that the test itself is quick and needs no clock."""
    taken = 0
    original = yaml.SafeLoader.fetch_more_tokens

    def counting(self):
        nonlocal taken
        taken += 1
        if taken > 3000:  # the scanner looks 1024 characters ahead for a key
            raise AssertionError("read on after the limit")
        return original(self)

    monkeypatch.setattr(yaml.SafeLoader, "fetch_more_tokens", counting)
    with pytest.raises(InputError, match="nested too deeply"):
        load(BASE + "name: " + "[" * 100_000)


# Scalars as YAML 1.2's core schema has them.


@pytest.mark.parametrize(
    "written, value",
    [
        ("1e-5", 1e-5),
        ("1E-5", 1e-5),
        ("1.5e-5", 1.5e-5),
        ("5.e-4", 5e-4),
        (".5", 0.5),
        ("2", 2.0),
        ("+0.1", 0.1),
        ("3e-04", 3e-4),
    ],
)
def test_numbers(load, written, value):
    found = load(BASE + f"optim:\n  lr: {written}\n").optim.lr
    assert found == value and isinstance(found, float)


@pytest.mark.parametrize(
    "written, value",
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("010", "010"),
        ("1:30", "1:30"),
        ("0x1F", "0x1F"),
        ("1_000", "1_000"),
        ("2020-01-01", "2020-01-01"),
        ('"1e-5"', "1e-5"),
        ("'3'", "3"),
        ('"true"', "true"),
        (".inf", ".inf"),
        ("1.2.3", "1.2.3"),
        ("=", "="),
        ("é ü", "é ü"),
        ("|\n  two\n  lines", "two\nlines\n"),
    ],
)
def test_text_stays_text(load, written, value):
    assert load(BASE + f"description: {written}\n").description == value


@pytest.mark.parametrize(
    "written, value",
    [
        ("true", True),
        ("True", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
    ],
)
def test_constants(load, written, value):
    assert load(edited("path: artifacts/data/toy", f"path: d\n  memory: {written}")).data.memory is value


def test_a_byte_order_mark_and_windows_lines_are_read(load):
    assert load(b"\xef\xbb\xbf" + BASE.replace("\n", "\r\n").encode()).train.epochs == 3


# Overrides.


def test_overrides_win_and_are_typed(load):
    recipe = load(
        DIDE,
        "train.epochs=5",
        "optim.lr=1e-3",
        "objective.soft_labels=false",
        "data.types=[a, b]",
        "student.init=runs/x",
        "train.batch.pairs=7",
        "objective.attention=uni",
        "optim.betas=[0.9, 0.999]",
        "name=mine",
        "data.limit=",
        "student.sizes={layers: 2, width: 8, heads: 2}",
    )
    assert recipe.train.epochs == 5 and type(recipe.train.epochs) is int
    assert recipe.optim.lr == 1e-3 and recipe.objective.soft_labels is False and recipe.data.types == ["a", "b"]
    assert recipe.student.init == "runs/x" and recipe.train.batch.pairs == 7 and recipe.objective.attention == "uni"
    assert recipe.optim.betas == [0.9, 0.999] and recipe.name == "mine" and recipe.data.limit is None
    assert recipe.student.sizes.layers == 2 and recipe.student.sizes.patch == 32


def test_the_last_override_wins_and_a_value_may_hold_an_equals_sign(load):
    recipe = load(BASE, "train.seed=1", "train.seed=2", "data.path=a=b")
    assert recipe.train.seed == 2 and recipe.data.path == "a=b"


def test_vlberts_optimiser_reads_back_the_same(load):
    recipe = load(
        BASE,
        "optim.kind=sgd",
        "optim.momentum=0.9",
        "optim.lr_scale=per_sample",
        "optim.schedule=steps",
        "optim.milestones=[1, 2]",
        "optim.factor=0.5",
        "optim.decay=all",
    )
    assert recipe.optim.milestones == [1, 2] and load(dump_recipe(recipe)) == recipe


def test_null_swaps_epochs_for_steps(load):
    recipe = load(BASE, "train.epochs=null", "train.steps=10")
    assert recipe.train.epochs is None and recipe.train.steps == 10


@pytest.mark.parametrize(
    "override, parts",
    [
        ("train.epochs", ["not of the form key=value", "train.batch.pairs=64"]),
        ("=3", ["not of the form key=value"]),
        ("train..epochs=3", ["not of the form key=value"]),
        ("train.epoch=3", ["unknown key `train.epoch`", "did you mean `train.epochs`?"]),
        ("train.epochs=x", ["`train.epochs` is 'x'"]),
        ("train.epochs=1.5", ["`train.epochs` is 1.5"]),
        ("train.epochs=[1", ["not valid YAML"]),
        ("train.epochs=*a", ["aliases"]),
        ("train.epochs=!!int 3", ["tags"]),
    ],
)
def test_a_bad_override_is_named(refusal, override, parts):
    error = refusal(BASE, override)
    assert "\n" not in str(error)
    assert error.where == f"override {override!r}"
    for part in parts:
        assert part in str(error)


@pytest.mark.parametrize("override", ["train={epochs: x}", "data.path.x=1", "tran.epochs=3", "data={path: x, path: y}"])
def test_a_fault_below_an_override_is_blamed_on_the_override(refusal, override):
    assert repr(override) in refusal(BASE, override).where


def test_faults_of_file_and_overrides_come_together(refusal):
    text = str(refusal(edited("epochs", "epoch"), "optim.lr=fast", "nonsense"))
    assert "r.yaml:6: unknown key `train.epoch`" in text
    assert "override 'optim.lr=fast': `optim.lr` is 'fast'" in text and "override 'nonsense': is not of the form" in text


# Writing, hashing, naming.


def test_a_written_recipe_reads_back_the_same(load):
    recipe = load(
        DIDE,
        "optim.lr=1e-5",
        "optim.eps=1e-12",
        "description='no: [yes] # é'",
        "data.types=['010', 'no', '1:30', '']",
        "train.batch.accumulate=4",
        "student.init='~'",
        "optim.clip=1.0",
    )
    text = dump_recipe(recipe)
    again = load(text)
    assert again == recipe and dump_recipe(again) == text
    assert again.optim.lr == 1e-5 and again.data.types == ["010", "no", "1:30", ""]


def test_text_like_a_number_reads_back_the_same(load):
    recipe = load(BASE, "description='1e5'")
    assert load(dump_recipe(recipe)) == recipe


def test_the_hash_leaves_out_seed_name_and_description_only(load):
    plain = recipe_hash(load(BASE))
    for same in ("train.seed=7", "name=other", "description=text", "train.epochs=3"):
        assert recipe_hash(load(BASE, same)) == plain, same
    others = ["train.epochs=4", "optim.lr=1e-3", "data.path=other", "student.dropout=0.0", "train.log_every=11"]
    hashes = {recipe_hash(load(BASE, other)) for other in others}
    assert len(hashes) == len(others) and plain not in hashes


def test_variant_names(load):
    recipe = load(BASE)
    digits = recipe_hash(recipe)[:8]
    assert variant_name(recipe, [], None) == f"default-{digits}"
    assert variant_name(recipe, ["train.seed=3", "name=x"], None) == f"default-{digits}"
    assert variant_name(recipe, ["optim.lr=1e-3", "objective.attention=uni"], None) == f"lr-1e-3-attention-uni-{digits}"
    assert variant_name(recipe, ["student.init=runs/a b/../c"], None).endswith(f"c-{digits}")
    assert variant_name(recipe, ["optim.lr=1e-3"], "my_run.2") == "my_run.2"
    long = variant_name(recipe, [f"data.path={'x' * 200}"], None)
    assert len(long) < 60 and "/" not in long
    one, two = ("student.init=a/model", "student.init=a_model")  # one slug, two runs
    assert variant_name(load(BASE, one), [one], None) != variant_name(load(BASE, two), [two], None)


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "with space", "a\n"])
def test_a_run_name_is_a_plain_folder_name(load, name):
    with pytest.raises(InputError, match="plain folder name"):
        variant_name(load(BASE), [], name)


# Finding.


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    folder = tmp_path / "shipped"
    folder.mkdir()
    for name in ("quickstart_dide", "nlvr2_dide", "vqa_labels"):
        (folder / f"{name}.yaml").write_text(BASE)
    monkeypatch.setattr("vldistill.recipe.load.RECIPES", folder)
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_recipe_is_found_by_path_or_shipped_name(shipped, tmp_path):
    own = tmp_path / "quickstart_dide.yaml"
    assert [path.stem for path in shipped_recipes()] == ["nlvr2_dide", "quickstart_dide", "vqa_labels"]
    for name in ("quickstart_dide", "quickstart_dide.yaml", "recipes/quickstart_dide.yaml", "recipes/quickstart_dide"):
        assert find_recipe(name) == shipped / "quickstart_dide.yaml"
    own.write_text(BASE)
    assert find_recipe("quickstart_dide.yaml").resolve() == own  # the user's own file comes first
    assert load_recipe("vqa_labels").name == "vqa_labels"


@pytest.mark.parametrize(
    "name, hint",
    [
        ("quickstart_did", "did you mean recipes/quickstart_dide.yaml?"),
        ("vqa_label.yaml", "did you mean recipes/vqa_labels.yaml?"),
        ("zzz", "vldistill recipe ls"),
        ("elsewhere/quickstart_dide.yaml", "did you mean recipes/quickstart_dide.yaml?"),
    ],
)
def test_a_recipe_that_is_not_there(shipped, name, hint):
    with pytest.raises(InputError, match="no such recipe") as caught:
        find_recipe(name)
    assert caught.value.where == name and hint in caught.value.hint


def test_copying_never_overwrites(shipped, tmp_path):
    (tmp_path / "mine").mkdir()
    assert copy_recipe("nlvr2_dide", tmp_path / "mine") == tmp_path / "mine" / "nlvr2_dide.yaml"
    assert (tmp_path / "mine" / "nlvr2_dide.yaml").read_text() == BASE
    assert copy_recipe("nlvr2_dide", tmp_path / "other.yaml").read_text() == BASE
    for target in (tmp_path / "mine", tmp_path / "other.yaml"):
        with pytest.raises(InputError, match="already exists"):
            copy_recipe("vqa_labels" if target.is_file() else "nlvr2_dide", target)
    assert (tmp_path / "other.yaml").read_text() == BASE


def test_a_kind_that_is_overridden_says_how_to_leave_the_other_ones_fields_out():
    with pytest.raises(InputError) as caught:
        load_recipe("quickstart_dide", ["objective.kind=labels"])
    assert "`objective={kind: labels}` leaves the recipe's other fields of it out" in str(caught.value)
    assert load_recipe("quickstart_dide", ["objective={kind: labels}"]).objective.kind == "labels"


def test_every_key_of_both_objectives_is_listed():
    keys = {".".join(key) for key in all_keys()}
    assert {
        "data.path",
        "train.batch.pairs",
        "objective.attention",
        "objective.kind",
        "student.sizes.heads",
        "teacher.model",
    } <= keys


def test_a_run_of_before_the_families_had_sections_is_read(load, tmp_path):
    """It has the fields of all kinds, as its resolved recipe was written then; beside a manifest they mean nothing."""
    others = """\
  clip: {model: null, weights: null, frozen: false, batch_statistics: true}
  pixels: {model: resnet50, weights: null, sample: 0}
  visual: regions
  image_network: {weights: null, blocks: [3, 4, 23, 3], width: 64, short_side: 600, long_side: 1200, object_loss: 1.0}
  sizes: {layers: 2, width: 8, heads: 2, feedforward: 16, patch: 32, image_size: 384}
"""
    for kind, own in (("uniter", []), ("vlbert", ["visual", "image_network"]), ("clip_dual", ["clip"]), ("dual_encoder", [])):
        text = edited("dual_encoder", f"{kind}\n  dropout: 0.0\n{others}") + "regions: {path: artifacts/regions}\n"
        with pytest.raises(InputError, match="unknown key"):
            load(text)
        Path("manifest.json").write_text("{}")
        student = load(text).student
        Path("manifest.json").unlink()
        assert student.kind == kind and student.sizes.layers == 2
        assert set(student.model_dump()) == {"kind", "init", "sizes", "dropout", "keep_head", *own}


def test_every_field_has_a_meaning_and_stands_above_its_value(command):
    entries = reference()
    assert {tuple(entry.name.split(".")) for entry in entries} == set(all_keys())
    assert [entry.name for entry in entries if not entry.meaning] == []
    for path in shipped_recipes():
        recipe = load_recipe(str(path))
        text = explained(recipe)
        assert yaml.safe_load(text) == yaml.safe_load(dump_recipe(recipe)) == recipe.model_dump()
        assert max(map(len, text.splitlines())) <= 130
    told = command("recipe", "fields", "student.sizes").out
    assert "student.sizes.image_size [vilt, dual_encoder, vision_encoder]: whole number over 0; default 384" in told
    assert "    Side of a patch, in pixels.\n" in told
    assert "student.kind: vlbert; must be given\n    VL-BERT, over the regions" in command("recipe", "fields", "student").out
    assert command("recipe", "fields", "student.size").code == 2
    shown = command("recipe", "show", "quickstart_dide", "--explain").out
    assert "# AdamW's.\n  betas:\n" in shown and shown.count("#") > 80
