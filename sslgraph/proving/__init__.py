"""Proof that a method is wired as its graph says: `sslgraph prove`."""

from sslgraph.proving.prove import PROPERTIES, chosen, prove
from sslgraph.proving.result import ProofError, Result

__all__ = ["PROPERTIES", "ProofError", "Result", "chosen", "prove"]
