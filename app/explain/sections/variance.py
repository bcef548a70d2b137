"""How much of the features' variance is the patient, and how much the acquisition: a line and a table."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.explain.data.feature_table import FeatureTable
from app.explain.data.question import Question
from app.explain.report.section import Cell, Table, percent, span
from models.statistics.variance_shares import Shares, variance_shares

SETTINGS: Final = ("manufacturer", "manufacturer_model", "kernel", "kvp", "thickness_mm")


def variance_of(question: Question) -> tuple[str, Table]:
    """Return what is known of the shares, and a table of them; it is empty where they cannot be told."""
    every = question.every
    shares = variance_shares(every.taps[question.tap], every.patients, settings_of(every))
    columns, caption = ("part", "share_of_variance", "low", "high"), "Share of the features' variance"
    rows: list[tuple[Cell, ...]] = [(name, *share) for name, share in _parts(shares)]
    table = Table("variance", caption, columns, tuple(rows), headings=(("low", "95 % from"), ("high", "to")))
    return _sentence(shares), table


def settings_of(table: FeatureTable) -> NDArray[np.str_] | None:
    """Return what the table says of each row's acquisition, in one text; None where it says nothing."""
    known = [table.columns[name] for name in SETTINGS if name in table.columns]
    texts = [np.where(np.isfinite(one), np.char.mod("%g", one), "") if one.dtype.kind == "f" else one for one in known]
    if not any((text != "").any() for text in texts):
        return None
    return np.array([" | ".join(row) for row in zip(*(text.tolist() for text in texts), strict=True)])


def _parts(shares: Shares | None) -> list[tuple[str, tuple[float, float, float]]]:
    if shares is None:
        return []
    if shares.rest is None:
        return [("patient", shares.patient), ("series of one patient", shares.acquisition)]
    listed = [("patient", shares.patient), ("acquisition (scanner, kernel, kVp, thickness)", shares.acquisition)]
    return [*listed, ("rest (phase, position, noise)", shares.rest)]


def _sentence(shares: Shares | None) -> str:
    if shares is None:
        return "Patient and acquisition cannot be separated: fewer than three patients have two or more series."
    basis = f"from the {shares.patients} patients with two or more series alone"
    text = f"Of the variance, {percent(shares.patient.value)} is the patient's ({_span(shares.patient)}) and "
    share = f"{percent(shares.acquisition.value)} ({_span(shares.acquisition)})"
    if shares.rest is None:
        what = "is what differs between series of one patient: scanner, reconstruction, phase and position"
        return f"{text}{share} {what} cannot be told apart here; {basis}."
    text += f"{share} goes with scanner, kernel, kVp and thickness ({shares.settings} combinations)"
    return f"{text}; {percent(shares.rest.value)} differs between series of one patient with the same ones; {basis}."


def _span(interval: tuple[float, float, float]) -> str:
    return span(*interval[1:])
