"""The reference population of a bundle: `configs/reference.json`, made of patients used for nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.runtime import Decoder, open_decoder
from models.spec import Bundle, BundleError
from models.statistics.out_of_distribution import Population
from models.training_record import Case

_WHAT = (
    "The reference patients of a bundle, one series of each: mu, sigma, and reconstruction error divided by that of "
    "the means of blocks of voxels{}{}. The rows are in an order that does not tell whose is which"
)
_OUTLIERS = "; and outlier score, larger where a scan is less like those of patients"
_ORIENTATIONS = "; and orientation score, larger where a scan is more likely upside down or back to front"


@dataclass(frozen=True, slots=True)
class Reference:
    """All that is needed to compare a series with the reference patients.

    Attributes:
        sha256: digest of the file that holds the population.
        decoder: decoder of the same bundle; None where there is none.
    """

    population: Population
    sha256: str
    decoder: Decoder | None


def open_reference(bundle: Bundle) -> Reference | None:
    """Return the reference population and the open decoder; None for a bundle without reference patients.

    Raises:
        BundleError: the file is damaged or belongs to other weights, or ONNX Runtime cannot use the decoder.
    """
    population = read_reference(bundle)
    if population is None or bundle.reference_sha256 is None:
        return None
    return Reference(population, bundle.reference_sha256, open_decoder(bundle))


def reference_json(bundle: Bundle, population: Population, cases: Sequence[Case], runtime: str) -> bytes:
    """Return the file of the population, with numbers as float32.

    Args:
        bundle: the bundle that encoded the patients.
        population: the reference patients.
        cases: the series they consist of.
        runtime: what computed them.
    """
    order = np.lexsort(population.mu.T[::-1])
    ratios, outliers, orientations = population.error_ratios, population.outliers, population.orientations
    document = {
        "what": _WHAT.format(
            "" if outliers is None else _OUTLIERS,
            "" if orientations is None else _ORIENTATIONS,
        ),
        "weights_sha256": bundle.weights_sha256,
        "runtime": runtime,
        "patients": population.patients,
        "series": [{"patient": case.patient, "scan": case.scan, "source": case.source} for case in cases],
        "error_ratios": None if ratios is None else _numbers(ratios[order]),
        **({} if outliers is None else {"outlier_scores": _numbers(outliers[order])}),
        **({} if orientations is None else {"orientation_scores": _numbers(orientations[order])}),
        "mu": _numbers(population.mu[order]),
        "sigma": _numbers(population.sigma[order]),
    }
    return (json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_reference(bundle: Bundle) -> Population | None:
    """Return the population; None for a bundle without reference patients.

    Raises:
        BundleError: the file is damaged or belongs to other weights.
        OSError: the file cannot be opened.
    """
    if bundle.reference_sha256 is None:
        return None
    name = bundle.reference_path.name
    content = bundle.reference_path.read_bytes()
    try:
        document = json.loads(content)
        weights, ratios = document["weights_sha256"], document["error_ratios"]
        # not in files of bundles that give none
        outliers, orientations = document.get("outlier_scores"), document.get("orientation_scores")
        population = Population(
            mu=_array(document["mu"]),
            sigma=_array(document["sigma"]),
            error_ratios=None if ratios is None else _array(ratios),
            outliers=None if outliers is None else _array(outliers),
            orientations=None if orientations is None else _array(orientations),
        )
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BundleError(f"{name} is damaged ({error}); make it again with `ctvae bundle reference`") from error
    if weights != bundle.weights_sha256:
        found = f"{name} belongs to weights {str(weights)[:12]}…, the bundle has {bundle.weights_sha256[:12]}…"
        raise BundleError(f"{found}; make it again with `ctvae bundle reference`")
    length = bundle.latents
    if population.mu.shape[1] != length:
        found = f"{name} has {population.mu.shape[1]} dimensions; expected {length}"
        raise BundleError(f"{found}; make it again with `ctvae bundle reference`")
    _check_scores(name, "outlier", population.outliers, bundle.scores_outliers)
    _check_scores(name, "orientation", population.orientations, bundle.scores_orientation)
    return population


def _check_scores(name: str, kind: str, scores: NDArray[np.float64] | None, given: bool) -> None:
    """Check that the file has scores of this kind if and only if the network gives them."""
    if (scores is not None) == given:
        return
    wrong = f"no {kind} scores, but the network gives some" if given else f"{kind} scores, but the network gives none"
    raise BundleError(f"{name} has {wrong}; make it again with `ctvae bundle reference`")


def _numbers(values: NDArray[np.float64]) -> Any:
    """Return nested lists of the shortest decimals that read back to the same float32."""
    if values.ndim > 1:
        return [_numbers(row) for row in values]
    return [float(str(value)) for value in values.astype(np.float32)]


def _array(values: Any) -> NDArray[np.float64]:
    """Return the float32 values that were written, as float64."""
    return np.array(values, np.float32).astype(np.float64)
