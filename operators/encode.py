"""Windows → features: the encoder's taps, pooled, and what one vector says of a whole series."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from models.runtime import Encoder
from models.spec import POOLINGS, Bundle, TapSpec
from operators.errors import SeriesFailed, StartError
from operators.record import Encoding, TapValues
from operators.types import Finding, Windows

ALWAYS = ("mu", "sigma")
DRAW = "z"
"""A random draw mu + sigma · ε; asked for as `z:SEED`. A layer of the bundle that is called so goes before it."""


def encode(windows: Windows, encoder: Encoder, bundle: Bundle, taps: Sequence[str] = ()) -> Encoding:
    """Return the features of one series: always `mu` and `sigma`, other taps on request, all from one forward pass.

    A layer's grid becomes a vector by its pooling, for each window. The series' vector is that of the equal mixture of
    its windows: for mu the mean; for sigma √(mean(sigma²) + variance(mu)), which matches moments; for other taps,
    and for draws of z, the mean. Sums are made in float64, results are float32. An encoder that had to leave the GPU
    that was asked for says so in the finding `ENCODED_ON_CPU`.

    Args:
        windows: of the series.
        encoder: of the bundle, open.
        bundle: names the taps.
        taps: as `check_taps` reads them: `block3`, `block3:max`, or `z:7` for a draw.

    Raises:
        StartError: `UNKNOWN_TAP`.
        SeriesFailed: `NON_FINITE_FEATURES`.
    """
    specs = check_taps(bundle, taps)
    outputs = encoder.run(windows.voxels, tuple(dict.fromkeys(spec.name for spec in specs.values())))
    for layer, output in outputs.items():
        _check_finite(layer, output)
    pooled = {name: pool(outputs[spec.name], spec.pooling) for name, spec in specs.items()}
    of_series = {name: values.mean(axis=0) for name, values in pooled.items()}
    of_series["sigma"] = mixture_sigma(pooled["mu"], pooled["sigma"])
    found: dict[str, TapValues] = {}
    for name, spec in specs.items():
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, which the check finds
            values, each = of_series[name].astype(np.float32), pooled[name].astype(np.float32)
        _check_finite(name, values)
        kept = spec.shape if spec.pooling == "none" and len(spec.shape) > 1 else None
        found[name] = TapValues(name=name, pooling=spec.pooling, values=values, windows=each, shape=kept)
    seed = drawn_with(bundle, taps)
    if seed is not None:
        found[DRAW] = _draw(windows, pooled["mu"], pooled["sigma"], seed)
    if encoder.fallback:
        left = Finding("ENCODED_ON_CPU", encoder.fallback)
        windows = replace(windows, findings=(*windows.findings, left))
    return Encoding(windows=windows, taps=found, runtime=encoder.runtime)


def check_taps(bundle: Bundle, taps: Sequence[str] = ()) -> Mapping[str, TapSpec]:
    """`mu`, `sigma` and the taps that are asked for, each once; to be called before any series is read.

    A tap is asked for by its name, or as `name:pooling` (`none`, `mean`, `max`, `std`, `flatten`). What has another
    pooling than the bundle's own is another vector, and has a name of its own: `block3:max` is `block3.max`. A draw of
    z is no layer: it is checked here, and left out of the result.

    Raises:
        StartError: `UNKNOWN_TAP`: a name or a pooling that the bundle does not have; a draw without a seed.
    """
    known = {spec.name: spec for spec in bundle.taps}
    found = {name: known[name] for name in ALWAYS}
    drawn_with(bundle, taps)
    for requested in taps:
        name, colon, pooling = requested.partition(":")
        if name == DRAW and DRAW not in known:
            continue
        if name not in known:
            raise StartError("UNKNOWN_TAP", f"bundle {bundle.name} has no tap {name!r}; it has {', '.join(known)}")
        spec = known[name]
        fitting = POOLINGS if len(spec.shape) > 1 else ("none",)
        if colon and pooling not in fitting:
            text = f"tap {name} of shape {spec.shape} cannot be pooled by {pooling!r}; it can by {', '.join(fitting)}"
            raise StartError("UNKNOWN_TAP", text)
        if colon and pooling != spec.pooling:
            found[f"{name}.{pooling}"] = replace(spec, pooling=pooling)
        else:
            found[name] = spec
    return found


def drawn_with(bundle: Bundle, taps: Sequence[str]) -> int | None:
    """Return the seed of the draw of z that is asked for as `z:SEED`; None where none is.

    Raises:
        StartError: `UNKNOWN_TAP`: no seed, no whole number, or two seeds.
    """
    if any(spec.name == DRAW for spec in bundle.taps):
        return None
    seeds = {seed for name, _, seed in (requested.partition(":") for requested in taps) if name == DRAW}
    if not seeds:
        return None
    seed = seeds.pop()
    if seeds or not (seed.isascii() and seed.isdigit() and len(seed) < 19):
        raise StartError("UNKNOWN_TAP", "tap z is a random draw; give it one seed, a whole number, as in z:7")
    return int(seed)


def configured_taps(bundle: Bundle, taps: Sequence[str]) -> tuple[str, ...]:
    """Return the taps as they enter the configuration's digest: names, and a draw with its seed.

    Raises:
        StartError: as `check_taps`.
    """
    seed = drawn_with(bundle, taps)
    return (*check_taps(bundle, taps), *(() if seed is None else (f"{DRAW}:{seed}",)))


def pool(values: NDArray[np.float32], pooling: str) -> NDArray[np.float64]:
    """Vectors in float64: (n, length) of what is a vector, of a grid (n, channels, d, h, w) as its pooling says.

    `mean`, `max` and `std` (of the population) are over the grid, and give one value a channel. `flatten` and `none`
    keep all of them, channels first, then z, y, x.
    """
    if pooling in ("none", "flatten"):
        return values.reshape(len(values), -1).astype(np.float64)
    over_grid = (2, 3, 4)
    if pooling == "mean":
        pooled: NDArray[np.float64] = values.mean(axis=over_grid, dtype=np.float64)
    elif pooling == "max":
        pooled = values.max(axis=over_grid).astype(np.float64)
    elif pooling == "std":
        pooled = values.std(axis=over_grid, dtype=np.float64)
    else:
        raise ValueError(f"pooling is {pooling!r}; expected one of {', '.join(POOLINGS)}")
    return pooled


def mixture_sigma(mu: NDArray[np.float64], sigma: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard deviation of the equal mixture of windows' posteriors, each (n, length): the law of total variance."""
    total: NDArray[np.float64] = np.sqrt(np.square(sigma).mean(axis=0) + mu.var(axis=0))
    return total


def _draw(windows: Windows, mu: NDArray[np.float64], sigma: NDArray[np.float64], seed: int) -> TapValues:
    """Return a draw of each window's posterior; what is random comes from the seed and the series alone."""
    series = windows.volume.series
    digest = hashlib.sha256(f"{seed} {series.series_instance_uid} {series.part}".encode()).digest()
    epsilon = np.random.default_rng(np.frombuffer(digest, np.uint32)).standard_normal(mu.shape)
    drawn = mu + sigma * epsilon
    values, each = drawn.mean(axis=0).astype(np.float32), drawn.astype(np.float32)
    return TapValues(name=DRAW, pooling="none", values=values, windows=each, seed=seed)


def _check_finite(name: str, values: NDArray[np.float32]) -> None:
    if not np.isfinite(values).all():
        raise SeriesFailed(
            "NON_FINITE_FEATURES", f"tap {name} has NaN or infinity; expected finite numbers: check the bundle"
        )
