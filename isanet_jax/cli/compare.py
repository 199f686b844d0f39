"""The command line of isanet compare."""

import json
import os
import sys

from isanet_jax import arguments, streams
from isanet_jax.errors import ConfigError

_USAGE = """Trains every method on every fold, scores it, and writes tables, tests and figures.

usage: {command} --config {config} [--workdir runs/t2] [--jobs N]
                         [--config.NAME=VALUE ...]

--config  a comparison: table1, table2, table3 or fig6, in configs/compare/; after a colon the
          cohort, hecktor or sts, and what differs: table2:sts,smoke is a size for two CPU cores,
          table3:hecktor,own gives each system its own recipe.
--jobs N  cells (a method on a fold with a seed) at a time: on a GPU each (default: all GPUs), or
          on the CPU, which they share (default: 1). Several of these commands, on one machine or
          as a SLURM array, share the cells of one --workdir.
--part I/N  the I-th of N parts of the cells; auto: as SLURM's array or a Kubernetes indexed job
          says. --cluster tcp://HOST:PORT: by a Dask scheduler's workers, a cell each.

--config.order="('isa','unet')" compares these methods; any system that train.py lists can stand
there. --config.external="('nnunet=DIR',)" scores another program's masks among them, which
are DIR/fold0/CASE.nii.gz and so on, on the CT's grid. --config.folds="(0,)" compares on one
fold. --config.base.NAME=VALUE changes a setting of every run, as in
--config.base.data.cases=cases/mine. --config.cpu_minutes=20 trains
every method for as many epochs as fit into so much of the processor's time (user and system).
--print-config shows the settings of every run and ends.
The same command again resumes where it was
stopped, and tries failed cells again; finished cells are not run twice."""


def main():
    """Runs isanet compare."""
    if {"-h", "--help"} & set(sys.argv):
        print(
            _USAGE.format(
                command=arguments.command("compare"),
                config=arguments.config_name("compare/table2:sts"),
            )
        )
        return
    # Here: these import JAX and matplotlib, which --help does not need.
    from isanet_jax.comparison.budget import within_budget
    from isanet_jax.comparison.grid import make_cells, with_external, with_systems
    from isanet_jax.comparison.report import write_comparison
    from isanet_jax.comparison.resources import visible_gpus
    from isanet_jax.comparison.runner import run_cells
    from isanet_jax.parallel import part_of
    from isanet_jax.settings import to_dict
    from isanet_jax.settings.command_line import parse_command_line
    from isanet_jax.training.check import resolved_config

    argv, is_shown = arguments.take_flag(sys.argv, "--print-config")
    argv, jobs = arguments.take_number(argv, "--jobs", 0, "a number of cells to run at a time")
    argv, part = arguments.take_word(argv, "--part")
    argv, cluster = arguments.take_word(argv, "--cluster")
    comparison, workdir = parse_command_line(argv)
    if "methods" not in comparison:
        raise ConfigError(
            "this config is of one run; isanet compare takes one of configs/compare, as in "
            "--config compare/table2:sts"
        )
    comparison = with_external(with_systems(comparison))
    if not is_shown:
        streams.stamp_lines()
        comparison = within_budget(comparison, workdir, jobs=jobs)
    cells = make_cells(comparison, workdir)
    if is_shown:
        shown = {str(cell.folder): to_dict(resolved_config(cell.config)) for cell in cells}
        print(json.dumps(shown, indent=2))
        return
    gpus = visible_gpus(os.environ)
    print(f"on GPU {', '.join(gpus)}" if gpus else "on the CPU", flush=True)
    failures, stopped, elsewhere = run_cells(part_of(cells, part), jobs=jobs, cluster=cluster)
    if stopped:
        print(f"stopped on {stopped}; the same command resumes from here")
        return
    if elsewhere:
        print(
            f"other processes still run {', '.join(elsewhere)}; the last one to end writes the "
            "tables, and so does the same command"
        )
        return
    write_comparison(workdir, comparison, cells, failures)
    if failures:
        raise ConfigError(
            f"{len(failures)} of {len(cells)} cells failed (see above); the tables hold the "
            "others. The same command tries them again"
        )
