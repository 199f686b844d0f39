"""The command line of isanet review."""

from pathlib import Path

from isanet_jax.arguments import Parser, command
from isanet_jax.cli.label import add_desk, make_desk
from isanet_jax.errors import DataError, failure_of


def parser() -> Parser:
    """The arguments of isanet review."""
    root = Parser(
        description="Takes masks back that were corrected elsewhere (NIfTI, SEG, RTSTRUCT), says "
        "what changed, keeps them as the next versions, and writes the table to prepare."
    )
    root.add_argument(
        "folder", nargs="?",
        help="of masks, CASE.nii.gz, CASE.seg.dcm or CASE.rtstruct.dcm (default: none come; the "
        "table is of those that are there)",
    )  # fmt: skip
    add_desk(root)
    root.add_argument("--who", default="", help="who corrected them")
    root.add_argument(
        "--before", help="folder of the masks as they were (default: the last version of each)"
    )
    return root


def main(arguments=None) -> None:
    """Runs isanet review."""
    from isanet_jax.annotate.learn import LEAST, write_table
    from isanet_jax.annotate.review import masks_in, review

    args = parser().parse_args(arguments)
    desk, failures = make_desk(args), []
    found = masks_in(args.folder, desk.scans) if args.folder else {}
    if args.folder and not found:
        raise DataError(
            "no masks", file=args.folder, wanted=f"files of the scans' names, as "
            f"{next(iter(desk.scans))}.nii.gz",
        )  # fmt: skip
    for case, path in found.items():
        try:
            saved, changed = review(desk, case, path, who=args.who, before=args.before)
        except Exception as error:
            failures.append(str(failure_of(error, case, Path(args.output) / "errors.log")))
            print(f"error: {failures[-1]}", flush=True)
            continue
        print(
            f"{case}: version {saved.number}; {changed['volume_before_ml']:.2f} -> "
            f"{changed['volume_after_ml']:.2f} ml, DSC {changed['dsc']:.4f}, {changed['added']} "
            f"lesion(s) added, {changed['gone']} gone",
            flush=True,
        )
    if len(desk.labels.cases("final")) >= LEAST or not args.folder:
        table = write_table(desk)
        print(f"next: {command('prepare')} table --source {table} --output CASES")
    if failures:
        raise DataError(f"{len(failures)} of {len(found)} masks were not taken (see above)")
