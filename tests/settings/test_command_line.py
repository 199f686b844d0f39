import pytest

from isanet_jax.errors import ConfigError
from isanet_jax.network import systems
from isanet_jax.settings import read
from isanet_jax.settings.command_line import parse_command_line

BASE = ["train.py", "--config", "hecktor", "--workdir", "w"]


def test_overrides_are_typed_and_reach_the_network():
    config, _ = parse_command_line(
        [*BASE, "--config.fold=3", "--config.model.modalities=('pet',)",
         "--config.model.fusion_weights=(1.0, 2.0)", "--config.model.dtype=bfloat16"]
    )  # fmt: skip
    assert config["fold"] == 3
    made = systems.of_config(read(config))
    assert (made.modalities, made.fusion_weights) == (("pet",), (1.0, 2.0))
    assert (made.dtype, made.shape) == ("bfloat16", (144, 144, 144))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*BASE, "--config.optimiser.b1=0.5"], "optimiser"),
        ([*BASE, "--config.train.epoch=5"], "epoch"),
        ([*BASE, "--config.train.epochs=many"], "many"),
        ([*BASE, "--workdri=w"], "workdri"),
        ([*BASE, "train.epochs=5"], "--config.name=value"),
        (["t", "--workdir", "w"], "give --config FILE"),
        (["t", "--config", "configs/absent.py", "--workdir", "w"], "absent.py"),
    ],
)
def test_typos_are_refused_by_name(arguments, message):
    with pytest.raises(ConfigError, match=message):
        parse_command_line(arguments)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", "'nosuch"], '^--config is "\'nosuch", and there is no such file; name one'),
        (["--config=nosuch"], "config of this package: autopet, .*hecktor.*, and those of own/"),
        (["--config", "sts:foo"], "^--config: this config has no variants"),
        (["--config", "sts", "--'nosuch=3"], "Unknown command line flag ''nosuch'$"),
        (["--config"], "^--config is '', and there is no such file"),
    ],
)
def test_what_is_named_wrongly_is_shown_as_it_was_given(words, message):
    with pytest.raises(ConfigError, match=message) as error:
        parse_command_line(["train.py", *words])
    assert "\n" not in str(error.value)
