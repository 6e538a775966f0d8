"""Running it: the command line, and what a server's settings would lose."""
