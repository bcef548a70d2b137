"""Print the table of docs/which-layer.md from a bundle's certificate: what each layer is worth.

    python benchmarks/layers.py [BUNDLE] [--write docs/which-layer.md]

`ctvae bundle certify` makes the certificate. --write puts the table between the two marks on the page.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from models.certificate import Certificate, ProbeScore, certificate_from_json

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- table: benchmarks/layers.py -->", "<!-- end of table -->"
GROUPS = {
    "linear": ("mean_hu", "body_area_cm2"),
    "tissue": ("lung_fraction", "emphysema_fraction", "fat_fraction", "soft_tissue_fraction", "bone_fraction"),
    "texture": ("local_sd_hu", "gradient_hu_per_mm", "glcm_contrast"),
    "shape": ("outline_compactness", "lung_pieces"),
    "height": ("height_in_scan",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?", default=ROOT / "models" / "ct_vae")
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    text = table(certificate_from_json(json.loads((args.bundle / "docs" / "certificate.json").read_bytes())))
    print(text)
    if args.write:
        page = args.write.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        _, _, after = rest.partition(END)
        args.write.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def table(certificate: Certificate) -> str:
    data = certificate.data
    lines = [
        f"{data.windows} windows of {data.patients} test patients:",
        "",
        f"| layer | length | sees, mm | R² mean | {' | '.join(GROUPS)} | ICC mean | found: mean, lowest |",
        "|" + "---|" * (6 + len(GROUPS)),
    ]
    for name, tap in certificate.taps.items():
        seen = tap.receptive_field_mm
        information = tap.information
        mean = information.mean_r2
        groups = [of(information.quantities, names) for names in GROUPS.values()]
        best = tap.identity.metrics[tap.identity.best]
        lines.append(
            f"| `{name}` | {tap.length} | {' × '.join(f'{mm:g}' for mm in seen) if seen else 'the window'} "
            f"| {mean.value:.2f} | {' | '.join(groups)} "
            f"| {tap.repeatability.mean_icc.value:.3f} | {best.mean:.2f}, {best.lowest:.2f} |"
        )
    return "\n".join(lines)


def of(quantities: Mapping[str, ProbeScore], names: tuple[str, ...]) -> str:
    values = [quantities[name].value for name in names if quantities[name].value is not None]
    return f"{sum(values) / len(values):.2f}" if values else "none"


if __name__ == "__main__":
    main()
