"""Where sessions live: one file a database, behind the contract in ``base``."""
