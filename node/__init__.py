"""The validator node: the only layer that touches sockets, disk, clock and processes."""
