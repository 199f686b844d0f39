"""Forward pass and train step beside a PyTorch twin: python -m benchmarks.step [--width 8,16].

Each contender runs in a process of its own, with two threads and float32; the parent asks them in
turn for three calls, of which the first is not counted: caches are cold after the others' turns. A
train step is forward pass, loss, gradients and Adam; data and augmentation are left to
benchmarks.pipeline. Peak memory is the process's (resident) after its first call. isanet_jax's
process is set up as its programs are; PyTorch's is as Python starts it.
"""

import argparse
import os
import re
import subprocess
import sys
import time

import numpy as np

from isanet_jax import machine

CONTENDERS = (
    "isanet_jax", "isanet_jax, oneDNN", "isanet_jax, native 3D", "PyTorch",
    "PyTorch, channels last",
)  # fmt: skip
COUNTED = 2  # calls a turn


def example(size):
    """An image (1, D, H, W, 2) and its label."""
    generator = np.random.default_rng(0)
    image = generator.normal(size=(1, size, size, size, 2)).astype(np.float32)
    return image, (generator.random((1, size, size, size)) < 0.1).astype(np.float32)


def jax_functions(size, width, convolution, options):
    """(step, forward): called without arguments, they run once; forward returns the logits."""
    import jax
    import optax

    from isanet_jax.losses import segmentation_loss
    from isanet_jax.network import systems
    from isanet_jax.network.config import ModelConfig
    from isanet_jax.settings.table import Loss, Optimizer
    from isanet_jax.training.optimizer import make_optimizer
    from isanet_jax.training.step import init_state

    config = ModelConfig(size=size, width=width, convolution=convolution)
    optimizer = make_optimizer(Optimizer(), lambda step: 3e-4)
    graphdef, state = init_state(config, optimizer, 0)
    image, label = map(jax.numpy.asarray, example(size))
    holder = [state]

    def loss(params, image, label):
        output = systems.apply(graphdef, params, image)
        return segmentation_loss(output, label[..., None], Loss())[0]

    def update(state, image, label):
        value, grads = jax.value_and_grad(loss)(state.params, image, label)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return state._replace(params=params, opt_state=opt_state), value

    def logits(params, image):
        return systems.apply(graphdef, params, image).logits

    compiled = jax.jit(update, donate_argnums=0, compiler_options=options)
    apply = jax.jit(logits, compiler_options=options)

    def step():
        holder[0], value = compiled(holder[0], image, label)
        return float(value)

    return step, lambda: np.asarray(apply(holder[0].params, image))


def torch_functions(size, width, layout):
    """The same of the twin, started from the same parameters."""
    import jax
    import torch

    from benchmarks import twin
    from isanet_jax.network import systems
    from isanet_jax.network.config import ModelConfig

    torch.set_num_threads(2)
    _, params = systems.create(ModelConfig(size=size, width=width), jax.random.key(0))
    network = twin.Twin(width)
    twin.load(network, params)
    network = network.to(memory_format=layout)
    optimizer = torch.optim.Adam(network.parameters(), 3e-4, betas=(0.9, 0.99))
    image, label = (torch.tensor(a) for a in example(size))
    image = image.permute(0, 4, 1, 2, 3).contiguous(memory_format=layout)

    def step():
        optimizer.zero_grad()
        value = twin.loss(network(image), label[:, None])
        value.backward()
        optimizer.step()
        return float(value)

    def forward():
        with torch.no_grad():
            return network(image).numpy()

    return step, forward


def functions(contender, size, width):
    """(step, forward) of a contender."""
    if contender.startswith("isanet_jax"):
        from isanet_jax.distributed.mesh import ONEDNN  # imports JAX

        form = "native" if "native" in contender else "auto"
        options = {ONEDNN: True} if "DNN" in contender else {}
        return jax_functions(size, width, form, options)
    import torch

    layout = torch.channels_last_3d if "last" in contender else torch.contiguous_format
    return torch_functions(size, width, layout)


