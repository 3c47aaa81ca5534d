"""Kahneman-Tversky Optimization (section 5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.fabric.utilities.rank_zero import rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor

from halo_lightning.data.batches import Sequences, UnaryBatch, pack
from halo_lightning.errors import ConfigError
from halo_lightning.losses import kl_from_halves, kl_from_mismatched, kto_loss, suggested_kto_weights
from halo_lightning.modules.base import is_distributed
from halo_lightning.modules.scope import Scope, check_scope, group_size
from halo_lightning.modules.unary import UnaryHalo
from halo_lightning.values import Logistic, ValueFunction


class KTO(UnaryHalo):
    """Kahneman-Tversky Optimization: learns from completions known to be desirable or undesirable (eq. 7).

    The KL term of a desirable example is estimated from the undesirable half of the batch and vice versa (section 5),
    over the micro-batches of all processes together. With gradient accumulation it is estimated in each micro-batch,
    so k accumulated micro-batches are not quite the same as one batch of k times the size; with a number for `kl_over`
    they are.

    Args:
        policy: The model to align: a Hugging Face folder, a hub id, or `embedded:base`.
        beta: β, how much reward a nat of log-ratio is.
        desirable_weight: λ_D, weight of desirable examples in the loss. For batches that are not balanced, choose the
            weights such that λ_D n_D / (λ_U n_U) is between 1 and 4/3 (`halo_lightning.losses.suggested_kto_weights`).
        undesirable_weight: λ_U, weight of undesirable examples in the loss.
        value_function: Human value function h(z, z_ref), one of `halo_lightning.values` or any callable on two tensors;
            None is the logistic function of eq. 7.
        kl: How KL(π_θ‖π_ref) is estimated: `halves`, each half of the batch from the other half (the report);
            `mismatched`, from prompts with completions of other prompts of the batch, computed in addition
            (arXiv 2402.01306), and for which no cache has the reference's log-probabilities, so that the reference is
            in memory beside the policy; or `none`, which takes it to be 0.
        kl_over: Whose examples it is estimated from: those of all `processes`, or of this `device` alone, micro-batch
            by micro-batch (the code released with the report, whose devices had 4 examples); or a number: so many
            consecutive examples, which are the same on any number of devices.
        kl_gradient: Whether the gradient passes through the estimate (it does in the code released with the report).
        base: Arguments of `HaloModule`.
    """

    source = "eq. 7"

    def __init__(
        self,
        policy: str,
        *,
        beta: float = 0.1,
        desirable_weight: float = 1.0,
        undesirable_weight: float = 1.0,
        value_function: Callable | None = None,
        kl: Literal["halves", "mismatched", "none"] = "halves",
        kl_over: Scope = "processes",
        kl_gradient: bool = False,
        **base: Any,
    ) -> None:
        super().__init__(policy, **base)
        self.beta = beta
        self.desirable_weight, self.undesirable_weight = desirable_weight, undesirable_weight
        self.value_function = value_function
        check_value_function(self.human_value)
        self.kl, self.kl_over, self.kl_gradient = kl, kl_over, kl_gradient

    @property
    def human_value(self) -> ValueFunction:
        """The value function that the loss imputes to humans."""
        return Logistic() if self.value_function is None else self.value_function

    def losses(self, policy_logps: Tensor, reference_logps: Tensor, desirable: Tensor, kl: Tensor) -> Tensor:
        """Eq. 7: m examples, m losses."""
        return kto_loss(
            policy_logps,
            reference_logps,
            desirable,
            kl,
            beta=self.beta,
            desirable_weight=self.desirable_weight,
            undesirable_weight=self.undesirable_weight,
            value_function=self.value_function,
        )

    def estimate_kl(self, batch: UnaryBatch, policy_logps: Tensor, reference_logps: Tensor) -> Tensor:
        """KL(π_θ‖π_ref) as each example sees it, `[N]`, in nats (section 5)."""
        if self.kl == "none":
            return torch.zeros_like(policy_logps)
        if self.kl == "mismatched":
            added = batch.mismatched if batch.mismatched is not None else self._mismatched(batch.sequences)
            # The added sequences need activations only if the gradient is to pass.
            with torch.set_grad_enabled(self.kl_gradient and torch.is_grad_enabled()):
                mismatched_logps = self.logps(added)
            return self._in_groups(kl_from_mismatched, *mismatched_logps)
        return self._in_groups(kl_from_halves, policy_logps, reference_logps, batch.desirable)

    def _in_groups(self, estimate: Callable[..., Tensor], *values: Tensor) -> Tensor:
        """An estimate from each group of examples, as each example of this process sees it, `[N]`."""
        own, detach = len(values[0]), not self.kl_gradient
        if self.kl_over == "processes":
            every = estimate(*map(self._of_everyone, values), detach=detach)
            # Gathered in the order of the ranks, each with as many examples as this one.
            first = self.global_rank * own
            return every[first : first + own] if every.ndim else every.expand(own)
        groups = zip(*(tensor.split(group_size(self.kl_over, own)) for tensor in values), strict=True)
        return torch.cat([estimate(*group, detach=detach).expand(len(group[0])) for group in groups])

    def setup(self, stage: str) -> None:
        """Checks as of every method, and that the KL's groups fit into the micro-batches."""
        super().setup(stage)
        check_scope("kl_over", self.kl_over, getattr(self.trainer, "datamodule", None))

    def on_before_batch_transfer(self, batch: UnaryBatch, dataloader_idx: int) -> UnaryBatch:
        """Adds the mismatched sequences while the batch is still on the CPU."""
        return batch._replace(mismatched=self._mismatched(batch.sequences)) if self.kl == "mismatched" else batch

    def _mismatched(self, sequences: Sequences) -> Sequences:
        own = sequences.unpacked()
        every = [own]
        if self.kl_over == "processes" and is_distributed():
            every = [[] for _ in range(torch.distributed.get_world_size())]
            torch.distributed.all_gather_object(every, own)
        first = sum(map(len, every[: self.global_rank])) if len(every) > 1 else 0
        rows = [row for rows in every for row in rows]
        group = len(rows) if self.kl_over == "processes" else group_size(self.kl_over, len(rows))
        added = mismatched(rows, range(first, first + len(own)), group)
        moved: Sequences = move_data_to_device(added, sequences.input_ids.device)
        return moved

    def _of_everyone(self, values: Tensor) -> Tensor:
        return self.of_all_processes(values, gradient=self.kl_gradient and values.requires_grad)

    def on_train_start(self) -> None:
        """Warns if one kind of feedback outweighs the other and the weights do nothing about it."""
        super().on_train_start()
        data: Any = getattr(self.trainer, "datamodule", None)
        if getattr(data, "balance", None) != "none" or self.desirable_weight != 1 or self.undesirable_weight != 1:
            return
        counts = data.summary.desirable, data.summary.undesirable
        weights = suggested_kto_weights(*counts) if all(counts) else (1.0, 1.0)
        if weights != (1.0, 1.0):
            rank_zero_warn(
                f"the data has {counts[0]:,} desirable and {counts[1]:,} undesirable examples, and both kinds weigh"
                f" the same: set desirable_weight={weights[0]:.3g} and undesirable_weight={weights[1]:.3g}, with which"
                " their total weights have a ratio between 1 and 4/3 (arXiv 2402.01306), or let the data module"
                " balance its batches (balance: oversample)"
            )


