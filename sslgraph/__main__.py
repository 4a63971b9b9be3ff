"""`python -m sslgraph`, the same as the command `sslgraph`."""

from sslgraph.cli import main

if __name__ == "__main__":
    main()
