"""A sweep's results as Markdown and as one HTML page that needs no other file. It trains nothing.

Values are percent. The page holds its figures inside.
"""

from collections.abc import Sequence

import pyarrow as pa
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from curation.options import require
from curation.store.directory import RunDirectory
from training.metrics.normdel import normdel
from training.reporting.markdown import as_csv, markdown
from tune.config import Question
from tune.figures import draw_all
from tune.results import SWEEP_SCHEMA, Answer, Row, answer, interval, ious_of, main_effects
from tune.space import Candidate

HEADER = ("configuration", "frames", "ratio", "mIoU [95 %]", "standard error", "NormDEL [95 %]", "hours", "front")
FEW_SEEDS = 3
CAPTIONS = {
    "pareto": "mIoU against the share of the pool and against cost. The line joins what nothing else beats in both.",
    "map": "NormDEL by epsilon and d.",
    "coordinates": "Each line is a configuration; colour is NormDEL.",
    "importance": "How much of NormDEL's variance lies between the values of each axis, beyond chance, one axis at a "
    "time.",
}
PAGE_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{padding:.25rem .7rem;text-align:left;"
    "border-bottom:1px solid #ddd}tr.best{background:#e8f3ea}figure{margin:2rem 0}"
    "figure svg{max-width:100%;height:auto}.scroll{overflow-x:auto}"
)

PAGE = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string("""\
<!doctype html>
<html lang="en">
<meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Threshold sweep</title>
<style>{{ style }}</style>
<h1>Threshold sweep</h1>
<p>{{ words }}</p>
<div class="scroll"><table>
<thead><tr>{% for name in header %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for best, cells in lines %}
<tr{% if best %} class="best"{% endif %}>{% for cell in cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table></div>
{% for text in said %}
<p>{{ text }}</p>
{% endfor %}
{% for figure, caption in figures %}
<figure>{{ figure }}<figcaption>{{ caption }}</figcaption></figure>
{% endfor %}
</html>
""")


def listing(candidates: Sequence[Candidate]) -> str:
    """The configurations with their sizes, and which are not trained by themselves, as text."""
    lines = [f"{'configuration':40}{'frames':>9}{'ratio':>9}"]
    for one in candidates:
        notes = [f"not trained: {one.reason}"] if one.reason else []
        if one.whole and one.point.baseline != "full":
            notes.append("keeps every frame")
        if one.trained not in ("", one.name):
            notes.append(f"trained as {one.trained} (Jaccard {one.similarity:.3f})")
        lines.append(f"{one.name:40}{one.frames:>9}{one.ratio:>9.2%}  {'; '.join(notes)}".rstrip())
    return "\n".join(lines)


def conclude(folder: RunDirectory) -> Answer:
    """Answer the question of a sweep from its results.parquet, write the report, and print its Markdown.

    ValueError where the folder holds no sweep.
    """
    require(
        folder.exists("results.parquet") and folder.exists("sweep.json"),
        f"{folder.uri} holds no sweep; name the --output of `python -m tune sweep`",
    )
    about = folder.read_json("sweep.json")
    question = Question(**about["question"] | {"more_alphas": tuple(about["question"]["more_alphas"])})
    rows = folder.read_table("results.parquet").to_pylist()
    ious = {name: ious_of(pa.concat_tables(map(folder.read_table, paths))) for name, paths in about["results"].items()}
    found = answer(rows, ious, question)
    print(write_report(rows, found, question, folder) + f"\nresults: {folder.uri}")
    return found


