"""When a view has lasted too long: timers, their growth, rest, and who counts as inactive.

Nothing here signs or sends; the engine asks. Timers and silence clocks run only while the view is
awake, so an idle chain marks nobody inactive and times nothing out.
"""

from atpar.consensus.types import Timing


class Pacemaker:
    """Clocks of one epoch. All times are milliseconds on the caller's monotonic clock."""

    def __init__(self, timing: Timing, *, size: int, quorum: int, me: int | None) -> None:
        self._timing = timing
        self._size = size
        self._quorum = quorum
        self._me = me
        self._level = 0
        self._entered_ms = 0
        self._awake_ms: int | None = None
        self._active_ms = 0
        """Time spent awake in earlier views: the clock that silence is measured on."""
        self._heard_ms = [0] * size
        """Reading of the active clock when a validator's vote last arrived."""
        self._gone: set[int] = set()
        """Validators without a connection to here."""
        self.leader_at: int | None = None
        self.advance_at: int | None = None
        self.retry_at: int | None = None

    @property
    def delta_ms(self) -> int:
        """The bound on network delay that timers assume now."""
        return min(self._timing.delta_ms << self._level, self._timing.max_delta_ms)

    @property
    def is_awake(self) -> bool:
        """Whether the current view's timers run."""
        return self._awake_ms is not None

    @property
    def heartbeat_at(self) -> int:
        """When a resting view wakes by itself."""
        return self._entered_ms + self._timing.heartbeat_ms

    def enter(self, now_ms: int) -> None:
        """Begin a view: at rest, timers off."""
        if self._awake_ms is not None:
            self._active_ms += now_ms - self._awake_ms
        self._entered_ms = now_ms
        self._awake_ms = None
        self.leader_at = self.advance_at = self.retry_at = None

    def wake(self, now_ms: int) -> None:
        """End the view's rest: arm its timers. Without effect when awake."""
        if self._awake_ms is not None:
            return
        timing = self._timing
        ready = now_ms + timing.block_interval_ms + timing.build_allowance_ms
        self._awake_ms = now_ms
        self.leader_at = ready + 2 * self.delta_ms
        self.advance_at = ready + 3 * self.delta_ms + timing.verify_allowance_ms
        self.retry_at = now_ms + timing.retry_ms

    def defer_retry(self, now_ms: int) -> None:
        """Set the next repetition one retry interval from now."""
        self.retry_at = now_ms + self._timing.retry_ms

    def back_off(self) -> None:
        """Assume a slower network from the next view on, up to the bound."""
        if self.delta_ms < self._timing.max_delta_ms:
            self._level += 1

    def speed_up(self) -> None:
        """Take back one step of backing off."""
        self._level = max(0, self._level - 1)

    def hear(self, index: int, now_ms: int) -> None:
        """Note a sign of life from a validator.

        What arrives from one whose connection broke was on its way before, and is none. When it
        makes the audible ones a quorum again (a partition healed), every silence starts anew:
        those whose messages arrive a moment later shall not count as inactive.
        """
        if index in self._gone:
            return
        active = self._get_active(now_ms)
        was_silent = active - self._heard_ms[index] > self._timing.skip_timeout_ms
        if was_silent and not self._hears_quorum(active):
            self._heard_ms[index] = active
            if self._hears_quorum(active):
                self._heard_ms = [active] * self._size
        self._heard_ms[index] = active

    def lose(self, index: int, now_ms: int) -> None:
        """Note that the connection to a validator broke: inactive until it is back and votes.

        Whoever is dead is known at once on most networks. A wrong guess costs what a false
        suspicion costs: views of that leader, until its next vote arrives.
        """
        self.miss(index)
        self._heard_ms[index] = self._get_active(now_ms) - self._timing.skip_timeout_ms - 1

    def miss(self, index: int) -> None:
        """Note that there is no connection to a validator yet."""
        self._gone.add(index)

    def find(self, index: int) -> None:
        """Note that the connection to a validator stands: what it sends now are signs of life."""
        self._gone.discard(index)

    def is_inactive(self, index: int, now_ms: int) -> bool:
        """Return whether a validator is gone, or silent for the skip timeout, while Q are heard."""
        active = self._get_active(now_ms)
        silence = active - self._heard_ms[index]
        if index == self._me:
            return False
        if index not in self._gone and silence <= self._timing.skip_timeout_ms:
            return False
        return self._hears_quorum(active)

    def _get_active(self, now_ms: int) -> int:
        return self._active_ms + (0 if self._awake_ms is None else now_ms - self._awake_ms)

    def _hears_quorum(self, active: int) -> bool:
        oldest = active - self._timing.skip_timeout_ms
        reached = (i for i, heard in enumerate(self._heard_ms) if heard >= oldest)
        heard = sum(1 for index in reached if index not in self._gone)
        if self._me is not None and self._heard_ms[self._me] < oldest:
            heard += 1
        return heard >= self._quorum
