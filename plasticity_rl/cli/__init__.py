"""The command line, in front of everything: parser, checks, messages and the commands.

May import every other package, but only inside functions: this file loads before torch and imports nothing.
Start at ``app.py`` (fit and validate); ``early.py`` is what is read before there is a parser.
"""
