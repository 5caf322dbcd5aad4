"""Simplex consensus as a pure state machine; a block is an opaque digest to it."""
