"""Does `ctvae explain` find what is there, at the error rate that it states, and nothing else?

    python benchmarks/explain_null.py [--seeds 200] [--json FILE]

Tables of 100 patients and 32 features whose truth is known, one label each:

- null: the label has nothing to do with the features. Of 200 at 5 %, 3 to 17 have a feature with p_maxt < 0.05. Odd
  seeds have three series per patient, and slice thickness moves features and label; there the covariates account for
  it, and the adjusted p_maxt counts.
- planted: one feature has a Spearman correlation of 0.5 with the label.
- thickness alone: slice thickness moves features and label, which have nothing else in common.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for tests.support

from tests.support.feature_tables import confounded, null, planted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    seeds, started = range(given.seeds), time.monotonic()
    alone = [confounded(seed) for seed in seeds]
    rows = {
        "null: any p_maxt < 0.05": (sum(null(seed) < 0.05 for seed in seeds), "3 to 17 of 200"),
        "planted Spearman 0.5: found": (sum(planted(seed) < 0.05 for seed in seeds), "at least 190 of 200"),
        "thickness alone: found, adjusted": (sum(p < 0.05 for _, p in alone), "at most 17 of 200"),
        "thickness alone: found, not adjusted": (sum(p < 0.05 for p, _ in alone), "-"),
    }
    for what, (count, bar) in rows.items():
        print(f"{what:<40}{count:>5} of {given.seeds}   ratio {count / given.seeds:.3f}   bar: {bar}")
    print(f"{time.monotonic() - started:.0f} s")
    if given.json:
        given.json.write_text(json.dumps({what: count for what, (count, _) in rows.items()} | {"seeds": given.seeds}))


if __name__ == "__main__":
    main()
