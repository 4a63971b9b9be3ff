"""The node types: a base class and one family a file."""