def work(contender, size, width):
    """A contender's process: a word in, a line of figures out."""
    if contender.startswith("isanet_jax"):
        machine.keep_memory()
    step, forward = functions(contender, size, width)
    logits = forward()
    print("logits", float(np.abs(logits).mean()), float(np.abs(logits).max()), flush=True)
    for word in sys.stdin:
        kind = word.strip()
        if kind == "reset":
            if contender.startswith("isanet_jax"):
                machine.return_memory()
            with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
                file.write("5")  # forgets the peak of resident memory
            print("done", flush=True)
            continue
        function = step if kind == "step" else forward
        function()
        started = time.perf_counter()
        for _ in range(COUNTED):
            function()
        took = (time.perf_counter() - started) / COUNTED
        with open("/proc/self/status", encoding="ascii") as file:
            peak = int(re.search(r"VmHWM:\s+(\d+) kB", file.read())[1])
        print(took, peak / 2**20, flush=True)


class Worker:
    """A contender's process."""

    def __init__(self, contender, size, width, python):
        arguments = ["--worker", contender, "--size", str(size), "--width", str(width)]
        self.process = subprocess.Popen(
            [python, "-m", "benchmarks.step", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "2"},
        )  # fmt: skip
        self.logits = [float(word) for word in self.process.stdout.readline().split()[1:]]

    def ask(self, word):
        """The figures of one answer."""
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().split()
        return [] if answer == ["done"] else [float(a) for a in answer]


def compare(contenders, size, width, *, kinds, rounds, python):
    """Prints the rows of one width."""
    workers = {
        name: Worker(name, size, width, sys.executable if "PyTorch" in name else python)
        for name in contenders
    }
    for name, worker in workers.items():
        np.testing.assert_allclose(
            worker.logits, workers["PyTorch"].logits, rtol=1e-3, err_msg=f"{name}: not the same"
        )
    seconds, peaks = {}, {}
    for kind in kinds:
        for worker in workers.values():
            worker.ask(kind)  # compiles
            worker.ask("reset")
        for _ in range(rounds):
            for name, worker in workers.items():
                took, peak = worker.ask(kind)
                seconds.setdefault((name, kind), []).append(took)
                peaks[name, kind] = peak
    for worker in workers.values():
        worker.process.stdin.close()
        worker.process.wait()
    for kind in kinds:
        medians = {name: np.median(seconds[name, kind]) for name in contenders}
        torch_best = min(v for name, v in medians.items() if name.startswith("PyTorch"))
        native = medians.get("isanet_jax, native 3D", np.nan)
        for name in contenders:
            print(
                f"| {width} | {kind} | {name} | {medians[name]:.3f} "
                f"| {medians[name] / torch_best:.2f} "
                f"| {medians[name] / native:.3f} "
                f"| {peaks[name, kind]:.2f} |",
                flush=True,
            )


def main():
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--width", default="8,16", help="channels of level 1, comma-separated")
    parser.add_argument("--kinds", default="forward,step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without-native", action="store_true", help="it takes ten times as long")
    parser.add_argument("--onednn", action="store_true", help="ours by it, too (JAX 0.12 or newer)")
    parser.add_argument("--python", default=sys.executable, help="ours, where it has another JAX")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker, args.size, int(args.width))
        return
    print(
        f"| f, {args.size}^3 | | | s | of PyTorch's faster layout | of native 3D | peak GiB |\n"
        "|---|---|---|---|---|---|---|"
    )
    left_out = ["native"] * args.without_native + ["oneDNN"] * (not args.onednn)
    contenders = [n for n in CONTENDERS if not any(word in n for word in left_out)]
    how = {"kinds": args.kinds.split(","), "rounds": args.rounds, "python": args.python}
    for width in args.width.split(","):
        compare(contenders, args.size, int(width), **how)


if __name__ == "__main__":
    main()
