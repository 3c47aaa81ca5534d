"""`fit-value`: which human value function explains this feedback, and can the data tell?

What computes is imported when the command runs, so that its help is quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from halo_lightning.data.sources.config import Source
from halo_lightning.errors import ConfigError

if TYPE_CHECKING:
    from halo_lightning.evaluation.human_values.fitting import FittedValue
    from halo_lightning.evaluation.human_values.telling_apart import Comparison

UNITS = {"reference_point": "rewards", "noise": "values"}


def fit_value_command(
    feedback: list[str | Source] | str | Source,
    policy: str,
    reference: str = "embedded:base",
    beta: float = 0.1,
    kind: Literal["auto", "thumbs", "pairs"] = "auto",
    reference_point: float | None = None,
    confidence: float = 0.95,
    simulations: int = 100,
    seed: int = 1,
    max_length: int = 1024,
    max_prompt_length: int | None = None,
    device: str = "cpu",
    out: str = "runs/value",
    annotator: str | None = None,
    fewest: int = 20,
) -> None:
    """Estimates a human value function from feedback and the implicit rewards of a model.

    The rewards β·log(π/π_ref) count as known, which they are not: take a policy that was not trained on this feedback
    (held-out feedback is best), since it has learned by heart what it was trained on. And their unit need not be the
    same for gains and losses, on which λ depends: the command says how far that may be so. What can be known of a value
    function, and what cannot, is in `halo_lightning.evaluation.human_values.fitting` and `.cautions`.

    Args:
        feedback: One or several sources of thumbs or pairs, as for training.
        policy: The model whose implicit rewards are taken.
        reference: The model that it was trained from.
        beta: β of the implicit rewards; α and λ do not depend on it.
        kind: What the feedback is; `auto` looks at its first row.
        reference_point: z_ref where it is known, in the unit of the rewards; none estimates it.
        confidence: Of the intervals.
        simulations: How many for either shape, to say whether the data can tell the two apart.
        seed: Of the simulations.
        max_length: Most tokens of prompt and completion together; longer ones are cut.
        max_prompt_length: What an overlong prompt is cut to; None is half of `max_length`.
        device: Where to compute.
        out: The folder to write to.
        annotator: The column of the feedback that says whose answer a row is. Then everybody gets a fit, too, and the
            medians and the spreads across annotators are estimated, with the reference point of all together.
        fewest: An annotator with fewer answers gets no fit, and is counted; the answers still count for the population.
    """
    from halo_lightning.evaluation.human_values.annotator_fits import fit_annotators
    from halo_lightning.evaluation.human_values.cautions import cautions
    from halo_lightning.evaluation.human_values.fitting import fit_value
    from halo_lightning.evaluation.human_values.implicit_rewards import observe
    from halo_lightning.evaluation.human_values.pictures import draw_fitted_values
    from halo_lightning.evaluation.human_values.shapes import KAHNEMAN_TVERSKY, LOGISTIC
    from halo_lightning.evaluation.human_values.telling_apart import tell_apart
    from halo_lightning.files import make_folder, write_json

    if simulations < 50:
        raise ConfigError(f"simulations is {simulations}: expected 50 or more, else nothing can be rejected at 5 %")
    observations, annotators = observe(
        feedback,
        policy,
        reference,
        beta=beta,
        kind=kind,
        max_length=max_length,
        max_prompt_length=max_prompt_length,
        device=device,
        annotator=annotator,
    )
    shapes = (KAHNEMAN_TVERSKY, LOGISTIC)
    fits = [fit_value(observations, shape, reference_point=reference_point, confidence=confidence) for shape in shapes]
    print(f"\n{len(observations):,} answers; intervals: {confidence:.0%}")
    for fit in fits:
        print_fit(fit)
    sources = feedback if isinstance(feedback, list) else [feedback]
    notes = cautions(fits[0], policy, [str(getattr(source, "path", source)) for source in sources])
    for note in notes:
        print(f"\nnote: {note}")
    print(f"\nSimulating {simulations} times from either, to see whether these data can tell them apart …", flush=True)
    comparison = tell_apart(observations, *shapes, reference_point=reference_point, simulations=simulations, seed=seed)
    print(comparison)
    folder = Path(out)
    make_folder(folder)
    draw_fitted_values(fits, observations, str(folder / "value_function.png"))
    write_json(folder / "value_function.json", fits[0].as_config())
    settings = {"feedback": str(feedback), "policy": policy, "reference": reference, "beta": beta}
    write_json(folder / "estimates.json", {**settings, **described(fits, comparison), "notes": notes})
    if annotators is not None:
        everybody = fit_annotators(
            observations, annotators, reference_point=fits[0].reference_point, confidence=confidence, fewest=fewest
        )
        print(f"\n{everybody}")
        write_json(folder / "annotators.json", {**settings, "annotator": annotator, **everybody.as_json()})
    print(f"\nThe curves: {folder / 'value_function.png'}. Every number: {folder / 'estimates.json'}")
    print(f'To train with it: fit … --model.value_function "$(cat {folder / "value_function.json"})"')


def print_fit(fit: FittedValue) -> None:
    """Prints what was estimated, and what the data leave open."""
    print(f"\n{fit.shape.name}: log-likelihood {fit.log_likelihood:.2f}, AIC {fit.aic:.1f}")
    for name, estimate in fit.estimates.items():
        unit = f"   (unit: {UNITS[name]})" if name in UNITS else ""
        print(f"  {name:<16} {estimate}{unit}")
        if open_ended(estimate):
            print(f"  {'':<16} these data do not limit {name} on that side")


def open_ended(estimate: Any) -> bool:
    """Whether an interval has an end that the data do not limit."""
    return estimate.high == float("inf") or estimate.low in (0.0, float("-inf"))


def described(fits: list[FittedValue], comparison: Comparison) -> dict[str, Any]:
    """Fits and comparison as JSON has them; an open end of an interval is null."""
    return {
        "confidence": fits[0].confidence,
        "answers": len(fits[0].likelihood.observations),
        "fits": [
            {
                "shape": fit.shape.name,
                "value_function": fit.as_config(),
                "estimates": {name: one.as_json() for name, one in fit.estimates.items()},
                "log_likelihood": fit.log_likelihood,
                "aic": fit.aic,
            }
            for fit in fits
        ],
        "comparison": {
            "verdict": comparison.verdict,
            "in_words": str(comparison),
            "p_against_first": comparison.p_first,
            "p_against_second": comparison.p_second,
            "simulations": len(comparison.if_first),
        },
    }
