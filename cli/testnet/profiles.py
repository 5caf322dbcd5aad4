"""How far a testnet's validators are from each other: named profiles, or a file.

A profile names sites and the round trips between them; validators take the sites in turn. Two at
one site are on one local network. The figures are typical of public lines between these cities,
rounded; a file may hold the measured ones of yours:

    {"sites": ["HKG", "SIN"], "rtt_ms": {"HKG-SIN": 36}, "jitter_percent": 5}
"""

from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from atpar.cli.errors import WrongUsage

MAX_PROFILE_BYTES: Final = 64 * 1024
MAX_RTT_MS: Final = 2_000
LAN: Final = "lan"

Site = Annotated[str, Meta(pattern=r"\A[A-Z][A-Z0-9]{1,15}\Z")]
RoundTrip = Annotated[float, Meta(ge=0, le=MAX_RTT_MS)]


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sites, and the lines between them."""

    sites: Annotated[tuple[Site, ...], Meta(min_length=1, max_length=31)]
    rtt_ms: dict[str, RoundTrip] = {}
    """`A-B` -> round trip, each pair of sites once, in either order."""
    jitter_percent: Annotated[float, Meta(ge=0, le=100)] = 0
    """Up to this much is added to each delay, evenly spread."""

    def compute_delay_s(self, one: int, other: int) -> float:
        """Return the time from one validator to another, without jitter."""
        a, b = (self.sites[index % len(self.sites)] for index in (one, other))
        return 0.0 if a == b else self.get_rtt_ms(a, b) / 2_000

    def get_rtt_ms(self, a: str, b: str) -> float:
        """Return the round trip between two sites, which `check_profile` found."""
        return self.rtt_ms[f"{a}-{b}" if f"{a}-{b}" in self.rtt_ms else f"{b}-{a}"]


PROFILES: Final = {
    LAN: Profile(sites=("LAN",)),
    "hk-asia": Profile(
        sites=("HKG", "SIN", "TYO", "SHA"),
        rtt_ms={
            "HKG-SIN": 36,
            "HKG-TYO": 50,
            "HKG-SHA": 32,
            "SIN-TYO": 70,
            "SIN-SHA": 68,
            "TYO-SHA": 36,
        },
        jitter_percent=5,
    ),
    "global": Profile(
        sites=("HKG", "LON", "NYC", "SYD"),
        rtt_ms={
            "HKG-LON": 190,
            "HKG-NYC": 210,
            "HKG-SYD": 125,
            "LON-NYC": 72,
            "LON-SYD": 250,
            "NYC-SYD": 205,
        },
        jitter_percent=5,
    ),
}


def find_profile(named: str) -> str:
    """Return a profile's name, or the absolute path of its file, after checking it.

    Raises:
        WrongUsage: as `load_profile`.
    """
    load_profile(named)
    return named if named in PROFILES else str(Path(named).resolve())


def load_profile(named: str) -> Profile:
    """Return a profile by its name, or from a file.

    Raises:
        WrongUsage: there is neither, or the file does not name every line exactly once.
    """
    known = PROFILES.get(named)
    if known is not None:
        return known
    advice = f"use {', '.join(PROFILES)}, or the name of a file as docs/testing.md shows it"
    try:
        data = Path(named).read_bytes()
    except OSError as error:
        raise WrongUsage(f"no profile {named!r}: {error.strerror}", advice=advice) from error
    if len(data) > MAX_PROFILE_BYTES:
        raise WrongUsage(
            f"{named}: {len(data)} bytes, at most {MAX_PROFILE_BYTES}", advice="make it shorter"
        )
    try:
        profile = msgspec.json.decode(data, type=Profile)
    except msgspec.DecodeError as error:
        raise WrongUsage(f"{named}: {error}", advice=advice) from error
    _check_lines(named, profile)
    return profile


def _check_lines(named: str, profile: Profile) -> None:
    sites = profile.sites
    if len(set(sites)) != len(sites):
        raise WrongUsage(f"{named}: sites: one stands there twice", advice="name each site once")
    wanted = {frozenset((a, b)) for a in sites for b in sites if a != b}
    found = [frozenset(line.split("-")) for line in profile.rtt_ms]
    for line, pair in zip(profile.rtt_ms, found, strict=True):
        if pair not in wanted or found.count(pair) > 1:
            raise WrongUsage(
                f"{named}: rtt_ms: {line!r} is not one line between two of the sites",
                advice='write "A-B": milliseconds, each pair once',
            )
    missing = sorted("-".join(sorted(pair)) for pair in wanted - set(found))
    if missing:
        raise WrongUsage(
            f"{named}: rtt_ms: {missing[0]} is missing", advice="name each pair of sites"
        )
