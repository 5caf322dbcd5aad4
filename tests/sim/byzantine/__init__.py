"""Validators that misbehave, one misbehaviour per file.

Each runs the real validator to know what goes on, and changes what leaves the machine. Such a
validator holds its own keys and no other: it cannot forge the signatures of others.
"""
