"""Inspection: what the model will see of the data, before anything is trained.

- `findings`: duplicates, contradictions, leakage and lengths, from the arrays of tokens.
- `examples`: single examples as pieces of text, each learned or not.
- `report`: all of it as one object, and as JSON values.
- `terminal`, `page`: the report for people.
- `command`: `cli.py inspect`.
"""
