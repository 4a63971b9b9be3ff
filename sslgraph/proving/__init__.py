"""Proof that a method is wired as its graph says: `sslgraph prove`."""

from sslgraph.proving.case import Case
from sslgraph.proving.pool import OnRanks, Pool, PoolError
from sslgraph.proving.prove import PROPERTIES, chosen, prove, proved
from sslgraph.proving.result import ProofError, Result

__all__ = [
    "PROPERTIES",
    "Case",
    "OnRanks",
    "Pool",
    "PoolError",
    "ProofError",
    "Result",
    "chosen",
    "prove",
    "proved",
]
