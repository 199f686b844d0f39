"""The command line of training."""

import json
import sys

from isanet_jax import arguments, runtime, streams

_USAGE = """Trains a network, or resumes a run that was stopped.

usage: {command} --config {config} [--workdir runs/h0] [--profile STEPS]
                 [--track mlflow|wandb] [--print-config] [--config.NAME=VALUE ...]

Every setting, with its meaning and default, is in configs/hecktor.py; --config.NAME=VALUE changes
one, as in --config.fold=1 --config.data.cases=cases/mine --config.model.width=8.
--config.model.name=help lists the networks. --profile STEPS traces as many steps, from the third
on, for TensorBoard's profiler, with a table of the operations that take longest. --track records
the run in MLflow or Weights & Biases, too, where you have installed one of them. --print-config
shows the settings that the run would have, checked and with the system's own width and levels, and
ends."""


def main():
    """Parses the command line and trains; the imports wait until they are needed."""
    if {"-h", "--help"} & set(sys.argv):
        print(
            _USAGE.format(
                command=arguments.command("train"), config=arguments.config_name("hecktor")
            )
        )
        return
    from isanet_jax.distributed.processes import distributed_session
    from isanet_jax.network.systems import describe_systems
    from isanet_jax.settings import to_dict
    from isanet_jax.settings.command_line import parse_command_line
    from isanet_jax.training.check import resolved_config
    from isanet_jax.training.loop import train

    argv, profiled = arguments.take_number(sys.argv, "--profile", 0, "a number of steps to trace")
    argv, track = arguments.take_word(argv, "--track")
    argv, is_shown = arguments.take_flag(argv, "--print-config")
    config, workdir = parse_command_line(argv)
    if config.get("model", {}).get("name") == "help":
        print(describe_systems())
        return
    if is_shown:
        print(json.dumps(to_dict(resolved_config(config)), indent=2))
        return
    streams.stamp_lines()
    with distributed_session():
        runtime.say_devices()
        train(config, workdir, profiled_steps=profiled, track=track)
