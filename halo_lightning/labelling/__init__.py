"""Labelling: completions scored by a black box, and made unary feedback by a threshold.

- `scorers`: what can score, and which one a name means.
- `functions`, `classifier`, `endpoint`: Python functions, sequence classifiers, HTTP endpoints.
- `items`: the completions of a source, each known by its content.
- `command`: `cli.py label`.
"""
