"""A small shop that keeps its carts, logins and devices in sessiondb. Start reading in ``app.py``."""
