"""The ledger: which acquisition, of which inputs, with which settings, in which state, with which result.

It decides what is due and who may work on it. A claim is a row of a database, so that it survives whoever made it; it
lapses when its lease is not renewed, or at once when its process is known to be dead. Every claim has a higher token
than the one before, and only the highest may publish.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Engine, and_, case, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from pipeline.acquisitions import Acquisition, Asset
from pipeline.ledger.holder import Holder, this_process
from pipeline.ledger.locks import exclusive
from pipeline.ledger.reader import Reader
from pipeline.ledger.tables import acquisitions, events, inputs, open_database, passes
from pipeline.ledger.values import Claim, FencedError, InputNote, State, is_lapsed

PASSES_KEPT_S = 90 * 86_400.0
"""How long it is remembered what came of a pass."""

RETRY_S = 60.0
"""How long a failed acquisition rests before it is tried again; twice as long each time."""


class Ledger(Reader):
    """The ledger of one series, in a database that may hold several; made where it is not there.

    Parameters are those of a reader. Leases are compared with the clock, so that machines that share a ledger need
    clocks that agree within a lease; who may publish does not depend on it.
    """

    def _open(self, address: str) -> Engine:
        return open_database(address)

    # What is there -----------------------------------------------------------------------------------------------

    def note(self, found: Acquisition, settings: str) -> State:
        """Take note of what a source lists; returns the state that follows.

        What is new or changed, or shall be made with other `settings`, is due; what is incomplete waits. What has only
        lost files, as a drop folder that is being emptied does, stays as it is published.
        """
        try:
            return self._note(found, settings)
        except IntegrityError:  # another process saw it first, a moment ago
            return self._note(found, settings)

    def _note(self, found: Acquisition, settings: str) -> State:
        now = self._clock()
        with self._engine.begin() as connection:
            row = connection.execute(
                select(acquisitions)
                .where(
                    acquisitions.c.series == self.series,
                    acquisitions.c.source == found.source,
                    acquisitions.c.name == found.name,
                )
                .with_for_update()
            ).one_or_none()
            known: dict[str, Any] | None = None if row is None else dict(row._mapping)
            state, reason = _next_state(known, found, settings)
            values = {
                "date": found.date,
                "version": found.version,
                "assets": [asdict(asset) for asset in found.assets],
                "settings": settings,
                "seen": now,
            }
            if known is None:
                new: dict[str, Any] = {
                    "series": self.series,
                    "source": found.source,
                    "name": found.name,
                    "changed": now,
                }
                added = connection.execute(
                    insert(acquisitions).values(**values, **new, state=state, reason=reason, token=0, attempts=0)
                )
                self._tell(connection, int(added.inserted_primary_key[0]), 0, state, reason)  # type: ignore[index]
            else:
                if (state, reason) != (known["state"], known["reason"]):
                    values |= {"state": state, "reason": reason, "changed": now}
                if state == "due" != known["state"]:
                    values |= {"attempts": 0, "not_before": 0.0}
                connection.execute(update(acquisitions).where(acquisitions.c.id == known["id"]).values(**values))
                if state != known["state"]:
                    self._tell(connection, known["id"], known["token"], state, reason)
        return state

    # Who works on it ---------------------------------------------------------------------------------------------

    def claim(
        self,
        *,
        lease_s: float,
        attempts: int = 5,
        holder: Holder | None = None,
        alone: bool = False,
        only_lapsed: bool = False,
    ) -> Claim | None:
        """Claim what is due, the oldest date first; None where nothing is, or another holds all of it.

        Parameters
        ----------
        lease_s
            For how long, unless the claim is renewed.
        attempts
            An acquisition whose processes have died so often has failed.
        holder
            Who works; this process by default.
        alone
            Claim nothing while another process works on the series.
        only_lapsed
            Claim only what another process left when it died.
        """
        now, who = self._clock(), str(holder or this_process())
        with self._engine.begin() as connection:
            table = acquisitions.c
            asked = (
                select(acquisitions)
                .where(table.series == self.series)
                .where(or_(and_(table.state == "due", table.not_before <= now), table.state == "running"))
                .order_by(case((table.state == "running", 0), else_=1), table.date, table.name)
                .with_for_update()
            )
            found: list[Mapping[str, Any]] = [dict(row._mapping) for row in connection.execute(asked)]
            lapsed = [row for row in found if row["state"] == "running" and _lapsed(row, now)]
            for row in lapsed:
                if row["attempts"] >= attempts:
                    self._give_up(connection, row, now)
            lapsed = [row for row in lapsed if row["attempts"] < attempts]
            due = [] if only_lapsed else [row for row in found if row["state"] == "due"]
            at_work = [row for row in found if row["state"] == "running" and not _lapsed(row, now)]
            if not (lapsed or due) or (alone and at_work):
                return None
            row = (lapsed + due)[0]
            token = row["token"] + 1
            connection.execute(
                update(acquisitions)
                .where(table.id == row["id"], table.token == row["token"])
                .values(
                    state="running",
                    reason=None,
                    token=token,
                    holder=who,
                    lease_until=now + lease_s,
                    attempts=row["attempts"] + 1,
                    claimed_version=row["version"],
                    changed=now,
                )
            )
            self._tell(connection, row["id"], token, "taken over" if row["state"] == "running" else "claimed", who)
        return _claim(row, token)

    def _give_up(self, connection: Connection, row: Mapping[str, Any], now: float) -> None:
        reason = f"the process that worked on it died {row['attempts']} times; see run.log in its work folder"
        connection.execute(
            update(acquisitions)
            .where(acquisitions.c.id == row["id"])
            # A higher token: should the last of them not be dead after all, it may not publish.
            .values(state="failed", reason=reason, token=row["token"] + 1, holder=None, lease_until=None, changed=now)
        )
        self._tell(connection, row["id"], row["token"] + 1, "failed", reason)

    def renew(self, claim: Claim, lease_s: float) -> None:
        """Keep a claim for another lease; raises FencedError where it is no longer held."""
        with self._engine.begin() as connection:
            self._held(connection, claim)
            connection.execute(
                update(acquisitions).where(acquisitions.c.id == claim.id).values(lease_until=self._clock() + lease_s)
            )

    @contextmanager
    def publishing(self, claim: Claim) -> Iterator[None]:
        """Hold the right to change what the series publishes: one process at a time, and only under the last claim.

        Raises
        ------
        FencedError
            Another process has claimed the acquisition since.
        """
        with exclusive(self._engine, self.series):
            with self._engine.begin() as connection:
                self._held(connection, claim)
            yield

    @contextmanager
    def maintaining(self) -> Iterator[None]:
        """Hold the right to change what the series publishes, without a claim."""
        with exclusive(self._engine, self.series):
            yield

    # What came of it ---------------------------------------------------------------------------------------------

    def publish(
        self, claim: Claim, *, content: str, result: Mapping[str, Any], notes: Iterable[InputNote], remark: str | None
    ) -> None:
        """Record that the result of a claim is published; raises FencedError where the claim is no longer held.

        Parameters
        ----------
        content
            Digest of inputs and settings.
        result
            Where it is, and what it is.
        notes
            What became of each file.
        remark
            What a person should know about it, such as files in quarantine.
        """
        published = {
            "published_version": claim.version,
            "published_assets": [asdict(asset) for asset in claim.assets],
            "published_settings": claim.settings,
            "content": content,
            "result": dict(result),
            "attempts": 0,
        }
        self._settle(claim, "published", remark, published, notes)

    def quarantine(self, claim: Claim, reason: str, notes: Iterable[InputNote]) -> None:
        """Record that nothing can be made of an acquisition until it is delivered anew."""
        self._settle(claim, "quarantined", reason, {}, notes)

    def fail(self, claim: Claim, reason: str, *, attempts: int) -> State:
        """Record that a try failed; it is due again after a rest, until it has been tried `attempts` times."""
        last = claim.attempts >= attempts
        rest = RETRY_S * 2 ** (claim.attempts - 1)
        state: State = "failed" if last else "due"
        self._settle(claim, state, reason, {"not_before": self._clock() + rest}, None)
        return state

    def give_back(self, claim: Claim, reason: str, *, rest_s: float = 0.0) -> None:
        """Give a claim back unused, so that it counts as no try."""
        kept = {"attempts": claim.attempts - 1, "not_before": self._clock() + rest_s}
        self._settle(claim, "due", reason, kept, None)

    def retry(self, states: Sequence[State] = ("failed", "quarantined")) -> int:
        """Make due again what has failed or is in quarantine; returns how many."""
        with self._engine.begin() as connection:
            done = connection.execute(
                update(acquisitions)
                .where(acquisitions.c.series == self.series, acquisitions.c.state.in_(states))
                .values(state="due", attempts=0, not_before=0.0, changed=self._clock())
            )
        return int(done.rowcount)

    def make_again(self, acquisition: int, reason: str) -> bool:
        """Make a published acquisition due again; False where it is not published now."""
        with self._engine.begin() as connection:
            done = connection.execute(
                update(acquisitions)
                .where(acquisitions.c.id == acquisition, acquisitions.c.state == "published")
                .values(
                    state="due",
                    reason=reason,
                    content=None,
                    published_settings=None,
                    attempts=0,
                    not_before=0.0,
                    changed=self._clock(),
                )
            )
            if done.rowcount:
                self._tell(connection, acquisition, 0, "due", reason)
        return bool(done.rowcount)

    def restate(self, acquisition: int, result: Mapping[str, Any], why: str) -> None:
        """Record that what is published of an acquisition has been rewritten."""
        with self._engine.begin() as connection:
            connection.execute(update(acquisitions).where(acquisitions.c.id == acquisition).values(result=dict(result)))
            self._tell(connection, acquisition, 0, "rewritten", why)

    @contextmanager
    def passing(self) -> Iterator[dict[str, Any]]:
        """Note when a pass over the sources begins and how it ends.

        What is put into the dictionary that is given is kept with it: ``counts``, how often each outcome came, and
        ``unreachable``, sources and why they could not be asked.
        """
        now, told = self._clock(), dict[str, Any]()
        with self._engine.begin() as connection:
            old = (passes.c.series == self.series, passes.c.began < now - PASSES_KEPT_S)
            connection.execute(delete(passes).where(*old))
            begun = connection.execute(insert(passes).values(series=self.series, began=now, holder=str(this_process())))
            number = begun.inserted_primary_key[0]  # type: ignore[index]
        fault: str | None = None
        try:
            yield told
        except BaseException as error:
            fault = f"{type(error).__name__}: {' '.join(str(error).split())}"[:1000]
            raise
        finally:
            with self._engine.begin() as connection:
                ended = update(passes).where(passes.c.id == number)
                connection.execute(ended.values(ended=self._clock(), fault=fault, **told))

    def _settle(
        self,
        claim: Claim,
        state: State,
        reason: str | None,
        values: Mapping[str, Any],
        notes: Iterable[InputNote] | None,
    ) -> None:
        with self._engine.begin() as connection:
            row = self._held(connection, claim)
            if row["version"] != claim.version and state in ("published", "quarantined"):
                # It was delivered anew while this was at work: what is recorded is true, and more is to do.
                values = {**values, "attempts": 0, "not_before": 0.0}
                following: State = "due"
                why: str | None = "delivered anew meanwhile"
            else:
                following, why = state, reason
            connection.execute(
                update(acquisitions)
                .where(acquisitions.c.id == claim.id, acquisitions.c.token == claim.token)
                .values(state=following, reason=why, holder=None, lease_until=None, changed=self._clock(), **values)
            )
            if notes is not None:
                _replace_inputs(connection, claim.id, notes)
            self._tell(connection, claim.id, claim.token, state, reason)

    def _held(self, connection: Connection, claim: Claim) -> Mapping[str, Any]:
        """Return the row of a claim, locked; raises FencedError where another claim came after it."""
        row = connection.execute(
            select(acquisitions).where(acquisitions.c.id == claim.id).with_for_update()
        ).one_or_none()
        if row is None or row.token != claim.token or row.state != "running":
            raise FencedError(
                f"{claim.source} {claim.name}: claim {claim.token} is over"
                + ("" if row is None else f" (state {row.state}, claim {row.token}, {row.holder or 'nobody'} at work)")
            )
        return dict(row._mapping)

    def _tell(self, connection: Connection, acquisition: int, token: int, what: str, detail: str | None) -> None:
        connection.execute(
            insert(events).values(acquisition=acquisition, at=self._clock(), token=token, what=what, detail=detail)
        )


def _next_state(known: Mapping[str, Any] | None, found: Acquisition, settings: str) -> tuple[State, str | None]:
    if known is None:
        return ("waiting", found.waiting) if found.waiting else ("due", None)
    state: State = known["state"]
    if state == "running":
        return state, known["reason"]  # who is at work sees, when it is done, that there is something newer
    if known["published_version"] is not None:
        same = known["published_version"] == found.version or _has_only_lost(known["published_assets"], found.assets)
        if same and known["published_settings"] == settings:
            return "published", known["reason"] if state == "published" else None
    unchanged = known["version"] == found.version and known["settings"] == settings
    if found.waiting:
        return "waiting", found.waiting
    if state in ("quarantined", "failed") and unchanged:
        return state, known["reason"]
    return "due", known["reason"] if state == "due" and unchanged else None


def _has_only_lost(before: Iterable[Mapping[str, Any]] | None, now: Iterable[Asset]) -> bool:
    had = {(each["name"], each["version"]) for each in before or ()}
    return {(each.name, each.version) for each in now} <= had


def _lapsed(row: Mapping[str, Any], now: float) -> bool:
    return is_lapsed(row["holder"], row["lease_until"], now)


def _claim(row: Mapping[str, Any], token: int) -> Claim:
    return Claim(
        id=row["id"],
        token=token,
        source=row["source"],
        name=row["name"],
        date=row["date"],
        assets=tuple(Asset(**each) for each in row["assets"]),
        version=row["version"],
        settings=row["settings"],
        attempts=row["attempts"] + 1,
        content=row["content"],
        result=row["result"],
    )


def _replace_inputs(connection: Connection, acquisition: int, notes: Iterable[InputNote]) -> None:
    connection.execute(delete(inputs).where(inputs.c.acquisition == acquisition))
    rows = [
        {
            "acquisition": acquisition,
            "name": note.asset.name,
            "href": note.asset.href,
            "version": note.asset.version,
            "size_bytes": note.asset.size_bytes,
            "sha256": note.sha256,
            "fault": note.fault,
        }
        for note in notes
    ]
    if rows:
        connection.execute(insert(inputs), rows)
