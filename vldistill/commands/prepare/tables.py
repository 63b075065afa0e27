"""What `vldistill prepare` prints: the counts of an artifact, what its variants hold, and what was done."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from rich.text import Text

from vldistill.data.lowshot import PAPER_SHARES, VCR_SHARES
from vldistill.data.shift import PUBLISHED_QUESTIONS
from vldistill.data.writing import MOST_FREQUENT
from vldistill.terminal import Table, say, show
from vldistill.versions import differences, tell

ANEW = "to do so, pass --overwrite"


def render_counts(manifest: dict[str, Any]) -> Table:
    """The counts of a data artifact as a table, a column for each split; long lists are cut to their ten largest."""
    counts = manifest["counts"]
    title = manifest["dataset"].replace("_", "-")
    if manifest["task"] != manifest["dataset"]:
        title += f" · {manifest['task']}"
    if manifest["labels"]:
        title += f" · {len(manifest['labels']):,} labels"
    if manifest["vocabulary"] is not None:
        title += f" · {manifest['vocabulary']:,} answers"
    table = _titled(title + (" · partial" if manifest["partial"] else ""))
    table.words("")
    table.figures(*counts)
    table.add_row("records", *(f"{part['records']:,}" for part in counts.values()), style="bold")
    table.add_row("images", *(f"{part['images']:,}" for part in counts.values()))
    if manifest["unanswerable"] and any(manifest["unanswerable"].values()):
        table.add_row("no known answer", *(_share(manifest["unanswerable"][split], counts[split]) for split in counts))
    for heading, key in (("by type", "by_type"), ("by label", "by_label"), ("most frequent answers", "top_answers")):
        _add_section(table, heading, key, counts)
    if manifest["images"] != "decoded":
        table.caption = "images: headers only" if manifest["images"] == "headers" else "images: unchecked"
    return table


def _titled(title: str, **style: Any) -> Table:
    """A table that is no narrower than its title, which would be folded."""
    return Table(title=title, min_width=len(title), **style)


def _two_columns(title: str) -> Table:
    """What, and how much of it."""
    table = _titled(title, show_header=False)
    table.words("", no_wrap=True)
    table.figures("")
    return table


def _add_section(table: Table, heading: str, key: str, counts: dict[str, Any]) -> None:
    total: Counter[str] = Counter()
    for part in counts.values():
        total.update(part.get(key, {}))
    if not total:
        return
    table.add_section()
    table.add_row(Text(heading, style="dim italic"))
    # Labels keep the order of their indices while they fit.
    names = list(total) if len(total) <= MOST_FREQUENT else [name for name, _ in total.most_common(MOST_FREQUENT)]
    for name in names:
        texts = [_share(part.get(key, {}).get(name, 0), part) for part in counts.values()]
        table.add_row(f"  {name}" if name else "  (empty)", *texts)
    if len(total) > len(names):
        rest = [sum(count for name, count in part[key].items() if name not in names) for part in counts.values()]
        cells = [_share(count, part) for count, part in zip(rest, counts.values(), strict=True)]
        table.add_row(f"  {len(total) - len(names):,} others", *cells)


def _share(count: int, part: dict[str, Any]) -> str:
    """A count and its share of the records; without one where several tags of a record are counted together."""
    if not count:
        return "-"
    return f"{count:,} {100 * count / part['records']:5.1f} %" if count <= part["records"] else f"{count:,}        "


def render_lowshot(manifest: dict[str, Any], names: list[str]) -> list[Table]:
    """One table for each size drawn: each type's share of the training records (for VCR beside the published one), what every
    type got with each seed, and the draw's share of the training set beside the paper's."""
    entries = {name: manifest["variants"][name] for name in names if manifest["variants"][name]["kind"] == "lowshot"}
    return [
        _lowshot_table(manifest, number, [entry for entry in entries.values() if entry["per_type"] == number])
        for number in sorted({entry["per_type"] for entry in entries.values()})
    ]


def _lowshot_table(manifest: dict[str, Any], number: int, drawn: list[dict[str, Any]]) -> Table:
    unit, types = drawn[0]["unit"], drawn[0]["by_type"]
    published = VCR_SHARES if manifest["task"] == "vcr" else {}
    total = sum(count["of_records"] for count in types.values())
    table = _titled(f"low-shot, {number:,} {unit} of each type", show_edge=False)  # four draws fit 80 columns
    table.words("type", no_wrap=True)
    table.figures(unit, "share", "paper", *(f"seed {entry['seed']}" for entry in drawn))
    for name, count in types.items():
        shares = f"{100 * count['of_records'] / max(total, 1):.1f} %", f"{published[name]} %" if name in published else "-"
        got = [entry["by_type"][name]["got"] for entry in drawn]
        cells = [Text(f"{one:,}", style="" if one == number else "red") for one in got]
        table.add_row(name, f"{count['available']:,}", *shares, *cells)
    table.add_section()
    table.add_row("records", f"{total:,}", "", "", *(f"{entry['records']:,}" for entry in drawn))
    paper = f"{PAPER_SHARES[number]:g} %" if number in PAPER_SHARES else "-"
    table.add_row("share of all", "", "", paper, *(f"{100 * entry['records'] / max(total, 1):.1f} %" for entry in drawn))
    return table


def short_types(manifest: dict[str, Any], names: list[str]) -> list[str]:
    """A line for the draws that could not be filled, those that lack the same together."""
    lacking: dict[str, list[str]] = {}
    for name in names:
        entry = manifest["variants"][name]
        short = {kind: count for kind, count in entry.get("by_type", {}).items() if count["got"] < count["wanted"]}
        if short:
            message = ", ".join(f"{kind} ({count['got']:,})" for kind, count in short.items())
            lacking.setdefault(f"fewer than {entry['per_type']:,} {entry['unit']} of some types: {message}", []).append(name)
    return [f"{', '.join(names_of)}: {message}" for message, names_of in lacking.items()]


def render_rewritten(manifest: dict[str, Any], names: list[str]) -> list[Table]:
    """What the domain shift and the statements did, a table for each."""
    tables = []
    for name in names:
        entry = manifest["variants"][name]
        if entry["kind"] == "lowshot":
            continue
        table = _two_columns(f"{name}: {entry['records']:,} records")
        questions = entry["told"].get("questions")
        for what, count in sorted(entry["told"].items()):
            share = f"{100 * count / questions:7.1f} %" if questions and what.startswith("template") else ""
            table.add_row(what, f"{count:,}{share}")
        if manifest["task"] == "vcr" and entry["kind"] == "shift":
            counts = ", ".join(f"{count:,} {rule}" for rule, count in PUBLISHED_QUESTIONS.items())
            table.caption = f"published, of val: {counts}"
        tables.append(table)
    return tables


def render_regions(manifest: dict[str, Any]) -> Table:
    """What a region store holds."""
    table = _two_columns(f"regions from {manifest['features']}" + (" · partial" if manifest["partial"] else ""))
    rows = {
        "images": f"{manifest['images']:,}",
        "boxes": f"{manifest['boxes']:,}",
        "boxes an image": f"{manifest['boxes'] / manifest['images']:.1f}",
        "features a box": f"{manifest['width']:,}",
        "confidences": "yes" if manifest["confidence"] else "no",
        "detector's classes": "no" if manifest["classes"] is None else f"{manifest['classes']:,}",
        "whole-image feature": "yes" if manifest["image_features"] else "no",
        "size": f"{manifest['bytes'] / 2**20:,.1f} MiB",
    }
    if left := manifest.get("left_out"):
        rows["left out, being broken"] = f"{left['images']:,}"
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def tell_made(manifest: dict[str, Any], place: Path, dry_run: bool) -> None:
    """What became of a data artifact."""
    added, packed = manifest.get("added", []), manifest.get("packed", False)
    if manifest.get("advice"):
        say(f"note: {manifest['advice']}")
    if moved := manifest.get("moved_from"):
        say(f"{place} {'would read' if dry_run else 'reads'} its raw files from {manifest['raw_root']} now, no more from {moved}")
    if manifest.get("unchanged"):
        tell(differences(manifest), place, ANEW)
    if manifest.get("unchanged") and not added and not packed:
        say(f"up to date: {place}, made from the same input")
        return
    for note in manifest.get("notes") or []:
        say(f"note: {note}")
    if not manifest.get("unchanged"):
        show(render_counts(manifest))
    variants = manifest.get("variants", {})
    names = [name for name in added if name in variants] if added else list(variants)  # in a dry run there are none yet
    for table in (*render_lowshot(manifest, names), *render_rewritten(manifest, names)):
        show(table)
    for line in short_types(manifest, names):
        say(f"note: {line}")
    if "shards" in manifest and (packed or not manifest.get("unchanged")):
        files, samples, size = (sum(part[key] for part in manifest["shards"].values()) for key in ("files", "samples", "bytes"))
        say(f"packed {samples:,} samples into {files:,} tar(s), {size / 1e6:,.1f} MB")
    which = [", ".join(added) if dry_run else f"{len(added)}"] if added else []
    new = " and ".join([*which, *(["shards"] if packed else [])])
    done = f"{'would add' if dry_run else 'added'} {new} to" if new else "would write" if dry_run else "wrote"
    say(f"{done} {place}\n")
