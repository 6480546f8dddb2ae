"""What options there are and what they take, read from the source as text: nothing here imports torch or Lightning.

One source: the signatures, annotations, docstrings and checks of the classes themselves. What cannot be read with
certainty counts as unknown, and is left to the parser and to the constructors, which judge everything again.
Start at ``source.py``, then ``options.py``.
"""
