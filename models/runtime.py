"""How a bundle's encoder and decoder run: ONNX Runtime on the CPU; the encoder with torch where there is a CUDA GPU.

An encoder that cannot use the GPU falls back to the CPU. The decoder always runs on the CPU.

The same windows give the same bits, however many are passed at once: they run one at a time, on the CPU with a fixed
number of threads, on the GPU with deterministic kernels and without TF32. torch is imported only if a GPU is found.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from models.onnx_graph import has_external_data
from models.spec import Bundle, BundleError, one_line
from models.weights import read_weights

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from models.networks.vae import Vae

logger = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "cuda"]

CPU_THREADS = 2
"""Threads of ONNX Runtime: fixed, so that sums are made in the same order on a laptop and on a server."""


class Encoder(Protocol):
    """An encoder that is ready to run."""

    @property
    def runtime(self) -> str:
        """What computes: name, version and device, such as `onnxruntime 1.32.0 cpu`."""
        ...

    @property
    def fallback(self) -> str | None:
        """Why it runs on the CPU although a GPU was meant; None where it runs as intended."""
        ...

    def run(self, windows: NDArray[np.float32], taps: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return the named taps, float32 (n, *tap.shape) each, of windows float32 (n, 1, d, h, w) in [0, 1]."""
        ...


def open_encoder(bundle: Bundle, device: Device = "auto") -> Encoder:
    """Return the bundle's encoder.

    Args:
        bundle: a loaded bundle, whose digests have been checked.
        device: `cpu`; `cuda`, which falls back to the CPU if there is no usable GPU or too little memory on it, with a
            warning in the log and the reason in `Encoder.fallback`; `auto`: the same, but silent if there is no GPU.

    Raises:
        BundleError: the weights or the ONNX graph do not match the metadata.
    """
    if device == "cpu":
        return OnnxEncoder(bundle)
    if cuda_devices() == 0:
        if device == "auto":  # auto then means the CPU
            return OnnxEncoder(bundle)
        return OnnxEncoder(bundle, fallback=_on_cpu("device 'cuda' was requested but there is no usable GPU"))
    import torch

    if not torch.cuda.is_available():
        reason = f"there is a GPU, but this torch {torch.__version__} cannot use it"
        return OnnxEncoder(bundle, fallback=_on_cpu(reason))
    return GpuEncoder(bundle)


def _on_cpu(reason: str) -> str:
    """Log the reason, and return it as the finding states it."""
    logger.warning("%s; encoding on the CPU", reason)
    return f"{reason}; encoded on the CPU, which agrees with a GPU to 1e-4"


