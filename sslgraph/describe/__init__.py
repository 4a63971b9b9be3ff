"""Pages about node types and methods, as data: what `sslgraph describe` prints."""
