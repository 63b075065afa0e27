"""`vldistill compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vldistill.commands.output import last_line
from vldistill.errors import InputError
from vldistill.terminal import Table, say, show

if TYPE_CHECKING:
    from vldistill.data.artifact import DataArtifact
    from vldistill.data.records import Record
    from vldistill.evaluation.results import Scored

_LEAST_P = 1e-4
_CELLS = {
    "count": "records",
    "changed": "changed",
    "both_right": "both right",
    "only_a": "only A",
    "only_b": "only B",
    "both_wrong": "both wrong",
}
_SCORES = {"score_a": "A %", "score_b": "B %", "difference": "B - A"}


def compare(
    run_a: Annotated[str, typer.Argument(metavar="RUN_A", help="Run, or an ensemble's folder.", show_default=False)],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help="Run to compare it with.", show_default=False)],
    split: Annotated[str, typer.Option("--split", metavar="NAME", help="Split that both were evaluated on.")] = "val",
    examples: Annotated[int, typer.Option("--examples", min=0, metavar="N", help="Changed answers to show.")] = 8,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="A .json file, instead of one in RUN_A/eval/SPLIT.")
    ] = None,
) -> None:
    """Say which answers changed, with a paired test."""
    from vldistill.artifacts import json_text, write_files
    from vldistill.evaluation.results import HEADINGS, changed_ids, check_same, comparison, read_scored
    from vldistill.places import check_file

    if out is not None and out.suffix != ".json":
        raise InputError("is no .json file, which is what compare writes", where=str(out), hint="choose another name")
    if out is not None and out.exists():
        raise InputError("already exists", where=str(out), hint="choose another name")
    a, b = read_scored(run_a, split), read_scored(run_b, split)
    check_same(a, b)
    target = out or a.folder / f"against-{_slug(b)}.json"
    check_file(target)
    result = comparison(a, b)
    changed = _examples(a, b, changed_ids(a, b, examples))
    say(f"A: {run_a}\nB: {run_b}\n{a.metrics['split']} of {a.metrics.get('data_folder', a.metrics['data'][:12])}")
    show(_table(result))
    tested = {HEADINGS[part]: row for part, row in result["parts"].items()} if "parts" in result else {"B - A": result}
    for name, row in tested.items():
        if "interval" in row:
            say(f"{name}: {verdict(row)}")
    if changed:
        show(_examples_table(changed))
    write_files({target: json_text({**result, "examples": changed})})
    say(f"wrote {target}\n")
    head = {name: result[name] for name in ("a", "b", "split")}
    parts = {part: _short(row) for part, row in result.get("parts", {}).items()}
    last_line(head | _short(result) | parts | {"out": str(target)})


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """What the last line says of a part."""
    figures = {name: round(row[name], 6) for name in ("count", "changed", *_SCORES) if name in row}
    return figures | ({"p": float(f"{row['p']:.3g}")} if "p" in row else {})


def verdict(result: dict[str, Any]) -> str:
    """The difference in a sentence."""
    low, high = (100 * end for end in result["interval"])
    text = f"{100 * result['difference']:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}"
    if "p" in result:
        p = result["p"]
        text += f", McNemar p {'<' if p < _LEAST_P else '='} {max(p, _LEAST_P):.4f}"
    return text


def _slug(side: Scored) -> str:
    """The end of a run's path, as one name: dide-first-seed0."""
    return "-".join(side.folder.resolve().parent.parent.parts[-3:])


def _table(result: dict[str, Any]) -> Table:
    """Without a frame, since it has ten columns."""
    from vldistill.evaluation.results import HEADINGS, MOST_TYPES, percent

    cells = [name for name in _CELLS if name in result]
    scores = [name for name in _SCORES if name in result]
    table = Table("", box=None, pad_edge=False, collapse_padding=True, padding=(0, 1))
    table.figures(*(_CELLS[name] for name in cells), *(_SCORES[name] for name in scores))

    def add(name: str, row: dict[str, Any], style: str = "") -> None:
        texts = [f"{row[cell]:,}" for cell in cells]
        texts += [f"{100 * row[score]:+.2f}" if score == "difference" else percent(row[score]) for score in scores]
        table.add_row(name, *texts, style=style)

    def add_types(row: dict[str, Any]) -> None:
        types = row.get("by_type", {})
        for name, inner in list(types.items())[:MOST_TYPES] if len(types) > 1 else ():
            add(f"  {name}", inner)
        if len(types) > MOST_TYPES:
            table.add_row(f"  {len(types) - MOST_TYPES} more")

    add("all", result, "bold")
    add_types(result)
    for part, row in result.get("parts", {}).items():
        add(HEADINGS[part], row, "bold")
        add_types(row)
    return table


# --- examples ----------------------------------------------------------------------------------------------------------------


def _examples(a: Scored, b: Scored, ids: list[str]) -> list[dict[str, Any]]:
    data, records = _texts(a, ids)
    return [_example(a, b, name, data, records.get(name)) for name in ids]


def _texts(side: Scored, ids: list[str]) -> tuple[DataArtifact | None, dict[str, Record]]:
    """The records of these ids; none where the data artifact is gone or has been made anew, since the answers stand without."""
    from vldistill.data.artifact import open_data

    try:
        data = open_data(Path(side.metrics["data_folder"]))
        if data.fingerprint != side.metrics["data"]:
            return None, {}
        wanted = set(ids)
        return data, {record.id: record for record in data.records(side.metrics["split"]) if record.id in wanted}
    except (InputError, KeyError):
        return None, {}


def _example(a: Scored, b: Scored, name: str, data: DataArtifact | None, record: Record | None) -> dict[str, Any]:
    from vldistill.evaluation.results import question_of, right_answer, shown_answer

    example: dict[str, Any] = {"id": name}
    if record is not None:
        text, right = " ".join(question_of(record)), right_answer(record, data.labels)
        example |= {"images": record.images, "text": text, "right": right}
    for key, side in (("a", a), ("b", b)):
        row = side.rows[name]
        example[key] = {"answer": shown_answer(row, record), "confidence": row["confidence"], "score": row.get("score")}
    return example


def _examples_table(examples: list[dict[str, Any]]) -> Table:
    known = any("text" in one for one in examples)
    table = Table("id", title="changed answers")
    table.words(*["text", "right"] * known, "A", "B", max_width=60)
    for one in examples:
        columns = [one.get("text", "-"), one.get("right") or "-"] if known else []
        given = [f"{one[side]['answer']} ({one[side]['confidence']:.2f})" for side in ("a", "b")]
        table.add_row(one["id"], *columns, *given)
    return table
