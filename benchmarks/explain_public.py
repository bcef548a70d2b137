"""`ctvae explain` on a public table: foundation-model embeddings of LUNG1, and of the same tumours shuffled.

    pip download --no-deps tumorimagingbench==0.1.4          # 39 MB, no requirement of this project
    python benchmarks/explain_public.py tumorimagingbench-0.1.4-py3-none-any.whl [--json FILE]

421 patients, 4096 features, age and two-year survival. Expected for age (399 patients have one): by Spearman, the
primary statistic, 479 features with p < 0.05, 0 after Benjamini-Hochberg, 0 after Bonferroni; by Pearson 609, 3 and 1.
Survival (logistic ridge on 32 components, nested cross-validation) does not beat the shuffled region.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import time
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.csv as csv
from scipy import stats
from threadpoolctl import threadpool_limits

from app.explain.data.labels import as_label
from app.explain.statistics.associations import associate
from app.explain.statistics.probes import REPEATS, better_by, probe

DRAWS = 4
"""Of patients into folds, three repeats each: how far the AUC depends on who is in which fold."""
FOLDER = "tumorimagingbench/evaluation/readii_eval"


def read(wheel: Path, name: str, patient: str) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Patients, features and columns of one CSV in the wheel, in the order of patients."""
    with zipfile.ZipFile(wheel) as archive:
        table = csv.read_csv(io.BytesIO(archive.read(f"{FOLDER}/{name}.csv")))
    names = [column for column in table.column_names if column.startswith("pred_")]
    names.sort(key=lambda column: int(column.removeprefix("pred_")))
    order = np.argsort(table.column(patient).to_numpy(zero_copy_only=False).astype(str))
    features = np.stack([table.column(column).to_numpy() for column in names], axis=1)[order]
    others = ("age", "survival") if patient == "PatientID" else ()
    columns = {one: table.column(one).to_numpy(zero_copy_only=False).astype(float)[order] for one in others}
    patients = table.column(patient).to_numpy(zero_copy_only=False).astype(str)[order]
    return patients, features.astype(np.float32), columns


def pearson_counts(x: np.ndarray, y: np.ndarray) -> tuple[int, int, int]:
    p = stats.pearsonr(x.astype(float), y[:, None], axis=0).pvalue
    return tuple(int((one < 0.05).sum()) for one in (p, stats.false_discovery_control(p), p * len(p)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    patients, features, columns = read(given.wheel, "original", "PatientID")
    others, shuffled, _ = read(given.wheel, "negative_control_shuffled_roi", "PatientID_x")
    assert (patients == others).all()
    started = time.monotonic()
    with threadpool_limits(1):
        age = as_label("age", columns["age"], patients)
        (found,) = associate(features, [age], (), patients)
        survival = as_label("survival", columns["survival"], patients)
        sets = {"features": features, "shuffled region": shuffled}
        scores = probe(sets, survival, patients)
        gap = better_by(scores["features"], scores["shuffled region"])
    seconds = time.monotonic() - started
    draws = [probe(sets, survival, patients, seed=at * REPEATS, shuffles=0) for at in range(DRAWS)]
    spearman = (found.raw.counts["raw"], found.raw.counts["bh"], found.raw.counts["bonferroni"])
    pearson = pearson_counts(features[age.there], columns["age"][age.there])
    rows = {
        "age, Spearman: raw, BH, Bonferroni": spearman,
        "age, max-T of 4096 features": found.raw.counts["maxt"],
        "age, Pearson: raw, BH, Bonferroni": pearson,
        "survival, AUC": [round(value, 3) for value in scores["features"].score],
        "survival, AUC from the shuffled region": [round(value, 3) for value in scores["shuffled region"].score],
        "survival, AUC above the shuffled region": [round(value, 3) for value in gap],
        **{
            f"survival, AUC of {name}, by draw of folds": [round(one[name].score.value, 3) for one in draws]
            for name in sets
        },
        "seconds": round(seconds),
        "memory, GB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
    }
    for what, value in rows.items():
        print(f"{what:<58}{value}")
    beats = "beats" if gap.low > 0 else "does not beat"
    print(f"two-year survival {beats} its shuffled-region control; ratio of AUCs {ratio(scores):.2f}")
    if given.json:
        given.json.write_text(json.dumps(rows))


def ratio(scores: dict) -> float:
    return scores["features"].score.value / scores["shuffled region"].score.value


if __name__ == "__main__":
    main()
