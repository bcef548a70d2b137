"""Sections of the card on all windows together: redundancy, rivals, groups, draws of z."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill

from app.research.certify.text import WIDTH, number, table, within
from models.certificate import Certificate
from models.certified_figures import BesideNull, Estimate, GroupFigures, RepeatFigures, RivalFigures

_SPELLED = {
    "mu": "`mu`",
    "components": "principal components of the windows, as many as `mu` has values, and 32 at least",
    "histogram": "histogram of HU in 32 bins",
    "composition": "composition: the network's own soft histogram, which is not trained",
    "composition and moments": "composition, and where each tissue lies and how far it spreads: principal components",
    "composition and components": "composition, filled up with principal components to as many values as those",
}


def rivals_section(found: RivalFigures | None) -> str:
    """Return the headline: whether mu is better than what needs no training."""
    if found is None:
        return ""
    rows = [
        [_SPELLED.get(name, name), within(score), *_above(found.over.get(name), found.over_80.get(name))]
        for name, score in found.scores.items()
    ]
    over = found.over_strongest
    verdict = "above it" if (over.low or 0) > 0 else "below it" if (over.high or 0) < 0 else "not told apart from it"
    text = (
        "Ridge probes to quantities that no training target resembles (shape, place, noise), learned and scored on "
        "the same windows. A score is max(R², 0), mean over probes and over three draws of the folds. The strongest "
        f"rival is the {_SPELLED.get(found.strongest, found.strongest)}; `mu` is {verdict}: by {within(over)}, and the "
        f"lower end of the 80 % interval is {number(found.over_strongest_80)}."
    )
    methods = list(found.by_probe)
    probes = [
        [name, *(number(found.by_probe[method].get(name), 2) for method in methods)]
        for name in next(iter(found.by_probe.values()))
    ]
    return "\n\n".join(
        [
            "### Is `mu` better than what needs no training?",
            fill(text, WIDTH),
            table(["features", "score", "`mu` above it", "80 % bound"], rows),
            table(["probe", *methods], probes),
        ]
    )


def _above(over: Estimate | None, low_80: float | None) -> tuple[str, str]:
    return ("", "") if over is None else (within(over), number(low_80))


def redundancy_section(certificate: Certificate) -> str:
    """Return whether the dimensions carry different information, and how far they are from the prior."""
    found, prior = certificate.redundancy, certificate.prior
    if found is None or prior is None:
        return ""
    rows: list[tuple[str, list[str]]] = [
        ("mean absolute correlation of two dimensions", _beside(found.mean_abs_r, 3)),
        ("the same, one window per patient", _beside(found.mean_abs_r_by_patient, 3)),
        ("participation ratio", _beside(found.participation_ratio, 1)),
        ("the same, one window per patient", _beside(found.participation_ratio_by_patient, 1)),
        ("share of the flag “cropped tile” in the variance", [number(found.crop_share), ""]),
        ("share of the best split in two", _beside(found.best_split, 3)),
        ("KL of the aggregate posterior to N(0, I), nats", _beside(prior.aggregate_kl_nats, 1)),
        ("dimensions with a variance of 0.5 to 2", [str(prior.near_unit_variance), ""]),
    ]
    text = (
        f"On {found.windows} windows of {found.patients} patients. Beside each figure: what independent draws of "
        "N(0, I) give in the mean with as many windows, or patients. The participation ratio is the number of "
        "dimensions where all are uncorrelated, and 1 where all say the same."
    )
    lines = table(["figure", "measured", "independent"], [[name, *values] for name, values in rows])
    return f"### Do the dimensions say different things?\n\n{fill(text, WIDTH)}\n\n{lines}"


def groups_section(groups: Mapping[str, GroupFigures]) -> str:
    """Return the measures within each kind of crop and each source."""
    if not groups:
        return ""
    rows = []
    for name, found in groups.items():
        icc = [value for value in found.median_icc.values() if value is not None]
        worst = min(found.found, key=lambda change: found.found[change])
        rows.append(
            [
                name,
                f"{found.windows} of {found.patients}",
                str(found.steady_dimensions),
                f"{number(min(icc))}" if icc else "",
                f"{found.found[worst]} of {found.looked_for} ({worst})",
                number(found.mean_r2),
            ]
        )
    text = (
        "Over all windows, a figure may only say that the groups differ. Within a group: dimensions whose ICC, mean "
        "over changes, is 0.95 or more; the lowest median ICC of a change; windows found again under the worst "
        "change, by Euclidean distance; the mean R² of the probes to quantities."
    )
    head = ["group", "windows, patients", "steady dimensions", "lowest median ICC", "found, worst change", "mean R²"]
    return f"### Does it hold within each group?\n\n{fill(text, WIDTH)}\n\n{table(head, rows)}"


def repeats_section(found: RepeatFigures | None) -> str:
    """Return what two scans of one patient have in common."""
    if found is None:
        return ""
    text = (
        f"On {found.scans} scans of {found.patients} patients who have two or more; a scan's `mu` is the mean over its "
        "windows. Shares are of the variance of standardised `mu`; the acquisition's is all that differs between scans "
        "of one patient, place in the body included. Guessing would find a scan of the same patient nearest in "
        f"{found.chance:.1%} of cases. Scans are mutual nearest neighbours where each is nearest to the other."
    )
    rows = [
        ["patient", "share of the variance", within(found.patient_share)],
        ["acquisition", "share of the variance", within(found.acquisition_share)],
        ["nearest scan is of the same patient", "part of the scans", within(found.nearest)],
        ["mutual nearest neighbours", "part of the scans", within(found.mutual)],
    ]
    return f"### Are two scans of one patient alike?\n\n{fill(text, WIDTH)}\n\n{table(['figure', 'of', 'value'], rows)}"


def draws_section(certificate: Certificate) -> str:
    """Return why mu is used and not z."""
    draws = certificate.draws
    if draws is None:
        return ""
    text = (
        "Two random draws z = mu + sigma · ε of the same window, nothing changed: their mean ICC is "
        f"{number(draws.mean_icc)}, that of the median dimension {number(draws.median_icc)}, and {draws.found:.1%} of "
        f"{draws.looked_for} windows have their own other draw nearest. `mu` of the same window is the same each time."
    )
    return f"### Why `mu`, and not a draw of z?\n\n{fill(text, WIDTH)}"


def _beside(found: BesideNull, digits: int) -> list[str]:
    return [number(found.value, digits), number(found.null, digits)]
