"""What XLA's compiler makes of the train step for GPUs that are not attached.

    python -m benchmarks.compiled systems   # every system at 144^3 and its own recipe's patch
    python -m benchmarks.compiled cards     # ISA-Net for three cards, in both layouts

A minute or two for each row; rows are printed as they come.
"""

import argparse
import math
import os

os.environ["JAX_PLATFORMS"] = "cpu"  # the compiler needs no GPU, and must not take one

from isanet_jax import get_config
from isanet_jax.network.systems import SYSTEMS
from isanet_jax.planning import operations as reading
from isanet_jax.planning.plan import Plan

GIB = 2**30
DTYPES = ("float32", "bfloat16")
OWN = ("an2021", "iantsen2020", "xie2020", "xie2021")


def main():
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("systems", "cards"))
    parser.add_argument("--only", nargs="+", help="systems, or cards")
    arguments = parser.parse_args()
    {"systems": systems, "cards": cards}[arguments.what](arguments.only)


def systems(only):
    """Each system: its largest windows against its kernels, and the layouts of its calls."""
    print("| system | input | dtype | calls | largest window | channels last | peak GiB | TFLOP |")
    print("|---|---|---|---|---|---|---|---|")
    for name in only or SYSTEMS:
        configs = {"whole": get_config("hecktor").to_dict()}
        configs["whole"]["model"]["name"] = name
        if name in OWN:
            configs["own"] = get_config(f"own/{name}").to_dict()
        for which, config in configs.items():
            for dtype in DTYPES:
                config["model"]["dtype"] = dtype
                patch = config["data"]["patch"]
                size = f"{patch or config['data']['size']}^3" + (f" ({which})" if patch else "")
                try:
                    cost, text = compiled(config, "h100")
                except Exception as error:  # the table says so
                    print(f"| {name} | {size} | {dtype} | {type(error).__name__}: {error} |")
                    continue
                calls = reading.convolutions(text)
                window = max((call.window for call in calls), key=math.prod, default=())
                last = sum(call.layout.startswith("b012f") for call in calls)
                print(
                    f"| {name} | {size} | {dtype} | {len(calls)} | {'x'.join(map(str, window))} | "
                    f"{last} | {cost.peak_bytes / GIB:.2f} | {cost.flops / 1e12:.2f} |",
                    flush=True,
                )


def cards(only):
    """Transposes, copies, bytes and memory of ISA-Net's step at 144^3."""
    print(
        "| card | dtype | remat | channels last | transposes | GiB | copies | GiB | "
        "all: calls | GiB | peak GiB |\n|---|---|---|---|---|---|---|---|---|---|---|"
    )
    for card in only or ("rtx3090", "a100-80", "h100"):
        for dtype in DTYPES:
            for is_last in (False, True):
                config = get_config("hecktor").to_dict()
                config["model"] |= {"dtype": dtype, "remat": "blocks"}
                config["channels_last"] = is_last
                cost, _ = compiled(config, card)
                none = reading.Operations(0, 0, 0.0)
                moved = [cost.operations.get(kind, none) for kind in ("transpose", "copy")]
                every = cost.operations.values()
                counts = [f"{each.calls} | {each.bytes / GIB:.2f}" for each in moved]
                total = f"{sum(e.calls for e in every)} | {sum(e.bytes for e in every) / GIB:.1f}"
                print(
                    f"| {card} | {dtype} | blocks | {is_last} | {' | '.join(counts)} | {total} | "
                    f"{cost.peak_bytes / GIB:.2f} |",
                    flush=True,
                )


def compiled(config, card):
    """(cost, the compiled text) of a step of batch 1."""
    plan = Plan(config, card)
    return plan.train_step(1), plan.text


if __name__ == "__main__":
    main()
