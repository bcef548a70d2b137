"""The certificate as a section of the model card, for a person to read."""

from __future__ import annotations

from textwrap import fill

import numpy as np

from app.research.certify.text import WIDTH, number, table, within
from app.research.certify.together_text import (
    draws_section,
    groups_section,
    redundancy_section,
    repeats_section,
    rivals_section,
)
from models.certificate import Certificate, ProbeScore

FEW_PATIENTS = 30
MOST_DIMENSIONS = 128


def certificate_markdown(certificate: Certificate) -> str:
    """Return the section, from `# Certificate` to the layers."""
    parts = [
        _opening(certificate),
        _repeatability(certificate),
        rivals_section(certificate.rivals),
        _information(certificate),
        _layers(certificate),
        _units(certificate),
        redundancy_section(certificate),
        groups_section(certificate.groups),
        repeats_section(certificate.repeats),
        draws_section(certificate),
        _reconstruction(certificate),
        _phantom(certificate),
        _dimensions(certificate),
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def summary(certificate: Certificate) -> str:
    """Return one line: how much data was measured, and the means for `mu`."""
    data, mu = certificate.data, certificate.mu
    lowest = max(found.lowest for found in mu.identity.metrics.values())
    information = mu.information.mean_r2
    known = "" if information is None else f"mean probe R² {number(information.value)}, "
    return (
        f"{data.windows} windows of {data.patients} patients: {known}"
        f"mean ICC {number(mu.repeatability.mean_icc.value)}, "
        f"found again by {number(lowest)} under the worst change, "
        f"{certificate.active_units} of {len(certificate.kl_by_dimension)} units active"
        + (", patients that it was trained on included" if data.trained_on_included else "")
    )


def _opening(certificate: Certificate) -> str:
    data, settings, versions = certificate.data, certificate.settings, certificate.versions
    patients = data.patients
    intro = (
        f"Measured by `ctvae bundle certify` on {data.windows} windows of {data.scans} scans of {patients} patients. "
        "`docs/certificate.json` has all figures; the project's `docs/certificate.md` says what they mean. In brackets "
        "are 95 % intervals over bootstrap samples of patients."
    )
    if data.unreadable_scans:
        intro += f" {data.unreadable_scans} more scans could not be read."
    if data.left_out_patients:
        intro += (
            f" None of them is of the train or calibration split: those {data.left_out_patients} were left out. "
            f"{data.helping_windows} windows of theirs only helped: probes and whitening learned from them, and the "
            "gallery holds them too."
        )
    text = ["## Certificate", fill(intro, WIDTH)]
    if data.trained_on_included:
        text.append("**Patients that the network was trained on may be among them: these figures may flatter it.**")
    if patients < FEW_PATIENTS:
        few = (
            f"These are few patients: an interval over {patients} of them is itself uncertain, and nothing here says "
            "how it would be with other scanners, protocols or diseases."
        )
        text.append(fill(few, WIDTH))
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return "\n\n".join([*text, fill(f"Seed {settings.seed}; {named}.", WIDTH)])


def _repeatability(certificate: Certificate) -> str:
    repeats, identity = certificate.mu.repeatability, certificate.mu.identity
    metrics = identity.metrics
    rows = [
        [f"`{name}`", change.what, within(repeats.by_change[name])]
        + [within(found.by_change[name]) for found in metrics.values()]
        for name, change in certificate.changes.items()
    ]
    means = [number(found.mean) for found in metrics.values()]
    rows.append(["", "mean", within(repeats.mean_icc), *means])
    changes = table(
        ["change", "what is done to the scan", "ICC(A,1) of mu", *(f"found, {one}" for one in metrics)], rows
    )
    intro = (
        "ICC: 1 where a change moves no feature, 0 where it moves features as much as another window would; mean over "
        "dimensions, a dead one counts as 0. Found: for "
        f"{identity.looked_for} windows, changed, how often the nearest of {identity.gallery} windows that do "
        f"not overlap is the same window before the change; guessing would find {identity.chance:.1%}. The median "
        f"dimension has an ICC of {number(repeats.median_icc)}."
    )
    return f"### Does `mu` stay the same when it should?\n\n{fill(intro, WIDTH)}\n\n{changes}"


def _information(certificate: Certificate) -> str:
    found = certificate.mu.information
    rows = [_probe_row(name, probe) for name, probe in found.quantities.items()]
    text = f"""\
### What does `mu` know?

R² of ridge probes, cross-validated by patient: 1 is perfect, 0 is no better than the mean, below 0 worse. The last
column is the same probe on shuffled values: what chance gives. Mean R²: {within(found.mean_r2)}.

{table(["quantity of the window", "R²", "windows", "shuffled"], rows)}"""
    if not found.labels:
        return text
    names = {"auc": "area under the ROC curve", "r2": "R²"}
    labels = [
        [f"{name} ({names[label.measure]})", *_probe_row("", label.probe)[1:]] for name, label in found.labels.items()
    ]
    return f"""{text}

Labels; chance is 0.5 for an area under the ROC curve, 0 for R²:

{table(["label", "score", "windows", "shuffled"], labels)}"""


def _layers(certificate: Certificate) -> str:
    rows = []
    for name, tap in certificate.taps.items():
        field, best = tap.receptive_field_mm, tap.identity.best
        found = tap.identity.metrics[best]
        rows.append(
            [
                f"`{name}`",
                str(tap.length),
                tap.pooling,
                "window" if field is None else " × ".join(f"{mm:g}" for mm in field),
                within(tap.information.mean_r2),
                within(tap.repeatability.mean_icc),
                f"{number(found.mean)} / {number(found.lowest)} ({best})",
            ]
        )
    head = ["layer", "length", "pooling", "field of view, mm", "mean R²", "mean ICC", "found: mean / worst change"]
    return f"""\
### From which layer?

Found with whichever distance finds most here; the choice is made on these same windows, so it flatters a little.

{table(head, rows)}"""


def _units(certificate: Certificate) -> str:
    kl = certificate.kl_by_dimension
    correlation = np.abs(np.array(certificate.correlation_of_mu, float))
    others = correlation[~np.eye(len(correlation), dtype=bool)]
    text = f"{certificate.active_units} of {len(kl)} dimensions are active (variance of `mu` above 0.01)."
    if others.size:
        text += (
            f" Dimensions correlate by {number(float(others.mean()))} in the mean of absolute values, by "
            f"{number(float(others.max()))} at the most."
        )
    text += f"\nKL: {sum(kl):.1f} nats a window, {min(kl):.2f} to {max(kl):.2f} a dimension."
    return f"### Is all of it in use?\n\n{text}"


def _reconstruction(certificate: Certificate) -> str:
    found = certificate.reconstruction
    if found is None:
        return "### What can be rebuilt?\n\nNot measured: this encoder came without its decoder."
    rows = [["all voxels", within(found.mae_hu, 1), str(found.mae_hu.windows) if found.mae_hu else "0"]]
    for name, error in found.mae_by_tissue_hu.items():
        rows.append([name, within(error, 1), str(error.windows) if error else "0"])
    return f"""\
### What can be rebuilt?

From `mu`. PSNR {within(found.psnr_db, 1)} dB, SSIM {within(found.ssim)}.

{table(["tissue", "mean absolute error, HU", "windows"], rows)}"""


def _phantom(certificate: Certificate) -> str:
    found = certificate.phantom
    if found is None:
        return ""
    keys = ("factor_r2", "dci_informativeness", "mig", "sap", "dci_completeness")
    rows = [
        [f"`{name}`", " to ".join(f"{end:g}" for end in factor.range), *(number(getattr(factor, key)) for key in keys)]
        for name, factor in found.factors.items()
    ]
    rows.append(["mean", "", *(number(getattr(found, key)) for key in keys)])
    head = ["factor", "range", "R², ridge", "R², forest", "MIG", "SAP", "completeness"]
    return f"""\
### Does one dimension mean one thing?

On {found.phantoms} phantoms of known factors. The two R² say how well all dimensions together know a factor; MIG,
SAP and completeness (DCI) are 1 where a single dimension has it to itself and near 0 where it is spread over many.
Disentanglement (DCI): {number(found.dci_disentanglement)}.

{table(head, rows)}"""


def _dimensions(certificate: Certificate) -> str:
    found = certificate.mu.repeatability.by_dimension
    kl = certificate.kl_by_dimension
    if found is None or len(kl) > MOST_DIMENSIONS:
        return ""
    icc = np.array([[0.0 if one is None else one for one in values] for values in found.icc.values()])
    rows = [
        [
            str(dimension),
            number(float(icc[:, dimension].mean())),
            number(float(icc[:, dimension].min())),
            number(found.within_sd[dimension]),
            number(found.between_sd[dimension]),
            number(found.minimal_detectable_change[dimension]),
            number(kl[dimension]),
        ]
        for dimension in range(len(kl))
    ]
    head = ["dimension", "mean ICC", "lowest ICC", "SD within", "SD between", "minimal detectable change", "KL, nats"]
    return f"""\
### Each dimension

SD within: of one window under all changes; between: of windows. Two values of a dimension that differ by less than its
minimal detectable change may be the same thing seen twice.

{table(head, rows)}"""


def _probe_row(name: str, probe: ProbeScore) -> list[str]:
    if probe.value is None:
        return [name, "not measured", str(probe.windows), ""]
    return [name, within(probe), str(probe.windows), number(probe.shuffled)]
