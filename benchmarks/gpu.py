"""Time the shipped encoder on a GPU and compare it with the limit that the memory's speed sets.

    python benchmarks/gpu.py [--bundle DIR] [--batch N] [--runs N] [--device cuda] [--json FILE]

Variants: float32 as `ctvae encode` runs it (deterministic, no TF32); bfloat16 with `channels_last_3d`; the same as one
CUDA graph, at batch 1. The floor is the time to read all weights once and to write and read every activation once, at
the speed of a large copy on this device, in the variant's own precision. Each variant also shows how far its mu is from
float32. --device cpu runs all but the graph, to check that the script works; such figures say nothing about a GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
COPIED_BYTES = 1 << 28


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU that torch can use; --device cpu shows that the script works")
    from models.bundle.store import find_bundle, load_bundle
    from models.runtime import load_vae

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    vae = load_vae(load_bundle(args.bundle or find_bundle())).to(args.device)
    shape = (args.batch, 1, *vae.window_voxels)
    x = torch.from_numpy(np.random.default_rng(0).random(shape, np.float32)).to(args.device)
    bytes_per_s = copy_speed(args)
    with torch.inference_mode():
        variants = {"float32, deterministic": exact(vae), "bfloat16, channels_last_3d": fast(vae)}
        if args.device == "cuda" and args.batch == 1:
            variants["the same, CUDA graph"] = captured(variants["bfloat16, channels_last_3d"], x)
        expected = variants["float32, deterministic"](x)
        moved = {4: moved_bytes(vae, x, 4), 2: moved_bytes(vae, x, 2)}
        rows = {}
        for name, run in variants.items():
            floor = moved[4 if name.startswith("float32") else 2] / bytes_per_s
            seconds = measure(run, x, args)
            off = float((run(x).float() - expected).abs().max())
            rows[name] = {"seconds": seconds, "floor_seconds": floor, "times_floor": seconds / floor, "mu_off": off}
    named = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    print(f"{named}, batch {args.batch}, {args.runs} runs, medians; copies at {bytes_per_s / 1e9:.0f} GB/s")
    for name, row in rows.items():
        print(
            f"{name:30}{row['seconds'] * 1e3:9.3f} ms {row['times_floor']:8.1f} × floor   mu off by {row['mu_off']:.1e}"
        )
    if args.json:
        args.json.write_text(json.dumps({"device": named, "batch": args.batch, "results": rows}, indent=2) + "\n")


def exact(vae):
    import torch

    def run(x):
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            return vae.encode(x)[0]

    return run


def fast(vae):
    import torch

    def run(x):
        with torch.autocast(x.device.type, torch.bfloat16):
            return vae.encode(x.to(memory_format=torch.channels_last_3d))[0]

    return run


def captured(run, x):
    """The run as one CUDA graph: no launch of single kernels any more."""
    import torch

    still = x.clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run(still)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run(still)

    def replay(x):
        still.copy_(x)
        graph.replay()
        return result

    return replay


def measure(run, x, args) -> float:
    for _ in range(3):
        run(x)
    return statistics.median(timed(lambda: run(x), args.device) for _ in range(args.runs))


def timed(act, device: str) -> float:
    import torch

    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    start = time.perf_counter()
    act()
    synchronize()
    return time.perf_counter() - start


def copy_speed(args) -> float:
    """Bytes a second that a large copy reads and writes."""
    import torch

    source = torch.zeros(COPIED_BYTES, dtype=torch.uint8, device=args.device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * COPIED_BYTES / statistics.median(timed(lambda: target.copy_(source), args.device) for _ in range(10))


def moved_bytes(vae, x, size: int) -> int:
    """All parameters read once, and what each layer gives written once and read once, `size` bytes a value."""
    given = []
    layers = [module for module in vae.modules() if not list(module.children())]
    hooks = [layer.register_forward_hook(lambda _layer, _in, out: given.append(out.numel())) for layer in layers]
    try:
        vae.encode(x)
    finally:
        for hook in hooks:
            hook.remove()
    decoder = sum(tensor.numel() for tensor in vae.decoder.parameters()) if vae.decoder is not None else 0
    weights = sum(tensor.numel() for tensor in vae.parameters()) - decoder
    return size * (weights + x.numel() + 2 * sum(given))


if __name__ == "__main__":
    main()
