"""`vldistill prepare`: a command for each data set of the table, the toy world, and region features."""

from __future__ import annotations

import typer
from typer.core import TyperGroup

from vldistill.commands.options import KnowsOthers
from vldistill.commands.prepare.regions import compute, import_
from vldistill.commands.prepare.source import source_command
from vldistill.commands.prepare.toy import toy
from vldistill.data.sources.rows import nearest
from vldistill.data.sources.table import SOURCES, source_of
from vldistill.errors import InputError

REGIONS = "region features: UNITER's LMDB or npz, bottom-up TSV, OSCAR's .pt or .tsv, VL-BERT's JSON; or those of a ResNet-101"
TOY = "nothing: writes a procedural world of coloured shapes in these layouts, and reads it"


class DataSets(TyperGroup):
    """Whose commands are data sets: `SNLI_VE` is snli-ve, too."""

    def resolve_command(self, ctx, args):
        name = args[0].replace("_", "-").lower()
        if name not in self.commands:
            raise InputError(f"no dataset {args[0]!r}", hint=nearest(name, self.commands))
        return super().resolve_command(ctx, [name, *args[1:]])


class RegionsGroup(TyperGroup):
    """Which takes `prepare regions --raw` and `--data`, as they were once written, for `import` and `compute`."""

    def parse_args(self, ctx, args):
        given = {word.partition("=")[0] for word in args} & {"--raw", "--data"}
        if args and args[0].startswith("--") and given:
            args = ["compute" if given == {"--data"} else "import", *args]
        return super().parse_args(ctx, args)


def list_datasets() -> None:
    """List the data sets, and the files that each is read from."""
    from vldistill.terminal import Table, show

    table = Table("dataset", "what it reads from --raw", box=None, pad_edge=False)
    for name in SOURCES:
        table.add_row(name.replace("_", "-"), source_of(name).layout)
    table.add_row("toy", TOY)
    table.add_row("regions", REGIONS)
    show(table)


regions_app = typer.Typer(
    cls=RegionsGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Import region features, or compute them.",
    epilog="Example: vldistill prepare regions import --raw features --out artifacts/regions/coco",
)
for _name, _way, _example in (("import", import_, "--raw features"), ("compute", compute, "--data artifacts/data/vcr")):
    regions_app.command(_name, cls=KnowsOthers, epilog=f"Example: vldistill prepare regions {_name} {_example}")(_way)

prepare_app = typer.Typer(
    cls=DataSets,
    no_args_is_help=True,
    rich_markup_mode=None,
    subcommand_metavar="DATASET [OPTIONS]",
    help="Turn a data set's official files into a data artifact.",
    epilog="Example: vldistill prepare vqa --raw ~/vqa2",
)
for _name in SOURCES:
    _source, _word = source_of(_name), _name.replace("_", "-")
    prepare_app.command(
        _word,
        cls=KnowsOthers,
        help=f"{_source.about}. --raw holds {_source.layout}.",
        short_help=f"{_source.about}.",
        epilog=f"Example: vldistill prepare {_word} --raw ~/{_word}",
    )(source_command(_name))
prepare_app.command("toy", cls=KnowsOthers, epilog="Example: vldistill prepare toy --datasets vqa,nlvr2")(toy)
prepare_app.add_typer(regions_app, name="regions")
prepare_app.command("list", cls=KnowsOthers, epilog="Example: vldistill prepare list")(list_datasets)