def write_report(rows: Sequence[Row], found: Answer, question: Question, folder: RunDirectory) -> str:
    """Write summary.md, summary.csv, summary.html and the figures; return the Markdown."""
    figures = draw_all(rows, folder)
    lines = [summary_line(row) for row in by_question(rows)]
    table = markdown(list(HEADER), lines)
    parts = [found.words, table, *alphas(rows, question), *notes(rows)]
    effects = main_effects(rows)
    if effects:
        shares = ", ".join(f"{axis} {share:.0%}" for axis, share in sorted(effects.items(), key=lambda item: -item[1]))
        parts.append(f"Share of NormDEL's variance between the values of each axis, beyond chance: {shares}.")
    text = "\n\n".join(part.rstrip("\n") for part in parts) + "\n"
    folder.write_bytes("summary.md", text.encode())
    names = [name for name in SWEEP_SCHEMA.names if name != "by_set"]
    folder.write_bytes("summary.csv", as_csv(names, [[row[name] for name in names] for row in rows]).encode())
    folder.write_bytes("summary.html", page(rows, found, parts[2:], figures, folder).encode())
    return text


def by_question(rows: Sequence[Row]) -> list[Row]:
    """Rows as they are read: finished ones by falling NormDEL, then halted ones, then the others by name."""
    states = {"finished": 0, "halted": 1}
    return sorted(rows, key=lambda row: (states.get(row["state"], 2), -(row["normdel"] or 0), row["name"]))


def summary_line(row: Row) -> list[str]:
    """A row as the table's cells."""
    start = [row["name"], str(row["frames"]), f"{row['ratio']:.2%}"]
    if row["state"] == "halted":
        return [*start, f"{100 * row['miou']:.2f} (probe)", "", f"{100 * row['normdel']:.2f} (probe)", "", "halted"]
    if row["state"] != "finished":
        return [*start, "", "", "", "", row["state"]]
    error = "" if row["standard_error"] is None else f"{100 * row['standard_error']:.2f}"
    fronts = [word for word, mark in (("ratio", "on_ratio_front"), ("cost", "on_cost_front")) if row[mark]]
    hours = f"{row['device_hours']:.3f}"
    return [*start, interval(row, "miou"), error, interval(row, "normdel"), hours, ", ".join(fronts)]


def alphas(rows: Sequence[Row], question: Question) -> list[str]:
    """A sentence for each further alpha: which configuration it prefers."""
    finished = [row for row in rows if row["state"] == "finished"]
    said = []
    for alpha in question.more_alphas if finished else ():
        values = {row["name"]: float(normdel(row["miou"], row["ratio_read"], alpha)) for row in finished}
        best = max(values, key=lambda name: (values[name], name))
        said.append(f"With alpha {alpha:g} the highest NormDEL is {100 * values[best]:.2f} %, of {best}.")
    return said


def notes(rows: Sequence[Row]) -> list[str]:
    """What failed and why, which configurations were trained as another, and a warning where seeds are few."""
    failed = [f"{row['name']}: {row['reason']}" for row in rows if row["state"] == "failed"]
    twins = [f"{row['name']} as {row['trained']}" for row in rows if row["trained"] not in (None, row["name"])]
    said = []
    if failed:
        said.append("Not trained: " + "; ".join(failed) + ".")
    if twins:
        said.append("Trained once for nearly the same frames: " + "; ".join(twins) + ".")
    seeds = min((row["seeds"] for row in rows if row["state"] == "finished"), default=FEW_SEEDS)
    if seeds < FEW_SEEDS:
        said.append(
            f"Seeds: {seeds}. The intervals come from these few trainings and are too narrow for what another training "
            f"would give; use --seeds {FEW_SEEDS} or more."
        )
    return said


def page(rows: Sequence[Row], found: Answer, said: Sequence[str], figures: Sequence[str], folder: RunDirectory) -> str:
    """The whole page."""
    drawn = [(Markup(svg(folder.read_bytes(f"{name}.svg").decode())), CAPTIONS[name]) for name in figures]
    lines = [
        (found.best is not None and row["name"] == found.best["name"], summary_line(row)) for row in by_question(rows)
    ]
    return PAGE.render(
        style=Markup(PAGE_STYLE), words=found.words, header=HEADER, lines=lines, said=said, figures=drawn
    )


def svg(text: str) -> str:
    """An SVG file's element, without what precedes it."""
    return text[text.index("<svg") :]
