"""The card of a model: what it is, what it has learnt from, how well it did, and its limits."""

import html
import re
from collections import Counter
from collections.abc import Mapping

from isanet_jax.settings import read_stored
from isanet_jax.streams import printable

_SAID_BY_DEFAULT = {
    "intended_use": "Research. It is no medical device, and its masks need a physician's eyes.",
    "limits": "Scans unlike those below were not tried; isanet predict warns of them.",
    "licence": "Not stated by those who trained it.",
    "citation": "Huang et al. 2022, doi 10.1016/j.cmpb.2022.107129, for ISA-Net.",
}


def _of_metrics(content):
    """A line of a metrics.json; its text is a file's, and is shown as text."""
    summary, runs = content["summary"], content.get("runs", [])
    chosen = ", ".join(sorted({plain(run["selection"]) for run in runs})) or "not known"
    dsc, f1 = summary["dsc"], summary["lesion_f1"]
    return (
        f"- {int(summary['n_cases'])} cases, {plain(content.get('grid', 'their own grid'))}: mean "
        f"DSC {float(dsc['mean']):.4f}, median {float(dsc['median']):.4f}, mean lesion F1 "
        f"{float(f1['mean']):.3f}; checkpoint chosen on: {chosen}."
    )


def plain(text) -> str:
    """A file's text as Markdown shows it, whatever signs it has."""
    shown = html.escape(" ".join(printable(str(text)).split()), quote=False)
    return re.sub(r"([\\`*_{}\[\]#|!])", r"\\\1", shown)


def _grid(preparation):
    size, spacing_mm = preparation["size"], preparation["spacing_mm"]
    return {
        "resize": f"the field of view in {size} voxels",
        "crop": f"{size} voxels of {spacing_mm} mm",
        "whole": f"the body in voxels of {spacing_mm} mm",
    }[preparation["fit"]]


def model_card(networks: list[dict], rules: Mapping, metrics, about: Mapping[str, str]) -> str:
    """Markdown.

    Args:
        networks: descriptions, see `isanet_jax.runs.bundle.Bundle`.
        rules: class -> how its probability becomes a mask.
        metrics: contents of metrics.json, of the runs that were evaluated.
        about: `intended_use`, `limits`, `licence`, `citation`, where something else is to be said.
    """
    said = _SAID_BY_DEFAULT | {name: text for name, text in about.items() if text}
    first = networks[0]
    configs = [read_stored(network["config"]) for network in networks]
    preparation = first["preparation"]
    systems = Counter(config.model.name for config in configs)
    lines = [
        "# Model card",
        "",
        f"Networks: {', '.join(f'{count} × {name}' for name, count in systems.items())}. Classes: "
        f"{', '.join(configs[0].data.classes)}. Images: "
        f"{', '.join(f'{name} ({kind})' for name, kind in preparation['images'].items())}.",
        "",
        "## Intended use",
        "",
        said["intended_use"],
        "",
        "## Data",
        "",
        f"Prepared as `{preparation['fit']}`: {_grid(preparation)}.",
        "",
        "| network | trained on | chosen on | fold | seed | best epoch | validation DSC |",
        "|---" * 7 + "|",
    ]
    for number, (network, config) in enumerate(zip(networks, configs, strict=True)):
        counts, progress = network["counts"], network["progress"]
        dsc = progress["best_dsc"]
        lines.append(
            f"| {number} | {counts['train']} cases | {counts['selection']} cases | {config.fold} "
            f"| {config.seed} | {progress['best_epoch']} | {'–' if dsc is None else f'{dsc:.4f}'} |"
        )
    lines += ["", "## Cases", ""]
    lines += _cases(networks)
    lines += ["", "## Metrics", ""]
    lines += [_of_metrics(content) for content in metrics]
    if not metrics:
        lines.append("None: the runs were not evaluated when this was made.")
    lines += ["", "## Rules", ""]
    lines += [f"- {plain(name)}: {plain(rule)}" for name, rule in rules.items()] or [
        "One half for every class."
    ]
    for heading, name in (("Limits", "limits"), ("Licence", "licence"), ("Citation", "citation")):
        lines += ["", f"## {heading}", "", said[name]]
    lines += ["", "## Weights", ""]
    lines += [f"- {network['weights']}: SHA-256 {network['sha256']}" for network in networks]
    return "\n".join(lines) + "\n"


def _cases(networks):
    """By what the cases are known that must not be scored: a table, of which no ID is part."""
    roles = {
        "train": "trained on",
        "selection": "chosen on",
        "before_train": "trained on before",
        "before_selection": "chosen on before",
    }
    of_case = {}
    for number, network in enumerate(networks):
        for role, words in roles.items():
            for identity in network.get("identities", {}).get(role, []):
                name = identity.get("content") or identity.get("file", "–")
                of_case.setdefault(name, {}).setdefault(words, set()).add(number)
    if not of_case:
        return ["Not known: the networks are of a version that did not keep them."]
    lines = [
        "What these networks must not be scored on; *before*: by what a network was started from. "
        "`isanet eval` leaves it out.",
        "",
        "| first image (SHA-256) | networks |",
        "|---|---|",
    ]
    for name, found in sorted(of_case.items()):
        text = "; ".join(f"{words}: {_numbers(which)}" for words, which in found.items())
        lines.append(f"| {name} | {text} |")
    for number, network in enumerate(networks):
        if overlap := network.get("overlap"):
            counts = ", ".join(f"{count} of its {role} cases" for role, count in overlap.items())
            lines += ["", f"Network {number} was started from one that had seen {counts}."]
    return lines


def _numbers(which):
    return ", ".join(map(str, sorted(which)))
