"""One module for each published system, found by its name: ``SYSTEM`` says what it is, ``rows(quick)`` measures its claim.

Importing such a module must load neither torch nor transformers: what a measurement needs is imported when it runs.
"""
