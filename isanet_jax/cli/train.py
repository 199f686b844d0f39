"""The command line of training."""

import sys

from isanet_jax import runtime

_USAGE = """Trains a network, or goes on with a run that was stopped.

usage: {command} --config {config} [--workdir runs/h0] [--profile STEPS]
                 [--config.NAME=VALUE ...]

Every setting, with its meaning and default, is in configs/hecktor.py; --config.NAME=VALUE changes
one, as in --config.fold=1 --config.data.cases=cases/mine --config.model.width=8.
--config.model.name=help lists the networks. --profile STEPS traces as many steps, from the third
on, for TensorBoard's profiler, with a table of the operations that take longest."""


def main():
    """Parses the command line and trains; the imports wait until they are needed."""
    if {"-h", "--help"} & set(sys.argv):
        print(
            _USAGE.format(command=runtime.command("train"), config=runtime.config_name("hecktor"))
        )
        return
    from isanet_jax.distributed.processes import distributed_session
    from isanet_jax.network.systems import describe_systems
    from isanet_jax.training.config import parse_command_line
    from isanet_jax.training.loop import train

    argv, profiled = runtime.take_number(sys.argv, "--profile", 0, "a number of steps to trace")
    config, workdir = parse_command_line(argv)
    if config.get("model", {}).get("name") == "help":
        print(describe_systems())
        return
    with distributed_session():
        train(config, workdir, profiled_steps=profiled)