def cuda_devices() -> int:
    """Return the number of GPUs that the NVIDIA driver offers, asking the driver itself, without importing torch."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


class OnnxEncoder:
    """ONNX Runtime on the CPU."""

    def __init__(self, bundle: Bundle, *, threads: int = CPU_THREADS, fallback: str | None = None) -> None:
        self.fallback = fallback
        self._session, self.runtime = _open_session(bundle.onnx_path, threads)
        self._input_shape = (1, 1, *bundle.preprocessing.window_voxels)
        self._check_graph(bundle)

    def run(self, windows: NDArray[np.float32], taps: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """See `Encoder`."""
        _check_windows(windows, self._input_shape)
        each = [self._session.run(list(taps), {"image": np.ascontiguousarray(window[None])}) for window in windows]
        return {tap: np.concatenate([outputs[at] for outputs in each]) for at, tap in enumerate(taps)}

    def _check_graph(self, bundle: Bundle) -> None:
        """Check that the inputs and outputs of the graph match the metadata."""
        inputs = [(put.name, tuple(put.shape), put.type) for put in self._session.get_inputs()]
        if inputs != [("image", self._input_shape, "tensor(float)")]:
            raise BundleError(f"encoder.onnx takes {inputs}; expected 'image', float32, of {self._input_shape}")
        outputs = {put.name: tuple(put.shape) for put in self._session.get_outputs() if put.type == "tensor(float)"}
        for tap in bundle.taps:
            if outputs.get(tap.name) != (1, *tap.shape):
                raise BundleError(
                    f"encoder.onnx gives {tap.name} as {outputs.get(tap.name)}; expected {(1, *tap.shape)}"
                )


class Decoder:
    """The decoder on ONNX Runtime, on the CPU: from mu to windows."""

    def __init__(self, bundle: Bundle, *, threads: int = CPU_THREADS) -> None:
        self._session, self.runtime = _open_session(bundle.decoder_path, threads)
        length = bundle.latents
        self._shapes = (1, length), (1, 1, *bundle.preprocessing.window_voxels)
        named = (*self._session.get_inputs(), *self._session.get_outputs())
        found = [(put.name, tuple(put.shape), put.type) for put in named]
        expected = [(name, shape, "tensor(float)") for name, shape in zip(("z", OUTPUT), self._shapes, strict=True)]
        if found != expected:
            raise BundleError(f"decoder.onnx takes and gives {found}; expected {expected}")

    def run(self, mu: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        """Yield the window decoded from each vector of mu (n, length): float32 (d, h, w) in [0, 1], clipped."""
        expected = self._shapes[0][1:]
        if mu.dtype != np.float32 or mu.shape[1:] != expected:
            raise ValueError(f"mu is {mu.dtype} {mu.shape}; expected float32 (n, {expected[0]})")
        for vector in mu:
            (window,) = self._session.run([OUTPUT], {"z": np.ascontiguousarray(vector[None])})
            yield np.clip(window[0, 0], 0, 1)


OUTPUT = "reconstruction"
"""Of `decoder.onnx`."""


def open_decoder(bundle: Bundle) -> Decoder | None:
    """Return the bundle's decoder; None where it has none as ONNX.

    Raises:
        BundleError: the decoder does not match the metadata.
    """
    return None if bundle.decoder_sha256 is None else Decoder(bundle)


def _open_session(file: Path, threads: int) -> tuple[InferenceSession, str]:
    """Open an ONNX graph, and name what runs it.

    Raises:
        BundleError: the file is damaged, or ONNX Runtime cannot use it.
    """
    import onnxruntime

    graph = file.read_bytes()
    try:
        external = has_external_data(graph)
    except ValueError as error:
        raise BundleError(f"cannot use {file.name}: damaged or not ONNX ({error}); get an undamaged copy") from error
    if external:
        raise BundleError(f"{file.name} keeps tensors in other files; export it with all weights inside")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no common base but Exception
        raise BundleError(f"ONNX Runtime cannot use {file.name}: {one_line(error)}") from error
    return session, f"onnxruntime {onnxruntime.__version__} cpu"


class GpuEncoder:
    """torch on the GPU until it runs out of memory, then ONNX Runtime on the CPU."""

    def __init__(self, bundle: Bundle) -> None:
        import torch

        self._bundle = bundle
        self._out_of_memory = torch.cuda.OutOfMemoryError
        self._encoder: TorchEncoder | OnnxEncoder
        try:
            self._encoder = TorchEncoder(bundle, "cuda")
        except self._out_of_memory:
            self._leave_gpu()

    @property
    def runtime(self) -> str:
        """See `Encoder`."""
        return self._encoder.runtime

    @property
    def fallback(self) -> str | None:
        """See `Encoder`."""
        return self._encoder.fallback

    def run(self, windows: NDArray[np.float32], taps: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return taps as `Encoder` does; one runtime computes all windows of a call."""
        try:
            return self._encoder.run(windows, taps)
        except self._out_of_memory:
            self._leave_gpu()
        return self._encoder.run(windows, taps)

    def _leave_gpu(self) -> None:
        import torch

        self._encoder = OnnxEncoder(self._bundle, fallback=_on_cpu("the GPU does not have enough free memory"))
        torch.cuda.empty_cache()


class TorchEncoder:
    """torch on a GPU, or on the CPU for comparison."""

    fallback: str | None = None

    def __init__(self, bundle: Bundle, device: Literal["cpu", "cuda"]) -> None:
        import torch

        self._input_shape = (1, 1, *bundle.preprocessing.window_voxels)
        self._vae = load_vae(bundle).to(device)
        self._device = device
        named = torch.cuda.get_device_name() if device == "cuda" else "cpu"
        self.runtime = f"torch {torch.__version__} {device}" + (f" {named}" if device == "cuda" else "")

    def run(self, windows: NDArray[np.float32], taps: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """See `Encoder`."""
        import torch

        _check_windows(windows, self._input_shape)
        exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        with torch.inference_mode(), exact:
            each = [
                self._vae.taps(torch.from_numpy(np.ascontiguousarray(window[None])).to(self._device), taps)
                for window in windows
            ]
        return {tap: np.concatenate([values[tap].float().cpu().numpy() for values in each]) for tap in taps}


def load_vae(bundle: Bundle) -> Vae:
    """Return the bundle's network with its weights, encoder and decoder, in eval mode. Imports torch.

    Raises:
        BundleError: the weights do not fit the architecture.
    """
    import torch

    from models.networks.registry import build_vae

    weights = read_weights(bundle.weights_path.read_bytes())
    with torch.device("meta"):  # nothing is allocated before the weights are known to fit
        vae = build_vae(bundle.architecture, bundle.architecture_parameters)
    try:
        vae.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in weights.items()}, assign=True)
    except RuntimeError as error:
        raise BundleError(f"weights do not fit the architecture {bundle.architecture}: {one_line(error)}") from error
    if vae.window_voxels != bundle.preprocessing.window_voxels or set(vae.tap_names) != {t.name for t in bundle.taps}:
        raise BundleError(f"architecture {bundle.architecture} takes {vae.window_voxels} and has taps {vae.tap_names}")
    return vae.eval()


def _check_windows(windows: NDArray[np.float32], expected: tuple[int, ...]) -> None:
    if windows.dtype != np.float32 or windows.shape[1:] != expected[1:] or not len(windows):
        raise ValueError(f"windows are {windows.dtype} {windows.shape}; expected float32 (n, {expected[1:]}), n > 0")
