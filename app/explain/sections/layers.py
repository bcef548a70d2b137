"""Which layer carries which label."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from app.explain.data.question import Question
from app.explain.report.section import Cell, Section, Table, lacking, number, span
from app.explain.statistics.associations import Association, associate
from app.explain.statistics.layers import LayerChoice, choose_layer
from app.explain.statistics.probes import Known

KEY, TITLE = "layers", "Which layer should I take?"
COLUMNS = (
    *("label", "layer", "length", "features_after_maxt", "measure", "score", "low", "high", "best"),
    *("beats_shuffled",),
)
CHOICE = (
    *("label", "measure", "best", "score", "score_of_the_tap", "chosen_inside", "lost_to_choosing"),
    *("second", "together_adds", "adds_low", "adds_high"),
)


def layers_section(
    question: Question, found: Sequence[Association], on_layer: Callable[[str], None], known: Known | None = None
) -> Section:
    """Return the section: every tap of the table on the same folds, with the same controls.

    Args:
        question: what is asked.
        found: the associations of its own tap.
        on_layer: called with each layer, and with each label.
        known: probes made so far.
    """
    taps = question.table.taps
    if len(taps) < 2:
        return lacking(
            KEY, TITLE, "the table has one layer; write others with `ctvae encode --taps` and `ctvae table --taps`"
        )
    counted = _counted(question, found, on_layer)
    made = list(_choices(question, on_layer, known))
    if not made:
        return lacking(KEY, TITLE, "no label has enough patients for a probe")
    return Section(
        KEY,
        TITLE,
        _found(made),
        "The best of several layers is best partly by luck: a layer chosen because it predicts a label best looks "
        "better here than it will in new patients. Choose before you look at your outcome.",
        notes=(
            "All layers have the same folds. “Chosen inside” is the score where each fold takes the layer that was "
            "best among its own training patients; what it is below that of the best layer on the same folds (AUC: "
            "those of the first of three repeats) is lost to choosing.",
            "“Together adds” is how much the best two layers side by side score above the best alone, with a 95 % "
            "interval over patients.",
        ),
        tables=(
            _by_label(list(taps), made),
            _every_layer({tap: features.shape[1] for tap, features in taps.items()}, counted, made),
            _what_choosing_is_worth(question.tap, made),
        ),
    )


def _counted(
    question: Question, found: Sequence[Association], on_layer: Callable[[str], None]
) -> dict[tuple[str, str], int]:
    """Return how many features of each layer go with each label after correction, by label and layer."""
    counted = {(one.label.name, question.tap): one.raw.counts["maxt"] for one in found}
    for tap, features in question.table.taps.items():
        if tap == question.tap:
            continue
        on_layer(tap)
        tested = associate(
            features,
            question.labels,
            (),
            question.patients,
            permutations=question.permutations,
            seed=question.seed,
        )
        counted |= {(one.label.name, tap): one.raw.counts["maxt"] for one in tested}
    return counted


def _choices(
    question: Question, on_layer: Callable[[str], None], known: Known | None
) -> Iterator[tuple[str, LayerChoice]]:
    """Yield the choice of a layer for each label that has enough patients for a probe."""
    for label in question.labels:
        on_layer(label.name)
        choice = choose_layer(question.table.taps, label, question.patients, question.seed, known)
        if choice is not None:
            yield label.name, choice


def _by_label(taps: list[str], made: list[tuple[str, LayerChoice]]) -> Table:
    """Return a table for the page: one row per label, one column per layer."""
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (label, choice.scores[taps[0]].measure, *(choice.scores[tap].score.value for tap in taps), choice.best)
        for label, choice in made
    )
    caption = "Score of each layer for each label; intervals are in layers.csv"
    return Table("layers_by_label", caption, ("label", "measure", *taps, "best"), rows, most=40)


def _every_layer(
    lengths: Mapping[str, int], counted: Mapping[tuple[str, str], int], made: list[tuple[str, LayerChoice]]
) -> Table:
    """Return the table for the file: one row per label and layer."""
    rows: list[tuple[Cell, ...]] = []
    for label, choice in made:
        for tap, score in choice.scores.items():
            best = "best" if tap == choice.best else ""
            beats = None if np.isnan(score.shuffled) else "yes" if score.beats_shuffled else "not shown"
            rows.append((label, tap, lengths[tap], counted[label, tap], score.measure, *score.score, best, beats))
    return Table("layers", "", COLUMNS, tuple(rows), most=0)


def _what_choosing_is_worth(tap: str, made: list[tuple[str, LayerChoice]]) -> Table:
    return Table(
        "layer_choice",
        "What choosing and joining layers is worth",
        CHOICE,
        tuple(_choice_row(label, choice, tap) for label, choice in made),
        most=40,
        headings=(
            *(("score", "its score"), ("score_of_the_tap", f"score of {tap}")),
            *(("second", "with"), ("adds_low", "95 % from"), ("adds_high", "to")),
        ),
    )


def _choice_row(label: str, choice: LayerChoice, tap: str) -> tuple[Cell, ...]:
    best = choice.scores[choice.best].score.value
    adds = choice.together or (None, None, None)
    own = choice.scores[tap].score.value
    return (label, choice.scores[tap].measure, choice.best, best, own, choice.chosen, choice.lost, choice.second, *adds)


def _found(made: list[tuple[str, LayerChoice]]) -> str:
    """Name the best layers of those labels that any layer predicts; of the others the best is best by luck."""
    read = [(label, choice) for label, choice in made if choice.scores[choice.best].beats_guessing]
    best: dict[str, list[str]] = {}
    for label, choice in read:
        best.setdefault(choice.best, []).append(label)
    parts = [f"{layer} for {', '.join(labels)}" for layer, labels in best.items()]
    unread = [label for label, choice in made if not choice.scores[choice.best].beats_guessing]
    helped = [
        f"{label} ({choice.best} with {choice.second}: {number(choice.together.value)} more, "
        f"{span(choice.together.low, choice.together.high)})"
        for label, choice in read
        if choice.together and choice.together.low > 0
    ]
    sentences = [f"The layers with the best scores are {'; '.join(parts)}."] if parts else []
    sentences += [f"No layer is shown to predict {', '.join(unread)}."] if unread else []
    more = f"Two layers together add something for {', '.join(helped)}."
    sentences.append(more if helped else "Two layers together are not shown to add anything for any label.")
    return " ".join(sentences)
