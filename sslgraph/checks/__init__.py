"""The passes that judge a graph by its declarations alone; one pass a file, none imports torch."""