def check_value_function(value: ValueFunction) -> None:
    """Tries a value function on two outcomes.

    Raises:
        ConfigError: It gives no value for each of them.
    """
    z, z_ref = torch.tensor([0.5, -0.5]), torch.zeros(2)
    try:
        made = value(z, z_ref)
    except Exception as error:  # of somebody else's function, which can fail in any way
        raise ConfigError(f"value_function: it cannot be called with two tensors, z and z_ref ({error})") from error
    if not isinstance(made, Tensor) or made.shape != z.shape:
        found = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
        raise ConfigError(f"value_function: found {found} for two outcomes, expected a tensor of two values")


def mismatched(rows: list[tuple[NDArray[Any], NDArray[Any]]], which: range, group: int | None = None) -> Sequences:
    """Each prompt with the completion of the next row (in turn) of its group whose prompt is another one.

    Where all prompts of a group are the same, it is the next row's completion.

    Args:
        rows: Prompts and completions, those of all processes.
        which: The rows whose prompts are wanted, those of this process.
        group: How many consecutive rows are a group; None is all of them.
    """
    prompts = [prompt.tobytes() for prompt, _ in rows]
    size = group or len(rows)
    partners = []
    for row in which:
        start = row // size * size
        members = range(start, min(start + size, len(rows)))
        following = [start + (row - start + step) % len(members) for step in range(1, len(members) + 1)]
        partners.append(next((other for other in following if prompts[other] != prompts[row]), following[0]))
    return pack([rows[row][0] for row in which], [rows[partner][1] for partner in partners])
