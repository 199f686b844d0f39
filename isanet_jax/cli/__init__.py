"""The command line: `isanet COMMAND`, a file per command."""

import importlib
import sys
from pathlib import Path

import isanet_jax
from isanet_jax import arguments, runtime

# Command -> (its module here, one line).
COMMANDS = {
    "prepare": ("prepare", "prepares raw PET/CT scans for training; also check and convert"),
    "train": ("train", "trains a network, or resumes a run that was stopped"),
    "eval": ("evaluate", "scores a trained run, or anyone's masks"),
    "predict": ("predict", "predicts tumour masks, as NIfTI or DICOM"),
    "lesions": ("lesions", "measures any mask on any PET: MTV, TLG, SUV, reference regions"),
    "example": ("example", "fetches one public patient, to try a model on"),
    "models": ("models", "lists the trained models that come with the package"),
    "tune": ("tune", "chooses threshold, smallest lesion and so on, on a cross-validation"),
    "bundle": ("bundle", "makes one file of a trained run, or of an ensemble, to share"),
    "export": ("export", "writes trained networks for programs without JAX: ONNX, StableHLO"),
    "node": ("node", "takes studies as a DICOM node, and sends their segmentations back"),
    "label": ("label", "a server for annotation, by MONAI Label's protocol"),
    "next": ("next", "ranks the scans without a mask: which to annotate first"),
    "review": ("review", "takes corrected masks back, and says what changed"),
    "compare": ("compare", "trains and compares methods over folds"),
    "doctor": ("doctor", "says what this machine has, and tries it"),
    "completion": ("completion", "prints what lets a shell complete this command"),
    "plan": ("plan", "says what a config needs of devices that need not be attached"),
}


def start(name: str) -> None:
    """Runs a command on the arguments in `sys.argv`."""
    module, _ = COMMANDS[name]
    runtime.run_program(importlib.import_module(f"{__name__}.{module}").main)


def main() -> None:
    """The command `isanet`."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print("usage: isanet COMMAND [--quiet] [...]; isanet COMMAND --help\n")
        print("\n".join(f"  {name:10} {text}" for name, (_, text) in COMMANDS.items()))
        print("\n--quiet leaves out all but warnings on standard error and errors")
    elif name == "--version":
        print(isanet_jax.__version__)
    elif name in COMMANDS:
        by_module = Path(sys.argv[0]).name == "__main__.py"
        sys.argv = [f"{arguments.AS_MODULE if by_module else 'isanet'} {name}", *sys.argv[2:]]
        start(name)
    else:
        print(f"error: no command {name!r}; choose from {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
