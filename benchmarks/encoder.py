"""Time encoders on a CPU: the network `question` in ONNX Runtime and in TensorFlow, and the shipped bundle.

    python benchmarks/encoder.py [--keras-python PYTHON] [--runs N] [--threads N] [--json FILE]

The input is one float32 window in memory, 32 × 256 × 256 for `question` and its own size for the shipped bundle; the
output is mu and sigma. PYTHON is an interpreter with TensorFlow, which runs the same layers as `tf.function`; without
it TensorFlow is left out. TensorFlow runs twice: with its defaults, which on a CPU with AVX512-VNNI or AMX means
oneDNN, and with TF_ENABLE_ONEDNN_OPTS=0, which is its default on other CPUs. Each contender is a warmed-up process of
its own; runs are interleaved and times are medians. The CPU time of all cores is given too: a busy machine affects it
less.
Bars: `question` takes at most 0.25 of tf.function's time, the shipped encoder at most the time of `question`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from race import race

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
WINDOW = (32, 256, 256)
CHANNELS = (16, 32, 64, 32, 16)
CONTENDERS = {
    "question": "the question's network, ONNX Runtime",
    "keras": "the question's network, tf.function",
    "keras_plain": "the question's network, tf.function without oneDNN",
    "shipped": "the shipped bundle, ONNX Runtime",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keras-python", type=Path, help="interpreter in which TensorFlow is installed")
    parser.add_argument("--runs", type=int, default=21)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        contend(args.contender, args.threads)
        return
    report(timed(args), args)


def timed(args):
    """What each contender is, and its times."""
    keras_python = args.keras_python
    interpreters = {
        "question": sys.executable,
        "keras": keras_python,
        "keras_plain": keras_python,
        "shipped": sys.executable,
    }
    own = [__file__, "--threads", args.threads, "--contender"]
    commands = {name: [python, *own, name] for name, python in interpreters.items() if python is not None}
    said = race(commands, args.runs, greeting=True, quiet=False)
    return {
        name: {
            **facts,
            "seconds": [run[0] for run in runs],
            "cpu_seconds": [run[1] for run in runs],
        }
        for name, (facts, *runs) in said.items()
    }


def contend(name, threads):
    """One contender: a JSON line when it is warm, then for each line that is read a run and [seconds, of all cores]."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    if name == "keras_plain":
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
    run, facts = {"question": question, "keras": keras, "keras_plain": keras, "shipped": shipped}[name](threads)
    for _ in range(3):
        run()
    print(json.dumps(facts), flush=True)
    for _ in sys.stdin:
        start, cpu = time.perf_counter(), time.process_time()
        run()
        print(json.dumps([time.perf_counter() - start, time.process_time() - cpu]), flush=True)


def question(threads):
    import tempfile

    import torch

    from models.bundle.export import encoder_onnx, tap_specs
    from models.bundle.store import save_bundle
    from models.networks.registry import all_parameters, build_vae
    from models.spec import Bundle, Preprocessing

    torch.manual_seed(0)
    parameters = all_parameters("question", {})
    vae = build_vae("question", parameters).eval()
    with tempfile.TemporaryDirectory() as folder:
        described = Bundle(
            path=Path(folder) / "question",
            name="question",
            version="0",
            architecture="question",
            architecture_parameters=parameters,
            preprocessing=Preprocessing("resize", WINDOW, None, (-1000.0, 1000.0)),
            taps=tap_specs(vae, None),
            weights_sha256="",
        )
        weights = {name: tensor.numpy() for name, tensor in vae.state_dict().items()}
        bundle = save_bundle(described, weights=weights, onnx=encoder_onnx(vae), card="", licence="", monai={})
        return encoder_of(bundle, threads)


def shipped(threads):
    from models.bundle.store import find_bundle, load_bundle

    return encoder_of(load_bundle(find_bundle()), threads)


def encoder_of(bundle, threads):
    from models.runtime import OnnxEncoder

    encoder = OnnxEncoder(bundle, threads=threads)
    size = bundle.preprocessing.window_voxels
    window = np.random.default_rng(0).random((1, 1, *size), np.float32)
    facts = {"runtime": encoder.runtime, "window": size, "sha256": bundle.weights_sha256[:12]}
    return lambda: encoder.run(window, ("mu", "sigma")), facts


def keras(threads):
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model = question_in_keras(tf.keras)
    window = tf.constant(np.random.default_rng(0).random((1, *WINDOW, 1), np.float32))

    @tf.function
    def encode(x):
        mu, logvar = model(x, training=False)
        return mu, tf.exp(0.5 * logvar)

    facts = {"runtime": f"tensorflow {tf.__version__} cpu", "window": WINDOW, "parameters": model.count_params()}
    return lambda: [output.numpy() for output in encode(window)], facts


def question_in_keras(keras):
    """The question's encoder, without its branch that leads nowhere; linear heads."""
    layers = keras.layers
    x = image = keras.Input((*WINDOW, 1))
    for channels in CHANNELS:
        x = layers.Conv3D(channels, 2, padding="same", activation="relu")(x)
        x = layers.MaxPooling3D(2)(x)
    x = layers.Dense(256, activation="relu")(layers.Flatten()(x))
    return keras.Model(image, [layers.Dense(32, name="z_mean")(x), layers.Dense(32, name="z_log_var")(x)])


def report(measured, args) -> None:
    medians = {name: statistics.median(found["seconds"]) for name, found in measured.items()}
    cpu = {name: statistics.median(found["cpu_seconds"]) for name, found in measured.items()}
    print(f"{args.threads} threads, {args.runs} interleaved runs, medians (range)\n")
    print("| encoder | window | runtime | ms | range | ms of all cores |\n|---|---|---|---|---|---|")
    for name, found in measured.items():
        size = " × ".join(map(str, found["window"]))
        low, high = min(found["seconds"]) * 1e3, max(found["seconds"]) * 1e3
        figures = f"{medians[name] * 1e3:.1f} | {low:.1f} to {high:.1f} | {cpu[name] * 1e3:.1f}"
        print(f"| {CONTENDERS[name]} | {size} | {found['runtime']} | {figures} |")
    compared = {"shipped / question": ("shipped", "question", 1.0)}
    if "keras" in medians:
        compared["question / tf.function"] = ("question", "keras", 0.25)
        compared["question / tf.function without oneDNN"] = ("question", "keras_plain", 0.25)
    ratios = {name: (medians[a] / medians[b], cpu[a] / cpu[b], bar) for name, (a, b, bar) in compared.items()}
    print("\n| ratio | of the time | of all cores' time | bar | |\n|---|---|---|---|---|")
    for name, (ratio, of_cpu, bar) in ratios.items():
        reached = "reached" if ratio <= bar else "NOT reached"
        print(f"| {name} | {ratio:.3f} | {of_cpu:.3f} | at most {bar:g} | {reached} |")
    if args.json:
        figures = {name: {"is": ratio, "of_cpu": of_cpu, "bar": bar} for name, (ratio, of_cpu, bar) in ratios.items()}
        content = {"threads": args.threads, "runs": args.runs, "measured": measured, "ratios": figures}
        args.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
