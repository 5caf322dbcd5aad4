"""Every Prometheus metric of a node, declared in one place on one explicit registry.

Nothing is registered globally, so several nodes can live in one process (tests do that). Label
values come from closed sets (registered participants, route templates, reasons named in code),
never from a request, so the number of series is bounded.
"""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST

FINALITY_BUCKETS_S = (
    *(0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8),
    *(1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0),
)
DISK_BUCKETS_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
WORK_BUCKETS_S = (0.0001, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
REQUEST_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 30.0)
COUNT_BUCKETS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)


class Metrics:
    """The metrics of one node. Owners set and observe the attributes; `render` exports them."""

    def __init__(self) -> None:
        # The time at which each series began would double their number.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry(auto_describe=True)
        self._declare_chain()
        self._declare_transactions()
        self._declare_work()
        self._declare_network()
        self._declare_alarms()
        self._declare_api()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"atpar_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"atpar_{name}", text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(f"atpar_{name}", text, labels, buckets=buckets, registry=self.registry)

    def _declare_chain(self) -> None:
        self.build_info = self._gauge("build_info", "1, labelled with the version.", "version")
        self.height = self._gauge("height", "Last final block committed to disk.")
        self.target_height = self._gauge("target_height", "Highest final block heard of.")
        self.view = self._gauge("view", "View that consensus is in.")
        self.epoch = self._gauge("epoch", "Current epoch.")
        self.ready = self._gauge("ready", "1 when the node is caught up and serves.")
        self.block_time = self._gauge(
            "block_timestamp_seconds", "Block time of the last final block, Unix time."
        )
        self.blocks = self._counter("blocks", "Blocks committed since start.")
        self.views_nullified = self._counter("views_nullified", "Views that ended in nullification")
        self.votes_missed = self._counter(
            "votes_missed", "Final views without a vote of this validator.", "validator"
        )
        self.timeouts = self._counter(
            "timeouts", "Views that this node nullified, by cause and leader.", "cause", "leader"
        )

    def _declare_transactions(self) -> None:
        self.finality = self._histogram(
            "finality_seconds",
            "From admission here to committed here, of transactions submitted to this node.",
            FINALITY_BUCKETS_S,
        )
        self.transactions = self._counter(
            "transactions", "Executed in final blocks, by receipt code.", "code"
        )
        self.refused = self._counter("refused", "Envelopes refused at admission, by code.", "code")
        self.block_transactions = self._histogram(
            "block_transactions", "Transactions per final block.", COUNT_BUCKETS
        )
        self.mempool_transactions = self._gauge("mempool_transactions", "Pending transactions.")
        self.mempool_bytes = self._gauge("mempool_bytes", "Bytes of pending transactions.")
        self.mempool_expired = self._counter(
            "mempool_expired", "Pending transactions dropped because their window passed."
        )

    def _declare_work(self) -> None:
        self.verify_batch_size = self._histogram(
            "verify_batch_size", "Signatures per verification batch.", COUNT_BUCKETS, "priority"
        )
        self.verify_seconds = self._histogram(
            "verify_seconds",
            "From handing over a batch to its verdicts.",
            WORK_BUCKETS_S,
            "priority",
        )
        self.verify_worker_restarts = self._counter(
            "verify_worker_restarts", "Verification workers that died and were replaced."
        )
        self.verify_key_tables = self._gauge(
            "verify_key_tables", "Keys checked from tables in the node's own process."
        )
        self.build_seconds = self._histogram(
            "build_seconds", "Building a block to propose.", WORK_BUCKETS_S
        )
        self.execute_seconds = self._histogram(
            "execute_seconds", "Executing another validator's block.", WORK_BUCKETS_S
        )
        self.journal_fsync_seconds = self._histogram(
            "journal_fsync_seconds", "Append and fsync of the vote journal.", DISK_BUCKETS_S
        )
        self.commit_seconds = self._histogram(
            "commit_seconds", "Synced write batch of a final block.", DISK_BUCKETS_S
        )
        self.queue_depth = self._gauge("queue_depth", "Entries waiting in a queue.", "queue")
        self.queue_dropped = self._counter(
            "queue_dropped", "Entries refused by a full queue.", "queue"
        )

    def _declare_network(self) -> None:
        self.peer_connected = self._gauge(
            "peer_connected", "1 while the connection to a peer stands.", "peer"
        )
        self.peer_queued_bytes = self._gauge(
            "peer_queued_bytes", "Bytes waiting to be sent to a peer.", "peer"
        )
        self.peer_dropped = self._counter(
            "peer_dropped_messages",
            "Outgoing messages dropped because a peer was slow.",
            "peer",
            "channel",
        )
        self.peer_bytes = self._counter(
            "peer_bytes", "Bytes exchanged with a peer.", "peer", "direction"
        )
        self.messages = self._counter("messages", "Messages received, by channel.", "channel")
        self.connections_dropped = self._counter(
            "connections_dropped",
            "Connections of the validator network closed for cause, by reason.",
            "reason",
        )

    def _declare_alarms(self) -> None:
        self.equivocations = self._counter(
            "equivocations", "Proven conflicting votes, by validator.", "validator"
        )
        self.alarms = self._gauge(
            "alarm", "1 while something needs a person: the reason is the label.", "kind"
        )

    def _declare_api(self) -> None:
        self.api_requests = self._counter(
            "api_requests", "Answered requests.", "route", "method", "status"
        )
        self.api_seconds = self._histogram(
            "api_request_seconds", "Time to answer, without streams.", REQUEST_BUCKETS_S, "route"
        )
        self.api_in_flight = self._gauge("api_in_flight", "Requests being answered.")
        self.api_envelopes = self._counter(
            "api_envelopes", "Envelopes submitted, by the status answered.", "status"
        )
        self.api_shed = self._counter(
            "api_shed", "Requests refused to protect the node, by bound.", "bound"
        )
        self.stream_clients = self._gauge("stream_clients", "Open event streams.")

    def render(self) -> bytes:
        """Return everything in the Prometheus text format (`CONTENT_TYPE`)."""
        return generate_latest(self.registry)
