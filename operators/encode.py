"""Windows → features: the encoder's taps, pooled, and the vector of the whole series."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from models.runtime import Encoder
from models.spec import ORIENTATION, OUTLIER, POOLINGS, Bundle, TapSpec
from operators.errors import SeriesFailed, StartError
from operators.record import Encoding, TapValues
from operators.types import Finding, Windows

ALWAYS = ("mu", "sigma")
DRAW = "z"
"""A random draw mu + sigma · ε, requested as `z:SEED`; a layer of the bundle with this name takes precedence."""


def encode(windows: Windows, encoder: Encoder, bundle: Bundle, taps: Sequence[str] = ()) -> Encoding:
    """Return the features of one series: always `mu` and `sigma`, other taps on request, all from one forward pass.

    A layer's grid is pooled to one vector per window. The vector of the series is that of the equal mixture of its
    windows: for mu the mean; for sigma √(mean(sigma²) + variance(mu)), which matches moments; for other taps and for
    draws of z the mean. Sums are made in float64; results are float32. The finding `ENCODED_ON_CPU` says that the
    encoder could not use the GPU that was requested.

    Where the bundle gives windows an outlier score, the encoding has their mean, whether the tap is requested or not;
    of orientation scores, upside down and back to front, it has the larger of the two means.

    Args:
        windows: of the series.
        encoder: the open encoder of the bundle.
        bundle: names the taps.
        taps: in the form that `check_taps` reads: `block3`, `block3:max`, or `z:7` for a draw.

    Raises:
        StartError: `UNKNOWN_TAP`.
        SeriesFailed: `NON_FINITE_FEATURES`.
    """
    specs = check_taps(bundle, taps)
    scored = [OUTLIER] * bundle.scores_outliers + [ORIENTATION] * bundle.scores_orientation
    outputs = encoder.run(windows.voxels, tuple(dict.fromkeys([*(spec.name for spec in specs.values()), *scored])))
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
    scores = {name: _score(outputs[name]) for name in scored}
    return Encoding(
        windows=windows,
        taps=found,
        runtime=encoder.runtime,
        outlier=scores.get(OUTLIER),
        orientation=scores.get(ORIENTATION),
    )


def check_taps(bundle: Bundle, taps: Sequence[str] = ()) -> Mapping[str, TapSpec]:
    """Return `mu`, `sigma` and the requested taps, each once; call it before any series is read.

    A tap is requested by its name or as `name:pooling` (`none`, `mean`, `max`, `std`, `flatten`). A pooling that
    differs from the bundle's own gives another vector, under another name: `block3:max` is `block3.max`. A draw of z is
    not a
    layer: it is checked here and left out of the result.

    Raises:
        StartError: `UNKNOWN_TAP`: the bundle lacks the name or the pooling, or a draw has no seed.
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
    """Return the seed of the draw of z that is requested as `z:SEED`; None without such a request.

    Raises:
        StartError: `UNKNOWN_TAP`: the seed is missing or is not a whole number, or there are two seeds.
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
        StartError: see `check_taps`.
    """
    seed = drawn_with(bundle, taps)
    return (*check_taps(bundle, taps), *(() if seed is None else (f"{DRAW}:{seed}",)))


def pool(values: NDArray[np.float32], pooling: str) -> NDArray[np.float64]:
    """Return vectors in float64: (n, length), from vectors as they are, from grids (n, channels, d, h, w) by pooling.

    `mean`, `max` and `std` (of the population) run over the grid and give one value per channel. `flatten` and `none`
    keep all values, channels first, then z, y, x.
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
    """Return the standard deviation of the equal mixture of windows' posteriors, (n, length) each: total variance."""
    total: NDArray[np.float64] = np.sqrt(np.square(sigma).mean(axis=0) + mu.var(axis=0))
    return total


def _draw(windows: Windows, mu: NDArray[np.float64], sigma: NDArray[np.float64], seed: int) -> TapValues:
    """Return a draw from each window's posterior, determined by the seed and the series alone."""
    series = windows.volume.series
    digest = hashlib.sha256(f"{seed} {series.series_instance_uid} {series.part}".encode()).digest()
    epsilon = np.random.default_rng(np.frombuffer(digest, np.uint32)).standard_normal(mu.shape)
    drawn = mu + sigma * epsilon
    values, each = drawn.mean(axis=0).astype(np.float32), drawn.astype(np.float32)
    return TapValues(name=DRAW, pooling="none", values=values, windows=each, seed=seed)


def _score(values: NDArray[np.float32]) -> float:
    """Return the largest of the means over the windows of scores (n, kinds), a float32 value; 0 has no sign."""
    return float(np.float32(max(kind.mean(dtype=np.float64) for kind in values.T))) + 0.0


def _check_finite(name: str, values: NDArray[np.float32]) -> None:
    if not np.isfinite(values).all():
        raise SeriesFailed(
            "NON_FINITE_FEATURES", f"tap {name} has NaN or infinity; expected finite numbers: check the bundle"
        )
