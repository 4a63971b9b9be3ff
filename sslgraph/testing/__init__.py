"""Tests for what others write with sslgraph: node types and methods.

    def test_my_node():
        sslgraph.testing.check_node("my_node")      # keeps what its declaration says

    def test_my_method():
        sslgraph.testing.prove("my_method.yaml")    # is wired as its graph says

`node_tests` and `proof` make one test a property of the same.
"""

from sslgraph.testing.contract import HOLDS, PROPERTIES, check_node
from sslgraph.testing.proofs import node_tests, proof, prove, small

__all__ = ["HOLDS", "PROPERTIES", "check_node", "node_tests", "proof", "prove", "small"]
