"""Time a training step of the network `question` (forward, loss, backward, optimiser): ours and Keras/TensorFlow.

    python benchmarks/training_step.py --keras-python PATH [--batch N] [--runs N] [--threads N] [--json FILE]

PATH is a Python with TensorFlow; without it only ours is timed. Both have the same layers, batch, loss (a Gaussian with
learned scale plus the KL) and optimiser (AdamW). TensorFlow runs with its defaults on this processor and with
TF_ENABLE_ONEDNN_OPTS=0, which is its default on processors that it does not optimise for. Each contender is a process
of its own; runs are interleaved and times are medians. --device cuda times ours on a GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

from race import race

ROOT = Path(__file__).resolve().parents[1]
WINDOW = (32, 256, 256)
CHANNELS = (16, 32, 64, 32, 16)
DENSE, LATENTS = 256, 32
BAR = 0.5
PLAIN = "no oneDNN"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keras-python", type=Path, help="a Python with TensorFlow")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of ours")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        contend(args)
        return
    names = [name for name in CONTENDERS if args.keras_python or not name.startswith("Keras")]
    report(timed(names, args), args)


def timed(names: list[str], args) -> dict[str, list[dict]]:
    """What each contender said of its runs, without the first two, which compile and allocate."""
    given = ["--batch", args.batch, "--threads", args.threads, "--device", args.device]
    quiet = {"OMP_WAIT_POLICY": "PASSIVE", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore"}
    plain = quiet | {"TF_ENABLE_ONEDNN_OPTS": "0"}
    pythons = {name: args.keras_python if name.startswith("Keras") else sys.executable for name in names}
    measured = race(
        {name: [python, __file__, "--contender", name, *given] for name, python in pythons.items()},
        args.runs + 2,
        environments={name: plain if name.endswith(PLAIN) else quiet for name in names},
    )
    return {name: runs[2:] for name, runs in measured.items()}


def contend(args) -> None:
    out, sys.stdout = sys.stdout, sys.stderr
    step, parameters = CONTENDERS[args.contender](args)
    for _ in sys.stdin:
        start, processor = time.perf_counter(), time.process_time()
        loss = step()
        took = {"seconds": time.perf_counter() - start, "processor_s": time.process_time() - processor}
        print(json.dumps({**took, "loss": loss, "parameters": parameters}), file=out, flush=True)


def ours(args):
    """The step of `models.training.train` without its windows: Fabric, the losses and the optimiser are in it."""
    sys.path.insert(0, str(ROOT))
    import torch
    from lightning.fabric import Fabric

    from models.networks.registry import build_vae
    from models.training.objective import VaeForward, make_loss_inputs, objective
    from models.training.settings import TrainingSettings
    from models.training.train import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    settings = TrainingSettings("question", steps=1, batch=args.batch, free_bits_nats=0.0)
    vae = build_vae("question", {}).train()
    fabric = Fabric(accelerator=args.device, devices=1, precision="32-true")
    if args.device == "cuda":
        vae = vae.to(memory_format=torch.channels_last_3d)
    optimiser = torch.optim.AdamW(vae.parameters(), lr=1e-4, weight_decay=1e-4)
    network, optimiser = fabric.setup(VaeForward(vae), optimiser)
    windows = torch.rand(args.batch, 1, *WINDOW, device=fabric.device)

    def step() -> float:
        epsilon = torch.randn(args.batch, LATENTS, device=fabric.device)
        rows = make_loss_inputs(network(windows, epsilon), windows, settings)
        parts = objective(rows, settings, voxels=windows[0].numel(), kl_weight=1.0, dataset=100)
        optimiser.zero_grad(set_to_none=True)
        fabric.backward(parts.loss)
        optimiser.step()
        return parts.loss.item()

    return step, sum(weight.numel() for weight in vae.parameters())


def keras(args):
    import math

    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
    tf.config.threading.set_inter_op_parallelism_threads(args.threads)
    layers = tf.keras.layers
    tf.keras.utils.set_random_seed(0)
    image = x = tf.keras.Input((*WINDOW, 1))
    for channels in CHANNELS:
        x = layers.MaxPooling3D(2)(layers.Conv3D(channels, 2, padding="same", activation="relu")(x))
    grid = x.shape[1:]
    x = layers.Dense(DENSE, activation="relu")(layers.Flatten()(x))
    encoder = tf.keras.Model(image, [layers.Dense(LATENTS)(x), layers.Dense(LATENTS)(x)])
    z = y = tf.keras.Input((LATENTS,))
    y = layers.Dense(math.prod(grid))(layers.Dense(DENSE, activation="relu")(y))
    y = layers.Reshape(grid)(y)
    for channels in (*CHANNELS[-2::-1], 1):
        y = layers.Conv3DTranspose(channels, 2, strides=2)(layers.ReLU()(y))
    decoder = tf.keras.Model(z, y)
    weights = encoder.trainable_weights + decoder.trainable_weights
    optimiser = tf.keras.optimizers.AdamW(1e-4, weight_decay=1e-4)
    optimiser.build(weights)
    windows = tf.random.uniform((args.batch, *WINDOW, 1))
    voxels = float(math.prod(WINDOW))

    @tf.function
    def train_step():
        with tf.GradientTape() as tape:
            mu, logvar = encoder(windows, training=True)
            drawn = mu + tf.exp(0.5 * logvar) * tf.random.normal((args.batch, LATENTS))
            made = decoder(drawn, training=True)
            error = tf.reduce_mean(tf.square(made - windows))
            kl = tf.reduce_mean(tf.reduce_sum(0.5 * (mu**2 + tf.exp(logvar) - logvar - 1), 1))
            loss = 0.5 * (tf.math.log(error) + 1 + math.log(2 * math.pi)) + kl / voxels
        optimiser.apply_gradients(zip(tape.gradient(loss, weights), weights))  # noqa: B905
        return loss

    return lambda: float(train_step()), int(sum(math.prod(weight.shape) for weight in weights))


CONTENDERS = {
    "Keras, float32": keras,
    f"Keras, float32, {PLAIN}": keras,
    "ours, float32": ours,
}


def report(measured: dict[str, list[dict]], args) -> None:
    counts = {runs[0]["parameters"] for runs in measured.values()}
    if len(counts) != 1:
        sys.exit(f"the networks are not the same: {counts} parameters")
    medians = {name: statistics.median(run["seconds"] for run in runs) for name, runs in measured.items()}
    processor = {name: statistics.median(run["processor_s"] for run in runs) for name, runs in measured.items()}
    print(f"one step, batch {args.batch}, {WINDOW}, {counts.pop():,} parameters, {args.runs} runs, median")
    for name, seconds in medians.items():
        loss = measured[name][-1]["loss"]
        print(f"  {name:26}  {seconds:7.3f} s  processor {processor[name]:7.3f} s  loss {loss:.4f}")
    ratios = {}
    for kind in ("float32", f"float32, {PLAIN}"):
        if f"Keras, {kind}" in medians:
            ratios[kind] = medians["ours, float32"] / medians[f"Keras, {kind}"]
            print(f"  ours / Keras, {kind}: {ratios[kind]:.2f} (bar {BAR})")
    if args.json:
        told = {"batch": args.batch, "window": WINDOW, "threads": args.threads, "device": args.device}
        told |= {"seconds": medians, "processor_s": processor, "ratio": ratios, "runs": measured}
        args.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
