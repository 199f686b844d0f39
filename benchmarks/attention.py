"""What a trained ISA-Net's attention is worth: python -m benchmarks.attention RUN RUN ....

Scores each run's test cases on the case grid, as trained and with the attended values cut out: the
half of every output convolution that sees them is set to zero. A table, a line for each run.
"""

import argparse
import copy
from pathlib import Path

import jax
import numpy as np


def without_attended(params: dict) -> tuple[dict, int]:
    """Parameters with which the attended values count nothing, and at how many sites."""
    params, sites = copy.copy(jax.device_get(params)), 0

    def cut(node):
        nonlocal sites
        node = dict(node)
        if {"query", "key", "value", "output"} <= node.keys():
            kernel = np.array(node["output"]["kernel"])
            kernel[..., : kernel.shape[-2] // 2, :] = 0  # the attended values stand first
            node["output"] = node["output"] | {"kernel": kernel}
            sites += 1
            return node
        return {k: cut(v) if isinstance(v, dict) else v for k, v in node.items()}

    return cut(params), sites


def mean_dsc(predictor, cohort, cases) -> float:
    """Mean DSC on the case grid."""
    from isanet_jax.evaluation.evaluate import NETWORK, score_run

    scores = score_run(predictor, cohort, cases, lambda *_: None, thresholds=False, grids=("case",))
    *_, last = scores.values()
    return float(np.mean([one["dsc"] for one in last["case"][NETWORK].values()]))


def main():
    """Prints the table."""
    from isanet_jax.prediction.predictor import Predictor
    from isanet_jax.training.run import load_cohort

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    args = parser.parse_args()
    print("| run | sites | DSC as trained | attended values cut out | difference |")
    print("|---" * 5 + "|")
    for workdir in args.runs:
        predictor = Predictor([workdir])
        (description,), (member,) = predictor.descriptions, predictor._members
        cohort, cases = load_cohort(description["config"]), description["split"]["test"]
        as_trained = mean_dsc(predictor, cohort, cases)
        params, sites = without_attended(member.params)
        placed = jax.tree.map(lambda x, old: jax.device_put(x, old.sharding), params, member.params)
        predictor._members = [member._replace(params=placed)]
        cut = mean_dsc(predictor, cohort, cases)
        print(
            f"| {workdir} | {sites} | {as_trained:.4f} | {cut:.4f} | {cut - as_trained:+.4f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
