"""An index of images: what it holds, that its answers are those of the pixels, what it refuses, and its page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from programs import draw, with_a_browser

from vldistill.data.artifact import open_data
from vldistill.evaluation.image_index import ImageIndex
from vldistill.models.base.inputs import visual_input
from vldistill.models.build import load_dual_encoder

DIDE = "runs/quickstart_dide/default/seed0"


@pytest.fixture(scope="module")
def runs(toy_world, tmp_path_factory, well, few):
    """A run of retrieval and one that answers about single images, with an index of each."""
    folder = tmp_path_factory.mktemp("index")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(toy_world)
        pretrained = well("pretrain", "-r", "quickstart_dide_pretrain", "--runs", folder / "runs", *few).last["run"]
        answering = well(
            "finetune", "-r", "quickstart_dide", "data.path=artifacts/data/toy-snli_ve", "--runs", folder / "runs", *few
        ).last["run"]
        well("index", "build", pretrained, "artifacts/data/toy-coco", "--out", folder / "captions", "--batch", "7")
        well("index", "build", answering, "artifacts/data/toy-snli_ve", "--out", folder / "answers")
        well("index", "build", DIDE, "artifacts/data/toy-nlvr2", "--out", folder / "pairs")
    return {
        "captions": (pretrained, folder / "captions"),
        "answers": (answering, folder / "answers"),
        "pairs": (DIDE, folder / "pairs"),
    }


@pytest.mark.parametrize("kind, places", [("captions", 1), ("pairs", 2)])
def test_it_holds_what_the_image_tower_says(world, runs, kind, places):
    run, folder = runs[kind]
    index, (model, spec, _) = ImageIndex(folder), load_dual_encoder(run)
    data = open_data(Path(f"artifacts/data/toy-{'coco' if kind == 'captions' else 'nlvr2'}"))
    visual = visual_input(spec, data.images)
    assert (index.places, index.width) == (places, model.width)
    for row in (0, len(index) - 1):
        image = visual.stack([visual.read(index.rows[row]["path"], None)])
        for place in range(places):
            with torch.no_grad():
                expected = model.encode_image(image, place)[0]
            assert torch.allclose(index.of([row])[0, place], expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["captions", "answers", "pairs"])
def test_answers_are_those_of_the_pixels(world, runs, well, tmp_path, kind):
    run, folder = runs[kind]
    written = {}
    for name, options in (("online", ()), ("stored", ("--index", folder))):
        well("evaluate", run, "--split", "val", "--out", tmp_path / name, *options)
        written[name] = [json.loads(line) for line in (tmp_path / name / "predictions.jsonl").read_text().splitlines()]
    for online, stored in zip(written["online"], written["stored"], strict=True):
        assert online.pop("confidence", 0) == pytest.approx(stored.pop("confidence", 0), abs=2e-6)
        assert online == stored


def test_evaluating_from_it_reads_no_pixel(world, runs, well, tmp_path, monkeypatch):
    run, folder = runs["captions"]

    def read(*_):
        raise AssertionError("an image was opened")

    monkeypatch.setattr("vldistill.data.images.ImageFolder.open", read)
    well("evaluate", run, "--split", "val", "--out", tmp_path / "stored", "--index", folder)


def test_a_query_is_ranked_by_the_cosine(world, runs, well):
    run, folder = runs["captions"]
    model, spec, tokenizer = load_dual_encoder(run)
    from vldistill.data.batch import TextBatch
    from vldistill.data.sequences import join_parts

    coded = join_parts(tokenizer, (("a", "red", "circle"),), spec.max_length)
    ids = torch.tensor([coded.ids])
    with torch.no_grad():
        text = model.encode_text(TextBatch(ids, torch.ones_like(ids, dtype=torch.bool)))[0].numpy()
    images = ImageIndex(folder).of(slice(None))[:, 0].numpy()
    cosine = images @ text / np.linalg.norm(images, axis=1) / np.linalg.norm(text)
    told = well("index", "query", folder, "a red circle", "--top", "3")
    assert told.last["score"] == pytest.approx(float(cosine.max()), abs=1e-4)
    assert told.last["best"] == ImageIndex(folder).rows[int(cosine.argmax())]["path"] and told.last["images"] == len(images)


def test_many_texts_become_lines(world, runs, well, tmp_path):
    (tmp_path / "texts.txt").write_text("a red circle\n\ntwo blue squares\n", encoding="utf-8")
    well("index", "query", runs["captions"][1], "--texts", tmp_path / "texts.txt", "--top", "2", "--out", tmp_path / "a.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == ["a red circle", "two blue squares"]
    assert all(len(row["images"]) == 2 and row["images"][0]["score"] >= row["images"][1]["score"] for row in rows)


def test_a_model_with_answers_ranks_by_their_probability(world, runs, well, tmp_path):
    run, folder = runs["answers"]
    text = "there are at least two red objects"
    best = well("index", "query", folder, text, "--answer", "entailment", "--top", "1").last
    image = Path("artifacts/raw/toy/snli-ve", best["best"])
    told = well("predict", run, "--image", next(Path("artifacts/raw/toy").rglob(image.name)), "--text", text).out
    shown = next(line for line in told.splitlines() if line.endswith("entailment"))
    assert float(shown.split("%")[0]) / 100 == pytest.approx(best["score"], abs=1e-4)


@pytest.mark.parametrize("texts", [1, 2])
def test_the_page_stands_alone_and_escapes(world, runs, well, tmp_path, texts):
    (tmp_path / "texts.txt").write_text("\n".join(["<b>a circle</b>", "blue"][:texts]), encoding="utf-8")
    page = tmp_path / "found.html"
    well("index", "query", runs["captions"][1], "--texts", tmp_path / "texts.txt", "--top", "3", "--out", page)
    html = page.read_text()
    assert html.count('<img src="data:image/jpeg;base64,') == 3 * texts and html.count("<section>") == texts
    assert "<b>a circle</b>" not in html and "&lt;b&gt;a circle" in html
    assert "http" not in html.replace('http-equiv="Content-Security-Policy"', "") and "<script" not in html


@with_a_browser
def test_a_browser_draws_the_page(world, runs, well, tmp_path):
    page = tmp_path / "found.html"
    well("index", "query", runs["captions"][1], "a red circle", "--out", page)
    assert len(draw(page, tmp_path, 400).getcolors(1 << 24)) > 20


def test_images_of_a_folder_are_found_and_judged_first(world, runs, well, command, tmp_path):
    photos = tmp_path / "photos" / "below"
    photos.mkdir(parents=True)
    for number, path in enumerate(sorted(Path("artifacts/raw/toy/coco").rglob("*.jpg"))[:3]):
        shutil.copy(path, photos / f"{number}.JPG")
    (photos / "notes.txt").write_text("no image")
    told = well("index", "build", runs["captions"][0], tmp_path / "photos", "--out", tmp_path / "i").last
    assert told["images"] == 3
    assert [row["path"] for row in ImageIndex(tmp_path / "i").rows] == [f"below/{number}.JPG" for number in range(3)]
    (photos / "broken.png").write_bytes(b"not an image")
    result = command("index", "build", runs["captions"][0], tmp_path / "photos", "--out", tmp_path / "j")
    assert result.code == 2 and "broken.png" in result.err and not (tmp_path / "j").exists()


def test_bench_reads_from_it(world, runs, well, tmp_path):
    run, folder = runs["answers"]
    out = tmp_path / "bench.json"
    well("bench", run, "--index", folder, "--rows", "speed", "--batch", "4", "--length", "8", "--rounds", "1", "--out", out)
    assert [row["variant"] for row in json.loads(out.read_text())["rows"]][-1] == "dual, images from the index"


def test_what_does_not_belong_together_is_refused(world, runs, command, tmp_path):
    captions, answers = runs["captions"], runs["answers"]
    refusals = [
        (("index", "build", "runs/quickstart_teacher", "artifacts/data/toy-coco"), "has no vectors of images alone"),
        (("index", "build", captions[0], tmp_path / "nothing"), "no such folder"),
        (("index", "build", captions[0], "artifacts/data/toy-coco", "--out", captions[1]), "already exists"),
        (("index", "query", captions[1]), "--texts FILE is needed"),
        (("index", "query", captions[1], "a", "--answer", "yes"), "leave out --answer"),
        (("index", "query", captions[1], "  "), "has no words"),
        (("index", "query", captions[1], "a", "--out", tmp_path / "a.txt"), "neither a page nor JSONL"),
        (("index", "query", captions[1], "a", "--run", answers[0]), "was built with another model"),
        (("index", "query", answers[1], "a"), "give --answer, one of: contradiction"),
        (("index", "query", runs["pairs"][1], "a"), "reads 2 images a record"),
        (("evaluate", answers[0], "--index", captions[1]), "was built with another model"),
        (("evaluate", answers[0], "--index", tmp_path / "x"), "no such artifact"),
        (("evaluate", "runs/quickstart_teacher", "--index", runs["pairs"][1]), "reads pixels beside each text"),
        (("bench", "--index", answers[1]), "--index needs the RUN"),
    ]
    for words, expected in refusals:
        result = command(*words)
        assert result.code == 2 and expected in result.err and len(result.err.splitlines()) == 1, words


def test_an_image_without_vectors_is_named(world, runs, command, well, tmp_path):
    run, _ = runs["answers"]
    well("index", "build", run, "artifacts/data/toy-snli_ve", "--limit", "2", "--out", tmp_path / "few")
    result = command("evaluate", run, "--index", tmp_path / "few")
    assert result.code == 2 and "has no vectors of image" in result.err


@pytest.mark.parametrize("damage", ["cut", "flipped", "listed", "gone"])
def test_damage_is_found(world, runs, command, tmp_path, damage):
    shutil.copytree(runs["captions"][1], tmp_path / "i")
    vectors, images = tmp_path / "i" / "shard-0000.h5", tmp_path / "i" / "images.jsonl"
    content = bytearray(vectors.read_bytes())
    if damage == "cut":
        vectors.write_bytes(content[:-5])
    elif damage == "flipped":
        content[-9] ^= 1
        vectors.write_bytes(content)
    elif damage == "listed":
        images.write_text(images.read_text().replace("train2014", "trains014", 1))
    else:
        vectors.unlink()
    result = command("index", "query", tmp_path / "i", "a", "--verify")
    assert result.code == 2 and len(result.err.splitlines()) == 1 and "index build" in result.err
