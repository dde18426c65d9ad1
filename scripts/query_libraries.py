"""Whole libraries that scripts/query_cost.py times: bergson, and kronfluence for EK-FAC.

Both make an index or factors first, from one document of the query's length for each source, which is the least there
can be. The extra `rivals` has them and traker; all run without a GPU. Two things to know about it:

- Both want torchvision, which nothing here uses. It has to be of the same build as torch: PyPI's beside a CPU build of
  torch stops even transformers from being imported. uv leaves it out (pyproject.toml); pip does so with `--no-deps`.
- kronfluence puts packages called `tests` and `examples` into site-packages. In the repository's root its own come
  first.

What they leave out of a query's score: kronfluence knows torch's own linear layers only, not GPT-2's, no embeddings and
no norms; the output layer is left out here, since EK-FAC wants the eigenvectors of a matrix as large as the vocabulary.
bergson has the layers of `base_model`, each gradient projected to 16 × 16.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from scripts.query_rivals import Case, Work, build

PROJECTED = 16  # bergson's published dimension, to each side of a layer's gradient
FITTED = 8  # documents that kronfluence's factors are made from; a query costs the same after any number


def documents(case: Case, number: int) -> Tensor:
    """Random tokens (number, length)."""
    return torch.randint(0, case.vocabulary, (number, case.length), generator=torch.Generator().manual_seed(5))


def labels(case: Case) -> Tensor:
    """The query, its prompt masked, in transformers' way."""
    masked = case.at.tokens.clone()
    masked[:, : case.at.first + 1] = -100
    return masked


def trained_layers(model: Any) -> list[str]:
    """Names of the linear layers whose weights are trained, but for the output layer."""
    output = model.get_output_embeddings()
    return [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and layer.weight.requires_grad and layer is not output
    ]


def bergson(case: Case, sources: tuple[int, ...], folder: Path) -> list[Work]:
    """bergson's Attributor over an index in memory, as its documentation has it; one forward and one backward pass.

    Raises:
        ImportError: it is not installed.
    """
    from bergson import Attributor, GradientProcessor, IndexConfig, collect_gradients
    from datasets import Dataset
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    model: Any = build(case.config, case.vocabulary, case.length)
    inside = f"{model.base_model_prefix}."
    adapters = {name.removeprefix(inside) for name in trained_layers(model)} if case.config.lora else None
    # As bergson prepares a model itself: its hooks need activations that have gradients, not weights.
    model.requires_grad_(False)
    model.get_input_embeddings().requires_grad_(True)
    index = {}
    for number in sources:
        tokens = documents(case, number).tolist()
        settings = IndexConfig(run_path=str(folder / f"{number}"), projection_dim=PROJECTED)
        settings.partial_run_path.mkdir(parents=True)
        collect_gradients(
            model,
            Dataset.from_dict({"input_ids": tokens, "labels": tokens}),
            GradientProcessor(projection_dim=PROJECTED, projection_seed=0),
            settings,
            target_modules=adapters,
        )
        index[number] = Attributor(settings.partial_run_path)

    def attribute(number: int) -> None:
        with index[number].trace(model.base_model, None, modules=adapters) as result:
            model(input_ids=case.at.tokens, labels=labels(case)).loss.backward()
        model.zero_grad()
        assert result.scores.shape == (1, number) and result.scores.isfinite().all()

    return [Work("bergson, 16 × 16 a layer", attribute)]


def kronfluence(case: Case, folder: Path) -> list[Work]:
    """kronfluence's pairwise scores with EK-FAC factors; gradients of the documents are made anew for every call.

    Raises:
        ImportError: it is not installed.
    """
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.task import Task

    model: Any = build(case.config, case.vocabulary, case.length)
    if not (names := trained_layers(model)):
        return []

    class Completion(Task):  # type: ignore[misc]
        """Cross-entropy of documents, and log p(completion | prompt) of queries."""

        def compute_train_loss(self, batch: list[Tensor], model: Any, sample: bool = False) -> Tensor:
            logits = model(input_ids=batch[0][:, :-1]).logits.flatten(0, 1)
            with torch.no_grad():
                drawn = torch.multinomial(logits.softmax(-1), 1)[:, 0] if sample else batch[0][:, 1:].flatten()
            return cross_entropy(logits, drawn, reduction="sum")

        def compute_measurement(self, batch: list[Tensor], model: Any) -> Tensor:
            first = case.at.first
            logits = model(input_ids=batch[0][:, :-1], logits_to_keep=case.length - 1 - first).logits
            return -cross_entropy(logits.flatten(0, 1), batch[0][:, first + 1 :].flatten(), reduction="sum")

        def get_influence_tracked_modules(self) -> list[str]:
            return names

    task = Completion()
    analyzer = Analyzer(
        "query_cost",
        prepare_model(model, task),
        task,
        cpu=True,
        log_level=logging.ERROR,
        disable_tqdm=True,
        output_dir=str(folder),
    )
    fitted = torch.utils.data.TensorDataset(documents(case, FITTED))
    analyzer.fit_all_factors("ekfac", fitted, per_device_batch_size=FITTED)

    def attribute(number: int) -> None:
        analyzer.compute_pairwise_scores(
            "scores",
            "ekfac",
            torch.utils.data.TensorDataset(case.at.tokens),
            torch.utils.data.TensorDataset(documents(case, number)),
            per_device_query_batch_size=1,
            per_device_train_batch_size=8,
            overwrite_output_dir=True,
        )
        scores = analyzer.load_pairwise_scores("scores")["all_modules"]
        assert scores.shape == (1, number) and scores.isfinite().all()

    return [Work("kronfluence, EK-FAC", attribute)]
