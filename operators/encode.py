"""Windows → features: the encoder's taps, pooled, and what one vector says of a whole series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle, TapSpec
from models.runtime import Encoder
from operators.types import Encoding, SeriesFailed, StartError, TapValues, Windows

ALWAYS = ("mu", "sigma")


def encode(windows: Windows, encoder: Encoder, bundle: Bundle, taps: Sequence[str] = ()) -> Encoding:
    """The features of one series: always `mu` and `sigma`, other taps on request, all from one forward pass.

    A layer's grid becomes a vector by its pooling, for each window. The series' vector is that of the equal mixture of
    its windows: for mu the mean; for sigma √(mean(sigma²) + variance(mu)), which matches moments; for other taps the
    mean. Sums are made in float64, results are float32.

    Raises:
        StartError: `UNKNOWN_TAP`.
        SeriesFailed: `NON_FINITE_FEATURES`.
    """
    specs = check_taps(bundle, taps)
    outputs = encoder.run(windows.voxels, tuple(specs))
    for name in specs:
        _check_finite(name, outputs[name])
    pooled = {name: pool(outputs[name], spec.pooling) for name, spec in specs.items()}
    of_series = {name: values.mean(axis=0) for name, values in pooled.items()}
    of_series["sigma"] = mixture_sigma(pooled["mu"], pooled["sigma"])
    found: dict[str, TapValues] = {}
    for name, spec in specs.items():
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, which the check finds
            values, each = of_series[name].astype(np.float32), pooled[name].astype(np.float32)
        _check_finite(name, values)
        found[name] = TapValues(name=name, pooling=spec.pooling, values=values, windows=each)
    return Encoding(windows=windows, taps=found, runtime=encoder.runtime)


def check_taps(bundle: Bundle, taps: Sequence[str] = ()) -> Mapping[str, TapSpec]:
    """`mu`, `sigma` and the named taps, each once, by name; to be called before any series is read.

    Raises:
        StartError: `UNKNOWN_TAP`: a name that the bundle does not have.
    """
    known = {spec.name: spec for spec in bundle.taps}
    for name in taps:
        if name not in known:
            raise StartError("UNKNOWN_TAP", f"bundle {bundle.name} has no tap {name!r}; it has {', '.join(known)}")
    return {name: known[name] for name in dict.fromkeys((*ALWAYS, *taps))}


def pool(values: NDArray[np.float32], pooling: str) -> NDArray[np.float64]:
    """Vectors (n, length) in float64: of (n, length) with `none`, of (n, length, d, h, w) with `mean`."""
    if pooling == "none":
        return values.astype(np.float64)
    if pooling == "mean":
        pooled: NDArray[np.float64] = values.mean(axis=(2, 3, 4), dtype=np.float64)
        return pooled
    raise ValueError(f"pooling is {pooling!r}; expected 'none' or 'mean'")


def mixture_sigma(mu: NDArray[np.float64], sigma: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard deviation of the equal mixture of windows' posteriors, each (n, length): the law of total variance."""
    total: NDArray[np.float64] = np.sqrt(np.square(sigma).mean(axis=0) + mu.var(axis=0))
    return total


def _check_finite(name: str, values: NDArray[np.float32]) -> None:
    if not np.isfinite(values).all():
        raise SeriesFailed(
            "NON_FINITE_FEATURES", f"tap {name} has NaN or infinity; expected finite numbers: check the bundle"
        )
