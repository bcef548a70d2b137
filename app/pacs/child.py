"""The process in which the network runs: the model stays loaded, and each line on stdin is a job.

    python -m app.pacs.child [--json-log] PARENT [SETTINGS]

A request is one line of JSON, an answer likewise. The process knows nothing of queue and spool: it gets a folder of
files and a folder for the results. It ends with its parent, however that ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pydicom import dcmread

from app.open_pipeline import open_pipeline
from app.pacs.child_process import JSON_LOG
from app.pacs.jobs import Request
from app.process import LogLevel, end_with_parent, set_up_log
from app.read_input import open_series
from app.settings import Settings, load_settings
from operators.encode import configured_taps
from operators.errors import CtvaeError, SeriesFailed, StartError
from operators.job import Job, failure
from operators.make_record import configuration_digest
from operators.pipeline import OnOutcome, Pipeline
from operators.read_study import Inventory
from operators.sr.codes import SrClass
from operators.sr.predecessor import Predecessor, read_predecessor
from operators.types import Finding, Outcome, Series
from operators.write_features import FEATURES_JSON, FEATURES_SR, series_folder, sr_file

BUNDLES_KEPT: Final = 2  # the one in use and one beside it: shadow, or replay
FALLBACK: Final[SrClass] = "comprehensive"


class Child:
    """What stays loaded between two jobs."""

    def __init__(self, settings: Settings) -> None:
        """Open the bundle of the settings."""
        self._settings = settings
        self._pipelines: dict[str | None, Pipeline] = {}
        self._pipeline(None)

    def answer(self, request: Request) -> dict[str, Any]:
        """Run a job; what is wrong with it is in the answer, under `error`."""
        try:
            pipeline = self._pipeline(request.models)
            _check_pinned(pipeline, request)
            return _done(request, pipeline, self._settings)
        except CtvaeError as error:
            return {"error": {"reason": error.reason, "message": error.message}}

    def _pipeline(self, models: str | None) -> Pipeline:
        if models not in self._pipelines:
            opened = open_pipeline(self._settings, None if models is None else Path(models), None)
            while len(self._pipelines) >= BUNDLES_KEPT:
                del self._pipelines[next(reversed(self._pipelines))]
            self._pipelines[models] = opened
        return self._pipelines[models]


def _check_pinned(pipeline: Pipeline, request: Request) -> None:
    """Check that the job gets the weights and the settings that it was put into the queue with.

    Raises:
        StartError: `BUNDLE_CHANGED`.
    """
    bundle = pipeline.bundle
    taps = configured_taps(bundle, pipeline.taps)
    config = configuration_digest(bundle, taps, pipeline.disclosure, pipeline.geometry)
    if (bundle.weights_sha256, config) != (request.weights_sha256, request.config_digest):
        what = "settings" if bundle.weights_sha256 == request.weights_sha256 else "weights"
        text = f"the {what} are not those that the job was queued with; restore them, or replay with the new ones"
        raise StartError("BUNDLE_CHANGED", text)


def _done(request: Request, pipeline: Pipeline, settings: Settings) -> dict[str, Any]:
    output, outcomes = Path(request.output), list[tuple[Outcome, list[str]]]()
    pipeline = replace(
        pipeline,
        output=output,
        sr_beside=() if pipeline.sr == FALLBACK else (FALLBACK,),
        predecessor_of=_predecessors(request),
    )
    files: dict[tuple[str, int | None], tuple[Series, list[str]]] = {}

    def entered(outcome: Outcome) -> None:
        _, names = files.pop((outcome.series_instance_uid, outcome.part))
        outcomes.append((outcome, names))

    def unreadable(inventory: Inventory) -> None:
        for outcome in inventory.unreadable:
            outcomes.append((outcome, [outcome.file] if outcome.file else []))

    def noted(jobs: Iterator[Job[Series]]) -> Iterator[Job[Series]]:
        for job in jobs:
            series = job.series
            files[series.series_instance_uid, series.part] = series, [one.path.name for one in series.instances]
            yield _with_findings(job, request.findings)

    with open_series(Path(request.input), settings, unreadable) as jobs:
        run(noted(jobs), pipeline, entered)
    for series, names in files.values():
        lost = SeriesFailed("LOST_SERIES", "the run ended before this series did; run again")
        outcomes.append((failure(Job(series, series), lost), names))
    return {
        "outcomes": [_outcome(outcome, names) for outcome, names in outcomes],
        "made": [one for outcome, _ in outcomes if outcome.status == "written" for one in _made(outcome, pipeline)],
    }


def run(jobs: Iterator[Job[Series]], pipeline: Pipeline, on_outcome: OnOutcome) -> None:
    """Run the graph over a job where the SDK is installed (extra `graph`), else its stages in a plain loop."""
    graph = _graph()
    if graph is not None:
        graph(jobs, pipeline, on_outcome)
        return
    for job in jobs:
        on_outcome(pipeline.run(job).ended("written"))


def _graph() -> Callable[[Iterator[Job[Series]], Pipeline, OnOutcome], None] | None:
    try:
        from app.application import CtVaeApplication
    except ModuleNotFoundError:
        return None
    return lambda jobs, pipeline, on_outcome: CtVaeApplication(jobs, pipeline, on_outcome).run()


def _with_findings(job: Job[Series], found: Sequence[tuple[str, str]]) -> Job[Series]:
    if isinstance(job.state, Outcome) or not found:
        return job
    series = replace(job.state, findings=(*job.state.findings, *(Finding(code, detail) for code, detail in found)))
    return replace(job, state=series)


def _predecessors(request: Request) -> Callable[[Series, SrClass], Predecessor | None]:
    """Return a function that finds the SR that a new one replaces: its part's; where parts changed, the last one."""

    def predecessor_of(series: Series, sr_class: SrClass) -> Predecessor | None:
        paths = {part: path for part, kind, path in request.predecessors if kind == sr_class}
        if not paths:
            return None
        last = max(paths, key=lambda part: part or 0)
        return read_predecessor(paths.get(series.part) or paths.get(None) or paths[last])

    return predecessor_of


