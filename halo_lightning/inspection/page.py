"""A report as one HTML page that needs nothing else: no script, no picture, no font from anywhere."""

from __future__ import annotations

from html import escape

from halo_lightning.inspection.examples import Shown, Span, harmless
from halo_lightning.inspection.report import Report
from halo_lightning.inspection.wording import bins, counts_of, finding_rows, lengths_line, places, title_of

SAME_PROMPT = "<span class=quiet>… the same prompt</span>"

STYLE = """
:root { color-scheme: light dark; --good: #1a7f37; --bad: #b3261e; --quiet: #6b7280; --line: #8884; --bar: #3b82f6; }
@media (prefers-color-scheme: dark) { :root { --good: #4ade80; --bad: #f87171; --quiet: #9ca3af; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin-top: 2rem; } h3 { font-size: 1rem; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; } td { overflow-wrap: anywhere; }
td.serious { color: var(--bad); font-weight: 600; } .quiet, .places { color: var(--quiet); font-size: .9em; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid var(--line); border-radius: 6px; padding: .8rem;
  margin: .3rem 0; font: 13px/1.6 ui-monospace, monospace; }
.no { color: var(--quiet); } .good { background: #22c55e33; border-bottom: 2px solid var(--good); }
.bad { background: #ef444433; border-bottom: 2px solid var(--bad); }
.end { background: currentColor; border-radius: 3px; } .end > span { color: Canvas; padding: 0 .3em; }
.bar { background: var(--bar); height: .8rem; min-width: 1px; border-radius: 2px; }
.histograms { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1rem; }
.histograms td:last-child { width: 100%; } figcaption { font-size: .9em; } figure { margin: 0; }
"""


def page(report: Report, place_of: dict[str, dict[int, str]]) -> str:
    """The page.

    Args:
        report: The report.
        place_of: File and line of the examples that it lists, by split and number.
    """
    facts = [("data", str(report.summary)), ("labels", report.labels), *report.settings.items()]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        '<meta name=viewport content="width=device-width">',
        f"<title>{_text(report.title)}</title><style>{STYLE}</style>",
        f"<h1>{_text(report.title)}</h1><table>",
        *(f"<tr><th>{_text(name)}<td>{_lines(text)}" for name, text in facts if text),
        "</table>",
    ]
    for name, rows in finding_rows(report).items():
        split = report.splits[name]
        parts += [f"<h2>{name.capitalize()}</h2><p>{split.examples:,} examples of {split.prompts:,} prompts<table>"]
        for row in rows:
            style = "n serious" if row.examples and row.serious else "n"
            listed = "".join(f"<div class=places>{_text(place)}</div>" for place in places(row, place_of.get(name, {})))
            more = "<div class=places>…</div>" if row.groups and row.examples > sum(map(len, row.groups)) else ""
            parts.append(f'<tr><td class="{style}">{row.examples:,}<td>{_text(row.text)}{listed}{more}')
        parts.append("</table><h3>Lengths in tokens</h3><div class=histograms>")
        for what, lengths in split.lengths.items():
            most = max(lengths.counts)
            parts.append(
                f"<figure><figcaption><b>{_text(what)}</b><br>{_text(lengths_line(lengths))}</figcaption><table>"
            )
            for bin_name, count in bins(lengths):
                bar = f'<div class=bar style="width:{100 * count / most:.1f}%"></div>' if count else ""
                parts.append(f"<tr><td class=n>{bin_name}<td class=n>{count:,}<td>{bar}")
            parts.append("</table></figure>")
        parts.append("</div>")
    if report.shown:
        parts.append("<h2>Examples</h2><p class=quiet>Coloured: what the loss is on. ↵ is a line break.")
    parts += [_example(example) for example in report.shown]
    return "\n".join(parts) + "\n"


def _example(example: Shown) -> str:
    parts = [f"<h3>{_text(title_of(example))}</h3>"]
    for number, sequence in enumerate(example.sequences):
        good = sequence.name == "chosen" or (sequence.name == "completion" and example.label is not False)
        name = f"{sequence.name}, " if len(example.sequences) > 1 else ""
        parts.append(f"<div class=quiet>{name}{_text(counts_of(sequence))}</div>")
        same_prompt = number > 0 and sequence.prompt_ids == example.sequences[0].prompt_ids
        spans = [SAME_PROMPT if same_prompt and not span.learned else _span(span, good) for span in sequence.spans]
        parts.append(f"<pre>{''.join(spans)}</pre>")
    return "\n".join(parts)


def _span(span: Span, good: bool) -> str:
    kind = ("good" if good else "bad") if span.learned else "no"
    text = _text(span.text).replace("\n", "<span class=quiet>↵</span>\n")
    if span.ends:
        return f'<span class="{kind} end" title="end of sequence"><span>{text}</span></span>'
    return f'<span class={kind} title="{_text(" ".join(span.tokens))}">{text}</span>'


def _text(text: str) -> str:
    return escape(harmless(text))


def _lines(text: str) -> str:
    return "<br>".join(_text(line) for line in text.splitlines())
