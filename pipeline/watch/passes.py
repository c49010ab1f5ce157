"""One pass over the sources: look, compare with the ledger, work on what is due, publish, and say what came of it.

Knows no scheduler: `ktex watch` runs it from cron, a Prefect flow on its schedule. Any number of passes may overlap.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Protocol

from pipeline.acquisitions import Acquisition, DeliveryError, Source, SourceError
from pipeline.errors import InputError, MisfitError, RunFailedError
from pipeline.ledger import Claim, FencedError, InputNote, Ledger
from pipeline.ledger.heartbeat import kept_alive
from pipeline.ledger.overview import note_series
from pipeline.logs import bound
from pipeline.pixels import fingerprint_file
from pipeline.plan import code_version
from pipeline.results import open_result
from pipeline.settings import Settings
from pipeline.sources import is_udm2
from pipeline.watch.config import WatchConfig, in_file
from pipeline.watch.inspection import Reference, inspect_delivery
from pipeline.watch.layout import Layout
from pipeline.watch.publication import begin_work, content_digest, describe_result, is_in_place, put_in_place
from pipeline.watch.series import extend_series
from pipeline.watch.vocabulary import choose_ids, is_in_order, keep_ids

logger = logging.getLogger(__name__)

BUSY_REST_S = 60.0
"""How long an acquisition rests whose work folder another process still holds."""

What = Literal["published", "unchanged", "quarantined", "failed", "fenced", "busy"]


class Segment(Protocol):
    """Turns files into a published run directory, as `pipeline.segment` does."""

    def __call__(self, source: list[str], out: str, settings: dict[str, Any]) -> object:
        """Segment `source` into `out`; a rerun resumes."""


@dataclass(frozen=True)
class Outcome:
    """What came of one acquisition in a pass.

    Attributes
    ----------
    acquisition
        Source and name.
    what
        What came of it.
    reason
        Why, or what a person should know; None where there is nothing to say.
    run
        Where the result is.
    """

    acquisition: str
    what: What
    reason: str | None = None
    run: str | None = None


@dataclass
class Pass:
    """What a pass saw and did."""

    seen: int = 0
    waiting: dict[str, str] = field(default_factory=dict)
    unreachable: dict[str, str] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)

    def of(self, *kinds: What) -> list[Outcome]:
        """Return the outcomes of some kinds."""
        return [each for each in self.outcomes if each.what in kinds]

    @property
    def counts(self) -> dict[str, int]:
        """How often each outcome came, with what was seen and what waits."""
        return {"seen": self.seen, "waiting": len(self.waiting), **Counter(each.what for each in self.outcomes)}

    @property
    def exit_code(self) -> int:
        """0; 1 where something failed that another pass tries again; 3 where something needs a person."""
        if self.of("failed") or self.unreachable:
            return 1
        return 3 if any(each.reason for each in self.of("quarantined", "published", "unchanged")) else 0


def watch(
    config: WatchConfig,
    segment: Segment,
    *,
    ledger: Ledger | None = None,
    sources: Sequence[Source] | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    limit: int | None = None,
    only_resume: bool = False,
    report: Callable[[Outcome], None] = lambda _: None,
) -> Pass:
    """Do one pass.

    Parameters
    ----------
    config
        The series.
    segment
        Turns files into a run directory.
    ledger, sources
        As the configuration says, by default.
    now
        Tells the time.
    limit
        Work on so many acquisitions at most.
    only_resume
        Look at no source, and go on only with what another process left when it died.
    report
        Called with each outcome as it comes.

    Raises
    ------
    InputError
        The ledger or the configuration is wrong; a source or a delivery that is wrong is an outcome.
    """
    note_series(config.out, config.name, config.ledger)
    book = ledger or Ledger(config.ledger_address, config.name)
    try:
        done = Pass()
        opened = {source.name: source for source in (config.open_sources() if sources is None else sources)}
        with nullcontext(dict[str, Any]()) if only_resume else book.passing() as told:
            if not only_resume:
                survey(config, book, list(opened.values()), now(), done)
            for claim in _claims(config, book, done, limit, only_resume):
                outcome = _work(config, book, opened, claim, segment)
                done.outcomes.append(outcome)
                report(outcome)
            told.update(counts=done.counts, unreachable=done.unreachable)
        return done
    finally:
        if ledger is None:
            book.close()


def _claims(config: WatchConfig, ledger: Ledger, done: Pass, limit: int | None, only_lapsed: bool) -> Iterator[Claim]:
    """Yield what may be worked on, claimed, until there is no more or the limit is reached."""
    while limit is None or len(done.outcomes) < limit:
        alone = is_in_order(config, Layout(config.out))
        claim = ledger.claim(lease_s=config.lease_s, attempts=config.attempts, alone=alone, only_lapsed=only_lapsed)
        if claim is None:
            return
        yield claim


def survey(config: WatchConfig, ledger: Ledger, sources: Sequence[Source], now: datetime, done: Pass) -> None:
    """Note in the ledger what the sources list; one that cannot be asked does not stop the others."""
    digest, since = config.settings_digest(), None
    if config.look_back_days is not None:
        since = (now - timedelta(days=config.look_back_days)).date().isoformat()
    for source in sources:
        try:
            found: list[Acquisition] = source.survey(now, since)
        except SourceError as error:
            logger.error("%s", error)
            done.unreachable[source.name] = str(error)
            continue
        done.seen += len(found)
        for each in found:
            if ledger.note(each, digest) == "waiting":
                done.waiting[f"{each.source} {each.name}"] = each.waiting or ""


def _work(config: WatchConfig, ledger: Ledger, sources: dict[str, Source], claim: Claim, segment: Segment) -> Outcome:
    """Work on a claim to its end, whatever that is."""
    name = f"{claim.source} {claim.name}"
    try:
        with bound(acquisition=name), kept_alive(ledger, claim, config.lease_s):
            logger.info("%s: begun, %d file(s), claim %d, try %d", name, len(claim.assets), claim.token, claim.attempts)
            outcome = _process(config, ledger, sources, claim, segment)
            logger.info("%s: %s%s", name, outcome.what, f" ({outcome.reason})" if outcome.reason else "")
            return outcome
    except FencedError as error:
        return Outcome(name, "fenced", str(error))
    except BusyError as error:
        ledger.give_back(claim, str(error), rest_s=BUSY_REST_S)
        return Outcome(name, "busy", str(error))
    except Exception as error:
        reason = _one_line(error)
        logger.exception("%s failed", name)
        try:
            ledger.fail(claim, reason, attempts=config.attempts)
        except FencedError as fenced:
            return Outcome(name, "fenced", str(fenced))
        return Outcome(name, "failed", reason)


class BusyError(RuntimeError):
    """Another process is at work in the work folder, though its claim is over."""


def _process(
    config: WatchConfig, ledger: Ledger, sources: dict[str, Source], claim: Claim, segment: Segment
) -> Outcome:
    name, layout, settings = f"{claim.source} {claim.name}", Layout(config.out), config.run_settings()
    source = sources.get(claim.source)
    if source is None:
        raise SourceError(f"source {claim.source} is no longer configured")
    paths, notes = _take_in(config, ledger, source, claim, layout, settings)
    if fault := _unusable(claim, paths, notes, ledger):
        ledger.quarantine(claim, fault, notes)
        return Outcome(name, "quarantined", fault)
    remark = _remark(notes)
    content = content_digest(notes, claim.settings)
    if content == claim.content and claim.result is not None and is_in_place(layout, claim, content):
        remark = _joined(remark, claim.result.get("apart"))
        ledger.publish(claim, content=content, result=claim.result, notes=notes, remark=remark)
        return Outcome(name, "unchanged", remark, claim.result.get("run"))
    if not is_in_place(layout, claim, content):
        try:
            _segment(config, layout, claim, paths, content, segment)
            _check_read(layout, claim, notes)
        except InputError as error:  # found before anything was written: the files do not make one scene
            if "another run is at work there" in str(error):
                raise BusyError(str(error)) from error
            reason = in_file(str(error))
            ledger.quarantine(claim, reason, notes)
            return Outcome(name, "quarantined", reason)
    with ledger.publishing(claim):
        run = put_in_place(layout, claim, content)
        if Reference.read(layout.reference) is None:
            Reference.of(paths[0], settings).write(layout.reference)
        keep_ids(config, layout, run)
        apart = _extend(layout, run, str(claim.date))
        remark = _joined(remark, apart)
        result = describe_result(run, apart)
        ledger.publish(claim, content=content, result=result, notes=notes, remark=remark)
    return Outcome(name, "published", remark, str(run))


def _take_in(
    config: WatchConfig, ledger: Ledger, source: Source, claim: Claim, layout: Layout, settings: Settings
) -> tuple[list[Path], list[InputNote]]:
    """Fetch and inspect the files of an acquisition; what is wrong with one of them does not stop the others."""
    reference = Reference.read(layout.reference)
    if reference is None and config.like is not None:
        reference = Reference.of(config.like, settings)
    paths: list[Path] = []
    notes: list[InputNote] = []
    contents: dict[str | None, str] = {}
    for asset in claim.assets:
        path, sha256 = None, None
        try:
            path = source.fetch(asset, layout.copies(claim))
            sha256 = fingerprint_file(path).identity
            if not is_udm2(path):
                if sha256 in contents:
                    raise DeliveryError(f"{path}: duplicate: has the same content as {contents[sha256]}")
                inspect_delivery(path, settings, reference)
                contents[sha256] = asset.name
                reference = reference or Reference.of(path, settings)
                paths.append(path)
            notes.append(InputNote(asset, sha256))
        except (DeliveryError, InputError) as error:
            logger.warning("%s %s: in quarantine: %s", claim.source, claim.name, error)
            notes.append(InputNote(asset, sha256, in_file(str(error))))
    return paths, notes


def _unusable(claim: Claim, paths: list[Path], notes: list[InputNote], ledger: Ledger) -> str | None:
    """Return why nothing can be made of an acquisition; None where something can."""
    faults = [note.fault for note in notes if note.fault is not None]
    if not paths:
        return "; ".join(faults) or "no imagery in it"
    if claim.date is None:
        return f"{paths[0]}: no date in its name or that of its folder; a series needs one (2021-03 or 2021-03-05)"
    used = [note for note in notes if note.fault is None and note.sha256 and not is_udm2(Path(note.asset.name))]
    twins = {ledger.find_content(str(note.sha256), other_than=claim.id) for note in used}
    if None not in twins:
        return f"{paths[0]}: duplicate: has the same content as {', '.join(sorted(map(str, twins)))}"
    others = [row for row in ledger.rows() if row.date == claim.date and row.id != claim.id and row.result is not None]
    if others:
        return f"{paths[0]}: its date {claim.date} is published already from source {others[0].source}"
    return None


def _extend(layout: Layout, run: Path, date: str) -> str | None:
    """Make a run part of the series; where the series cannot hold it, the run is published alone, and this says why."""
    try:
        extend_series(layout, run, date)
    except MisfitError as error:
        logger.warning("%s", error)
        return f"not in the series: {error}"
    return None


def _joined(*remarks: str | None) -> str | None:
    return "; ".join(remark for remark in remarks if remark) or None


def _remark(notes: list[InputNote]) -> str | None:
    faults = [note.fault for note in notes if note.fault is not None]
    return f"without {len(faults)} file(s) in quarantine: {'; '.join(faults)}" if faults else None


def _segment(
    config: WatchConfig, layout: Layout, claim: Claim, paths: list[Path], content: str, segment: Segment
) -> None:
    """Make the run of an acquisition in its work folder; what is there already is gone on with, if it fits."""
    work, settings = layout.work(claim), choose_ids(config, layout)
    begin_work(layout, claim, {"content": content, "code": code_version(), "settings": settings})
    segment([str(path) for path in paths], str(work), settings)
    missing = open_result(work).record.blocks.failed_names
    if missing:
        raise RunFailedError(f"blocks {', '.join(missing)} are missing; another try goes on from what is there")


def _check_read(layout: Layout, claim: Claim, notes: list[InputNote]) -> None:
    """Raise RunFailedError where a run has read other files than were looked at: somebody has changed them since."""
    seen = {note.sha256: note.asset.name for note in notes if note.fault is None}
    for source in open_result(layout.work(claim)).record.inputs:
        if source.sha256 is not None and source.sha256 not in seen:
            raise RunFailedError(f"{source.path}: changed while it was read; another try reads it anew")


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:1000]
