"""``python -m examples.demo``: the shop on two server processes, and its story told over real HTTP."""
