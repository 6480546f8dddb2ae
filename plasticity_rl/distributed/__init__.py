"""Several processes that train one agent: what ranks share, the strategy, how they are launched.

May import machine and what is below.
Start at ``ranks.py``.
"""
