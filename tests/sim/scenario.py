"""One run: a cluster, its traffic, and the faults that a plan and a seed lay out in time."""

import random
from collections.abc import Callable
from itertools import pairwise

from atpar.ledger.limits import HOUR_MS
from atpar.ledger.transactions import Transaction
from atpar.node.store import FinalBlock
from tests.ledger.world import public
from tests.sim.byzantine.table import ACTORS, make_actor
from tests.sim.byzantine.twin import Twin
from tests.sim.checkers import Checkers, Violation
from tests.sim.cluster import PATH, Cluster, Machine, MachineStore, get_vote_keys
from tests.sim.crypto import Keyring
from tests.sim.network import Network
from tests.sim.profiles import NO_EPOCHS, Plan
from tests.sim.recovery import Operators, lose_journal
from tests.sim.wire import Selective
from tests.sim.worlds import Treasury, get_codes, make_genesis, make_values

PROGRESS_BOUND_MS = 30_000
"""After the last fault everything submitted is final everywhere within this, or it is a stall."""
POLL_MS = 200
MAX_EVENTS = 400_000


class Recorder(Checkers):
    """Checks, and takes the time from submission to finality at the submitter."""

    def __init__(self, cluster: Callable[[], Cluster], *, faults: int, ring: Keyring) -> None:
        super().__init__(faults=faults, verify_batch=ring.verify_batch)
        self._cluster = cluster
        self.waiting: dict[bytes, tuple[str, int]] = {}
        """Transaction hash -> (machine id, time) of what is not final at its submitter."""
        self.latencies: list[int] = []
        self.taken: dict[bytes, int] = {}
        """Transaction hash -> the time it took."""

    def on_final(self, machine: Machine, block: FinalBlock) -> None:
        super().on_final(machine, block)
        for tx in block.transactions:
            held = self.waiting.get(tx.hash)
            if held is not None and held[0] == machine.id:
                del self.waiting[tx.hash]
                self.taken[tx.hash] = self._cluster().now_ms - held[1]
                self.latencies.append(self.taken[tx.hash])


