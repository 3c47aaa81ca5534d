"""The table of methods, made from the modules themselves."""

from __future__ import annotations

import yaml

from halo_lightning.configurations import configurations

CONFIGS = configurations()


def methods_table() -> str:
    """One row per method: feedback, reference, source and tiny configurations, as a Markdown table."""
    from halo_lightning import modules

    configs: dict[str, list[str]] = {}
    for path in sorted(CONFIGS.glob("tiny_*.yaml"), key=lambda path: (len(path.name), path.name)):
        class_name = yaml.safe_load(path.read_text())["model"]["class_path"].rsplit(".", 1)[-1]
        configs.setdefault(class_name, []).append(f"`{path.stem}`")
    methods = [getattr(modules, name) for name in modules.__all__ if name != "HaloModule"]
    # The report's own first.
    methods.sort(key=lambda cls: ("arXiv" in cls.source, cls.__name__.lower()))
    lines = ["| method | learns from | reference | source | `configs/` |", "|---|---|---|---|---|"]
    for cls in methods:
        feedback = " or ".join({"sft": "demonstrations", "paired": "pairs", "unary": "thumbs"}[k] for k in cls.feedback)
        reference = "yes" if cls.needs_reference else "no"
        cells = [f"`{cls.__name__}`", feedback, reference, cls.source, ", ".join(configs.get(cls.__name__, []))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def print_methods() -> None:
    """Prints the table of methods."""
    print(methods_table())
