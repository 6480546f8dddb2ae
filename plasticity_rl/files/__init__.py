"""Files that others may have written or prepared: paths, YAML, credentials, and how a file is written.

Imports errors only. Start at ``writing.py``.
"""
