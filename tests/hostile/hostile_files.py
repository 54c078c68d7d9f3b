"""All hostile files, in one order, and a sample of them that is quick to read."""

import random
from collections import defaultdict
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from hostile_calls import call_cases
from hostile_case import Case
from hostile_damage import damage_cases
from hostile_headers import header_cases
from hostile_networks import network_cases, resized_cases
from hostile_pickles import pickle_cases
from hostile_places import place_cases
from hostile_records import record_cases
from hostile_values import value_cases
from hostile_zips import zip_cases

SEED = 0
HEAVY = ("costly header", "zip bomb", "costly pickle", "plan", "record", "state", "config.json", "header's arguments")
LIGHT = frozenset({
    "costly header: lists 900 deep", "costly header: a tebibyte of nothing", "zip bomb: a storage, deflated",
    "costly pickle: tuples 1000 deep as a key, zip", "costly pickle: bytearray of 1000000000, legacy",
    "costly pickle: 1000000000 classes of one row, zip", "costly pickle: mappings in each other's mappings, zip",
    "plan: sound", "plan: shapes is deep", "plan: tensor of an edit is object", "plan: text: deep",
    "record: sound", "record: stages is deep", "record: 10,001 epochs", "state: very deep", "state: a tensor twice",
    "config.json: is a pipe", "config.json: a million million classes", "config.json: sound",
    "config.json: windows over a list", "header's arguments: a thousand million layers",
    "header's arguments: ten thousand blocks", "header's arguments: ten million classes",
    "header's arguments: a function as a norm", "header's arguments: pretrained",
})  # fmt: skip
MUTATIONS = 40


def all_cases(canary: Path, seed: int = SEED, mutations: int = MUTATIONS) -> Iterator[Case]:
    """Yield every hostile file; the same ones for the same seed.

    Args:
        canary: what a file makes where it is executed.
        seed: of the damage by chance.
        mutations: files with damage by chance of each of six sound ones.
    """
    yield from header_cases()
    yield from zip_cases()
    yield from pickle_cases(canary)
    yield from call_cases()
    yield from damage_cases(seed, mutations)
    yield from place_cases()
    yield from value_cases()
    yield from network_cases()
    yield from resized_cases()
    yield from record_cases()


def sample(canary: Path, size: int) -> list[Case]:
    """Return some files of every kind, without those that are large or take long to make.

    Args:
        canary: see `all_cases`.
        size: how many.
    """
    kinds: dict[str, list[Case]] = defaultdict(list)
    for case in all_cases(canary, mutations=4):
        if case.kind not in HEAVY or case.title in LIGHT:
            kinds[case.kind].append(case)
    for cases in kinds.values():
        random.Random(SEED).shuffle(cases)
    rows = zip_longest(*kinds.values())
    return [case for row in rows for case in row if case is not None][:size]
