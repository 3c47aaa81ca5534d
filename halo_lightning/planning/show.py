"""Plans as a person reads them: tables on one screen."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from halo_lightning.planning.plan import Offer, Plan

PLAIN_WIDTH = 120
"""Columns where the output is not a terminal."""


def gigabytes(size: float) -> str:
    """Bytes in GB (10⁹), with as many digits as say something."""
    digits = 3 if 0 < abs(size) < 0.1e9 else 2 if 0 < abs(size) < 1e9 else 1 if abs(size) < 100e9 else 0
    return f"{size / 1e9:,.{digits}f}"


def show(plans: Sequence[Plan], notes: Sequence[str]) -> None:
    """Prints plans of the stages of a run, the last one in full."""
    terminal = Console().is_terminal
    width = shutil.get_terminal_size().columns if terminal else PLAIN_WIDTH
    console = Console(width=width, highlight=False)
    last = plans[-1]
    for stage in plans[:-1]:
        console.print(_in_one_line(stage))
    console.print(_heading(last))
    for note in notes:
        console.print(f"  {note}", style="dim")
    tables = [_memory(last, terminal), _offers(last, terminal), *([_changes(last, terminal)] if last.changes else [])]
    for title, table in tables:
        console.print(title, style="bold" if terminal else "")
        console.print(table)
    if last.not_divided:
        console.print(f"The batch cannot be divided among {', '.join(map(str, last.not_divided))} GPUs.")


def _table(columns: Sequence[str], terminal: bool) -> Table:
    table = Table(
        box=SIMPLE_HEAD if terminal else None,
        pad_edge=False,
        header_style="bold" if terminal else "",
    )
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    return table


def _heading(plan: Plan) -> str:
    module = plan.job.module
    choice, _ = plan.memory[plan.devices]
    reference = f", reference {choice.reference_mode}" if module.needs_reference else ""
    lora = f", {choice.lora.described}" if choice.lora else ""
    return (
        f"{type(module).__name__} of {module.policy_path} ({plan.parameters:,} weights): {choice.strategy},"
        f" {choice.precision}, activation checkpointing {choice.checkpointing}{reference}{lora}\n"
        f"  {plan.job.data.batch_size} examples in a step. {plan.workload.described}"
    )


def _in_one_line(plan: Plan) -> str:
    _, memory = plan.memory[plan.devices]
    own = [offer for offer in plan.offers if offer.devices == plan.devices and offer.micro_batch]
    times = ", ".join(f"{offer.gpu.name} {hours_of(offer.hours)}" for offer in own[:3]) or "fits on none of these GPUs"
    return (
        f"First {plan.job.name}: {type(plan.job.module).__name__}, {gigabytes(memory.parts.total)} GB on each of"
        f" {_count(plan.devices)}; {times}"
    )


def _memory(plan: Plan, terminal: bool) -> tuple[str, Table]:
    table = _table(["GPUs", *map(str, plan.memory)], terminal)
    found = [(choice, memory, asdict(memory.parts)) for choice, memory in plan.memory.values()]
    table.add_row("micro-batch", *(str(choice.micro_batch) for choice, _, _ in found))
    for part in found[0][2]:
        if any(parts[part] for _, _, parts in found):
            table.add_row(part, *(gigabytes(parts[part]) for _, _, parts in found))
    table.add_row("together", *(gigabytes(memory.parts.total) for _, memory, _ in found), style="bold" * terminal)
    if any(memory.host for _, memory, _ in found):
        table.add_row("of the host, for each", *(gigabytes(memory.host) for _, memory, _ in found))
    return "Memory of one GPU, GB", table


def _offers(plan: Plan, terminal: bool) -> tuple[str, Table]:
    title = f"Largest micro-batch that fits, tokens a second, time (at {plan.mfu:.0%} of the peak rate); or GB it needs"
    table = _table(["GPUs", *map(str, plan.memory)], terminal)
    rows: dict[str, list[Any]] = {}
    for offer in plan.offers:
        rows.setdefault(offer.gpu.name, []).append(_cell(offer))
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return title, table


def _cell(offer: Offer) -> str:
    if offer.micro_batch is None:
        return f"no: {gigabytes(offer.bytes)} GB"
    return f"{offer.micro_batch}: {offer.tokens_per_second:,.0f}/s {hours_of(offer.hours)}"


def hours_of(hours: float) -> str:
    """A time, in a unit that suits it."""
    if hours < 1:
        return f"{60 * hours:.0f} min" if hours >= 1 / 60 else "<1 min"
    return f"{hours:.1f} h" if hours < 100 else f"{hours:,.0f} h"


def _count(devices: int) -> str:
    return f"{devices} GPU{'s' * (devices > 1)}"


def _changes(plan: Plan, terminal: bool) -> tuple[str, Table]:
    table = _table(["", "GB", "option"], terminal)
    table.columns[2].justify = "left"
    for change in plan.changes:
        table.add_row(change.what, f"{change.bytes / 1e9:+.1f}", change.option)
    return f"What would change memory, on {_count(plan.devices)}", table