def _outcome(outcome: Outcome, names: list[str]) -> dict[str, Any]:
    values = {name: getattr(outcome, name) for name in ("part", "status", "reason", "message")}
    return {**values, "files": sorted(set(names)), "seconds": dict(outcome.seconds)}


def _made(outcome: Outcome, pipeline: Pipeline) -> Iterator[dict[str, Any]]:
    folder = Path(series_folder(outcome))
    job_key = json.loads((Path(str(pipeline.output)) / folder / FEATURES_JSON).read_bytes())["job_key"]
    for rank, sr_class in enumerate((pipeline.sr, *pipeline.sr_beside)):
        path = folder / (sr_file(sr_class) if rank else FEATURES_SR)
        header = dcmread(Path(str(pipeline.output)) / path)
        replaced = header.get("PredecessorDocumentsSequence") or []
        named = [one.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID for one in replaced]
        yield {
            "part": outcome.part,
            "job_key": job_key,
            "sr_class": sr_class,
            "rank": rank,
            "sop_class_uid": str(header.SOPClassUID),
            "sop_uid": str(header.SOPInstanceUID),
            "predecessor": str(named[0]) if named else None,
            "path": path.as_posix(),
        }


def main(arguments: Sequence[str]) -> None:
    """Answer each line on stdin until there is none."""
    arguments, json_log = [one for one in arguments if one != JSON_LOG], JSON_LOG in arguments
    end_with_parent(int(arguments[0]))
    for number in (signal.SIGINT, signal.SIGTERM):  # a service is stopped by telling all of its processes: the parent
        signal.signal(number, signal.SIG_IGN)  # decides when this one ends
    set_up_log(LogLevel.WARN, "json" if json_log else "text")
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer

        def say(answer: dict[str, Any]) -> None:
            answers.write(json.dumps(answer) + "\n")
            answers.flush()

        try:
            child = Child(load_settings(Path(arguments[1]) if len(arguments) > 1 else None))
        except CtvaeError as error:
            say({"error": {"reason": error.reason, "message": error.message}})
            return
        say({"ready": True})
        for line in sys.stdin:
            request = Request(**json.loads(line))
            say({"output": request.output, **child.answer(request)})


if __name__ == "__main__":
    main(sys.argv[1:])