class Scenario:
    """Owns one run."""

    def __init__(
        self, plan: Plan, *, validators: int, seed: str, trace: Callable[[str], None] | None = None
    ) -> None:
        self.plan = plan
        self.rng = random.Random(f"{seed}/faults")
        faults = (validators - 1) // 3
        ring = Keyring(is_real=plan.is_signed)
        self.checkers = Recorder(lambda: self.cluster, faults=faults, ring=ring)
        genesis = make_genesis(validators, plan.spares, plan.epoch_blocks)
        self.codes = get_codes(validators)
        self.cluster = Cluster(
            genesis=genesis,
            values=make_values(validators, plan.spares, plan.epoch_blocks),
            codes=get_codes(validators + plan.spares),
            ring=ring,
            network=Network(random.Random(f"{seed}/network"), plan.link),
            watcher=self.checkers,
        )
        self.cluster.block_gap_ms, self.cluster.block_ops = plan.block_gap_ms, plan.block_ops
        self.cluster.trace = trace
        self.treasury = Treasury(genesis, ring, random.Random(f"{seed}/payments"))
        self.is_over = False
        """Faults have stopped."""
        self.recovery_ms: int | None = None
        self.liars: list[Machine] = []
        self.forgetful: Machine | None = None
        self._submitted: list[tuple[Machine, int, Transaction]] = []
        """(machine, its boots, transaction) of everything that an honest machine took."""
        self._images: dict[str, tuple[dict[bytes, bytes], dict[bytes, bytes]]] = {}

    # ---- the run

    def run(self) -> str | None:
        """Run to the end; return what stalled, or None.

        Raises:
            Violation: a rule is broken.
        """
        self._set_up()
        self.cluster.run(self.plan.active_ms)
        self._end_faults()
        stalled = self._recover() or self._wait_for_progress()
        self._check_end()
        return stalled

    def _set_up(self) -> None:
        plan, rng, cluster = self.plan, self.rng, self.cluster
        self._choose_liars()
        self.checkers.honest = frozenset(m.code for m in cluster.get_honest())
        self._set_clocks()
        if "disk" in plan.kinds:
            for machine in cluster.machines.values():
                machine.fsync_ms = rng.choice((0, 1, 5, 30, 120))
                machine.commit_ms = rng.choice((0, 2, 20, 150))
        late = [m.id for m in cluster.machines.values() if self._is_late(m)]
        cluster.start(*[name for name in cluster.machines if name not in late])
        for name in late:
            self._at(rng.randint(100, plan.active_ms), self._boot_later(name))
        first = self.treasury.fund(cluster.wall_ms)
        self._at(1, lambda: self._submit(first))
        self._plan_payments()
        self._plan_faults()

    def _is_late(self, machine: Machine) -> bool:
        if machine.code not in self.codes:
            return self.rng.random() < 0.5
        return "crash" in self.plan.kinds and machine.code == "DLTA" and self.rng.random() < 0.3

    def _plan_absence(self) -> None:
        """Now and then one machine is away from early on until faults end."""
        if "crash" in self.plan.kinds and self.rng.random() < 0.15:
            machine = self.cluster.machines[self.rng.choice(self.codes)]
            for at in range(self.rng.randint(0, 1_000), self.plan.active_ms, 500):
                self._at(at, lambda: self.cluster.crash(machine.id) if machine.is_up else None)

    def _boot_later(self, name: str) -> Callable[[], None]:
        return lambda: self._boot(self.cluster.machines[name])

    def _at(self, time_ms: int, action: Callable[[], None]) -> None:
        """Plan something that happens only while faults go on."""
        self.cluster.timeline.at(time_ms, lambda: None if self.is_over else action())

    def _choose_liars(self) -> None:
        plan, rng, cluster = self.plan, self.rng, self.cluster
        codes = list(self.codes)
        rng.shuffle(codes)
        room = plan.liars
        if "twins" in plan.kinds and room:
            code = codes.pop()
            room -= 1
            cluster.add(code, machine_id=f"{code}~2")
            for machine in cluster.by_code[code]:
                machine.actor = Twin(cluster, machine, rng)
                self.liars.append(machine)
        if "disk" in plan.kinds and room and rng.random() < 0.6:
            self.forgetful = cluster.machines[codes.pop()]
            room -= 1
        if "byzantine" in plan.kinds and room:
            conspiracy = [rng.choice(sorted(ACTORS))] if rng.random() < 0.25 else sorted(ACTORS)
            for code in codes[: rng.randint(1, room)]:
                machine = cluster.machines[code]
                names = [rng.choice(conspiracy)]
                if rng.random() < 0.25:
                    names.append(rng.choice(sorted(ACTORS)))
                cluster.note("byzantine", f"{code} {'+'.join(names)}")
                machine.actor = make_actor(names, cluster, machine, rng)
                self.liars.append(machine)
                self._poll(machine)

    def _poll(self, machine: Machine) -> None:
        """Let a liar act by itself, again and again, to the end of the run."""

        def act() -> None:
            assert machine.actor is not None
            if machine.is_up:
                for peer, lane, data in machine.actor.poll():
                    self.cluster.transmit(machine, peer, lane, data)
            self.cluster.after(POLL_MS, act)

        self.cluster.after(POLL_MS, act)

    def _set_clocks(self) -> None:
        """Skew every clock a little, and let one clock be quite wrong."""
        rng = self.rng
        if not self.plan.kinds:
            return
        for machine in self.cluster.machines.values():
            machine.clock.offset_ms = rng.randint(-400, 400)
        faulty = {machine.code for machine in self.liars}
        room = self.plan.liars - len(faulty) - (self.forgetful is not None)
        if "clock" not in self.plan.kinds or (room < 1 and (faulty or self.forgetful)):
            return
        machine = self.cluster.machines[rng.choice(self.codes)]
        kind = rng.choice(("frozen", "ahead", "behind", "jumping", "drifting"))
        self.cluster.note("clock", f"{machine.id} {kind}")
        match kind:
            case "frozen":
                machine.clock.frozen_at = self.cluster.wall_ms + rng.randint(0, 5_000)
            case "ahead":
                machine.clock.offset_ms = rng.randint(1_500, 600_000)
            case "behind":
                machine.clock.offset_ms = -rng.randint(5_000, 50_000)
            case "drifting":
                machine.clock.drift_ppm = rng.randint(-5_000, 5_000)
            case _:
                self._jump(machine)

    def _jump(self, machine: Machine) -> None:
        def jump() -> None:
            machine.clock.offset_ms = self.rng.randint(-20_000, 20_000)
            self.cluster.note("jump", f"{machine.id} {machine.clock.offset_ms}")
            self.cluster.after(self.rng.randint(300, 3_000), jump)

        self.cluster.after(1_000, jump)

    # ---- payments

    def _plan_payments(self) -> None:
        rng, plan = self.rng, self.plan
        at = 200.0
        # A pause lets the chain rest, with heartbeats at most, and wakes it again.
        pause = plan.active_ms / 3 if rng.random() < 0.2 else 0.0
        while at < plan.active_ms:
            at += rng.expovariate(plan.rate_per_s) * 1_000
            if pause and plan.active_ms / 3 < at < 2 * plan.active_ms / 3:
                at += pause
            for _ in range(1 if rng.random() < 0.95 else rng.randint(5, 20)):
                self._at(round(at), self._pay)
        if rng.random() < 0.05:
            at = rng.randint(500, plan.active_ms)
            for _ in range(150):
                self._at(round(at), self._pay)

    def _pay(self) -> None:
        """Submit a payment; one in twenty is not valid for long."""
        window = (-HOUR_MS, HOUR_MS)
        if self.rng.random() < 0.05:
            window = (-HOUR_MS, self.rng.randint(0, 3_000))
        self._submit(self.treasury.pay(self.cluster.wall_ms, window=window))

    def _submit(self, tx: Transaction, machine: Machine | None = None) -> bool:
        """Hand a transaction to an honest machine that runs."""
        running = [m for m in self.cluster.get_honest() if m.is_up and m.halt is None]
        if machine is None:
            if not running:
                return False
            machine = self.rng.choice(running)
        boots = machine.boots
        if not self.cluster.submit(machine, tx):
            return False
        self._submitted.append((machine, boots, tx))
        self.checkers.waiting[tx.hash] = (machine.id, self.cluster.now_ms)
        return True

    # ---- faults

    def _plan_faults(self) -> None:
        rng, plan = self.rng, self.plan
        table: dict[str, tuple[Callable[[], None], tuple[int, int]]] = {
            "partition": (self._partition, (1, 3)),
            "crash": (self._crash_some, (2, 6)),
            "disk": (self._hurt_disk, (2, 5)),
            "twins": (self._separate_twins, (5, 12)),
            "epoch": (self._change_set, (1, 3)),
            "lossy": (self._slow_one_down, (0, 2)),
            "selective": (self._drop_selectively, (2, 6)),
            "recovery": (self._lose_quorum, (1, 1)),
        }
        for kind in sorted(plan.kinds & table.keys()):
            act, (least, most) = table[kind]
            for _ in range(rng.randint(least, most)):
                self._at(rng.randint(0, plan.active_ms), act)
        self._plan_absence()
        if self.forgetful is not None:
            self._at(rng.randint(500, plan.active_ms // 2), self._take_image)
            self._at(rng.randint(plan.active_ms // 2, plan.active_ms), self._forget)
        if plan.epoch_blocks == NO_EPOCHS or rng.random() < 0.5:
            for _ in range(rng.randint(0, 3)):
                self._at(rng.randint(500, plan.active_ms), self._compact_one)

    def _partition(self) -> None:
        rng, cluster = self.rng, self.cluster
        ids = sorted(cluster.machines)
        rng.shuffle(ids)
        away = ids[: rng.randint(1, len(ids) - 1)]
        kind = rng.random()
        if kind < 0.15:
            # Some pairs do not reach each other, though both reach the rest.
            for one, other in pairwise(ids[: len(away) + 1]):
                cluster.break_connection(
                    cluster.machines[one], cluster.machines[other], rng.randint(300, 8_000)
                )
            return
        if kind < 0.55:
            cluster.cut(*away)
        else:
            # Nothing tells the machines: messages in one direction vanish.
            cluster.note("deaf", ",".join(away))
            cluster.network.cut([i for i in ids if i not in away], away)
        self._at(cluster.now_ms + rng.randint(300, 4_000), cluster.heal)

    def _drop_selectively(self) -> None:
        cluster, rng = self.cluster, self.rng
        chosen = Selective(sorted(cluster.machines), rng)
        cluster.note("drop", str(chosen))
        cluster.filter = chosen.passes

        def end() -> None:
            if cluster.filter == chosen.passes:
                cluster.filter = None

        self._at(cluster.now_ms + rng.randint(300, 5_000), end)

    def _lose_quorum(self) -> None:
        """Lose the journals of so many validators that the others are no quorum."""
        rng, faults = self.rng, (len(self.codes) - 1) // 3
        for code in rng.sample(self.codes, rng.randint(faults + 1, 2 * faults + 1)):
            machine = self.cluster.machines[code]
            self._at(
                self.cluster.now_ms + rng.choice((0, 0, rng.randint(0, 1_000))),
                lambda machine=machine: lose_journal(self.cluster, machine),
            )

    def _slow_one_down(self) -> None:
        rng, cluster = self.rng, self.cluster
        name = rng.choice(sorted(cluster.machines))
        low = rng.randint(50, 600)
        cluster.note("slow", f"{name} {low}")
        for other in cluster.machines:
            for way in ((name, other), (other, name)):
                cluster.network.change(*way, latency_ms=(low, low * 2))

    def _crash_some(self) -> None:
        rng, cluster = self.rng, self.cluster
        up = [m for m in cluster.machines.values() if m.is_up]
        if not up:
            return
        count = len(up) if rng.random() < 0.2 else 1
        for machine in rng.sample(up, count):
            how = rng.randrange(4)
            if how == 0 and machine.disk.cut_at is None:
                machine.disk.cut_at = machine.disk.steps + rng.randint(0, 8)
                cluster.crash_tail = rng.choice((0, 1, 7, 40, None))
            elif how == 1:
                machine.engine.crash_at = machine.engine.batches + rng.randint(0, 2)
                machine.engine.keeps = rng.random() < 0.5
            else:
                cluster.crash(
                    machine.id,
                    tail=rng.choice((0, 1, 7, 40, None)),
                    zeros=rng.choice((0, 0, 1, 3_000)),
                )
            self._restart_later(machine)

    def _restart_later(self, machine: Machine) -> None:
        def again() -> None:
            if not machine.is_up:
                self._boot(machine)
            elif machine.disk.cut_at is not None or machine.engine.crash_at is not None:
                self._restart_later(machine)

        self._at(self.cluster.now_ms + self.rng.randint(50, 3_000), again)

    def _boot(self, machine: Machine) -> None:
        """Start a machine; one whose journal is unusable gets a new one, as the message says."""
        if machine.is_up:
            return
        if not self.cluster.boot(machine) and machine.fault is not None:
            if not machine.was_forgetful:
                raise Violation(f"{machine.id} does not start: {machine.fault}")
            if "recovery" in self.plan.kinds:
                return
            self.cluster.begin_new_journal(machine)
            self.cluster.boot(machine)

    def _hurt_disk(self) -> None:
        rng, cluster = self.rng, self.cluster
        up = [m for m in cluster.machines.values() if m.is_up]
        if not up:
            return
        machine = rng.choice(up)
        match rng.randrange(3):
            case 0:
                machine.disk.fail_at = machine.disk.steps + rng.randint(0, 4)
                self._restart_later(machine)
            case 1:
                machine.disk.short_writes = True
                machine.fsync_ms = rng.choice((1, 60, 300))
            case _:
                # chain.db is lost and begun anew; the journal is kept.
                cluster.crash(machine.id)
                cluster.note("lost-store", machine.id)
                self._replace_store(machine, cluster.values)
                self._boot(machine)

    def _replace_store(self, machine: Machine, values: dict[bytes, bytes]) -> None:
        machine.engine = MachineStore(values)
        self.checkers.forget_tip(machine)

    def _take_image(self) -> None:
        machine = self.forgetful
        assert machine is not None
        self._images[machine.id] = (
            {PATH: machine.disk.synced[PATH]},
            dict(machine.engine.values),
        )

    def _forget(self) -> None:
        """Wipe, roll back or rot the journal of the one validator to which this may happen."""
        machine, rng, cluster = self.forgetful, self.rng, self.cluster
        assert machine is not None
        if machine.is_up:
            cluster.crash(machine.id)
        machine.was_forgetful = True
        kind = rng.choice(("wiped", "image", "journal-image", "rotted"))
        cluster.note("forget", f"{machine.id} {kind}")
        match kind:
            case "wiped":
                cluster.begin_new_journal(machine)
                if rng.random() < 0.5:
                    self._replace_store(machine, cluster.values)
            case "image" | "journal-image":
                if machine.id in self._images:
                    files, values = self._images[machine.id]
                    machine.disk.synced, machine.disk.cached = dict(files), dict(files)
                    if kind == "image":
                        self._replace_store(machine, values)
            case _:
                data = bytearray(machine.disk.synced[PATH])
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
                machine.disk.synced[PATH] = machine.disk.cached[PATH] = bytes(data)
        self._at(cluster.now_ms + rng.randint(0, 2_000), lambda: self._boot(machine))

    def _separate_twins(self) -> None:
        """Let each twin see some of the others, with overlap."""
        cluster, rng = self.cluster, self.rng
        twins = [m for m in self.liars if isinstance(m.actor, Twin)]
        if not twins:
            return
        others = [m for m in cluster.machines if m not in {t.id for t in twins}]
        for twin in twins:
            for other in others:
                for way in ((twin.id, other), (other, twin.id)):
                    cluster.network.cuts.discard(way)
                    if rng.random() < 0.4:
                        cluster.network.cuts.add(way)
        cluster.note("twins", str(len(cluster.network.cuts)))

    def _change_set(self) -> None:
        """Vote a participant in or out, rotate a vote key, or change the order."""
        running = [m for m in self.cluster.get_honest() if m.is_up]
        if not running:
            return
        rng = self.rng
        current = running[0].running.epoch_start.validators.members
        members = {
            member.participant: next(
                name
                for name in get_vote_keys(member.participant)
                if public(name) == member.vote_key
            )
            for member in current
        }
        voters = list(members)
        honest = [code for code in voters if code in self.checkers.honest]
        everybody = get_codes(len(self.codes) + self.plan.spares)
        outside = [code for code in everybody if code not in members]
        if outside:
            members[outside[0]] = get_vote_keys(outside[0])[0]
        elif len(members) > 4:
            del members[rng.choice(honest)]
        if rng.random() < 0.5:
            code = rng.choice(honest)
            if code in members:
                members[code] = get_vote_keys(code)[1]
        shuffled = list(members.items())
        rng.shuffle(shuffled)
        self._submit(
            self.treasury.change_set(self.cluster.wall_ms, voters=voters, members=dict(shuffled))
        )

    def _compact_one(self) -> None:
        machine = self.rng.choice(list(self.cluster.machines.values()))
        self.cluster.compact(machine)

    # ---- the end

    def _end_faults(self) -> None:
        """Stop every fault but the liars, and start what is down."""
        cluster = self.cluster
        self.is_over = True
        cluster.note("faults end")
        cluster.heal()
        cluster.network.restore()
        cluster.filter = None
        for machine in cluster.machines.values():
            machine.fsync_ms, machine.commit_ms = 1, 2
            machine.disk.cut_at = machine.disk.fail_at = None
            machine.engine.crash_at = None
            self._boot(machine)

    def _recover(self) -> str | None:
        """Let a recovery document reopen the chain where too few can vote."""
        if "recovery" not in self.plan.kinds:
            return None
        if Operators(self.cluster, self._boot).reopen():
            return None
        places = ", ".join(f"{m.id} {m.height}" for m in self.cluster.get_honest())
        return f"a node cannot apply the recovery document: {places}"

    def _wait_for_progress(self) -> str | None:
        """Run until everything submitted is final on every honest machine, or too long."""
        cluster = self.cluster
        ended = cluster.now_ms
        honest = cluster.get_honest()
        probes = {m.id: self.treasury.pay(cluster.wall_ms) for m in honest}
        unsent = dict(probes)
        while cluster.now_ms - ended < PROGRESS_BOUND_MS:
            for name in list(unsent):
                # A node that is still behind may not know the accounts yet.
                if self._submit(unsent[name], cluster.machines[name]):
                    del unsent[name]
            cluster.run(50)
            if not unsent and self._is_done(list(probes.values())):
                self.recovery_ms = cluster.now_ms - ended
                return None
        places = ", ".join(f"{m.id} {m.height}" for m in honest)
        missing = len(self._find_missing())
        return f"no progress within {PROGRESS_BOUND_MS} ms: {missing} not final; {places}"

    def _is_done(self, probes: list[Transaction]) -> bool:
        known = self.checkers.transactions
        if any(tx.hash not in known for tx in probes) or self._find_missing():
            return False
        top = max(known[tx.hash] for tx in probes)
        return all(m.height >= top for m in self.cluster.get_honest())

    def _find_missing(self) -> list[Transaction]:
        """Return what an honest machine that stayed up took, and is neither final nor answered."""
        known = self.checkers.transactions
        missing = []
        for machine, boots, tx in self._submitted:
            if tx.hash in known or machine.boots != boots or not machine.is_up:
                continue
            if all(drop.transaction.hash != tx.hash for drop in machine.dropped):
                missing.append(tx)
        return missing

    def _check_end(self) -> None:
        honest = [m for m in self.cluster.get_honest() if m.is_up]
        self.checkers.check_end(honest, deeply=self.rng.random() < 0.2)
