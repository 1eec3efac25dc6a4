"""Analysis of models that read vectors: a hand-built classifier whose heads and answers are known, and runs of the task."""

import pandas as pd
import pytest
import torch

from tests.training.test_classification import config_of
from workbench.analysis import formation
from workbench.analysis.data import AnalysisData
from workbench.analysis.interventions import run as run_batch
from workbench.analysis.sections import SECTIONS, applicable, chosen
from workbench.analysis.sweep import analyze
from workbench.commands.analyze import analyze as analyze_command
from workbench.commands.hijack import hijack as hijack_command
from workbench.config import ModelConfig
from workbench.errors import UsageError
from workbench.model import HookedTransformer
from workbench.preset import presets
from workbench.tasks import make_task
from workbench.tasks.base import Batch
from workbench.tasks.draw import TrainingBatches
from workbench.training.loop import train

WINDOW, CLASSES, LABELS = 17, 7, 5
WIDTH = WINDOW + CLASSES + LABELS + 1
CLASS, LABEL, IS_LABEL = slice(WINDOW, WINDOW + CLASSES), slice(WINDOW + CLASSES, WIDTH - 1), WIDTH - 1


def hand_built(matching=True) -> HookedTransformer:
    """Layer 0 attends to the position before and brings the object's class to its label; layer 1 attends from the query to
    labels with its class and copies them. Classes and labels are one-hot; the last coordinate says what is a label."""
    config = ModelConfig(
        n_heads=1, d_model=WIDTH, d_vocab=LABELS, n_ctx=17, normalization_type=None, positional_embedding_type="none", attn_scale=1.0,
        attn_bias=False, unembed_bias=False, readout="classifier", identity=("blocks.*.attn.W_O",),
    )  # fmt: skip
    model = HookedTransformer(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith("W_O"):
                parameter.zero_()
        first, second = (block.attn for block in model.blocks)
        for place in range(WINDOW):
            first.W_K[0, place, place] = 1
            if place:
                first.W_Q[0, place, place - 1] = 40
            second.W_Q[0, place, IS_LABEL] = 120
        first.W_V[0, CLASS, CLASS] = torch.eye(CLASSES)
        second.W_Q[0, CLASS, CLASS] = 40 * torch.eye(CLASSES) * matching
        second.W_K[0, CLASS, CLASS] = torch.eye(CLASSES)
        second.W_K[0, IS_LABEL, IS_LABEL] = 1
        second.W_V[0, LABEL, LABEL] = torch.eye(LABELS)
        for layer in range(3):
            model.readout[layer].W.copy_(torch.eye(WIDTH))
        model.unembed.W_U[LABEL] = 30 * torch.eye(LABELS)
    return model


def hand_drawn(n=31, pairs=6, seed=0) -> Batch:
    """Sequences of three classes, each twice with one label, and a query of one of them, in plain loops."""
    generator = torch.Generator().manual_seed(seed)
    inputs, tokens, targets = torch.zeros(n, 2 * pairs + 1, WIDTH), torch.zeros(n, 2 * pairs + 1, dtype=torch.long), []
    for row in range(n):
        classes = torch.randperm(CLASSES, generator=generator)[:3].tolist()
        labels = torch.randperm(LABELS, generator=generator)[:3].tolist()
        order = torch.randperm(pairs, generator=generator).remainder(3).tolist()
        asked, start = int(torch.randint(3, (1,), generator=generator)), int(torch.randint(WINDOW - 12, (1,), generator=generator))
        for t, which in enumerate([*order, asked]):
            inputs[row, 2 * t, start + 2 * t] = inputs[row, 2 * t, WINDOW + classes[which]] = 1
            tokens[row, 2 * t] = classes[which]
            if t < pairs:
                inputs[row, 2 * t + 1, [start + 2 * t + 1, WINDOW + CLASSES + labels[which], IS_LABEL]] = 1
                tokens[row, 2 * t + 1] = CLASSES + labels[which]
        targets.append([labels[which] for which in [*order, asked] for _ in range(2)][:-1])
    asked = torch.zeros_like(tokens, dtype=torch.bool)
    asked[:, -1] = True
    return Batch(tokens, torch.tensor(targets), asked, torch.zeros_like(asked), inputs=inputs, asked=asked)


def formation_rows(model, batch, evaluations=None):
    task = make_task(config_of().task)
    data = AnalysisData({"own": task}, {"own": batch}, evaluations=evaluations or {})
    rows = list(formation.measure(model, data))
    return {(row["metric"], row.get("layer")): row for row in rows}


def test_a_circuit_built_by_hand_is_found():
    batch = hand_drawn()
    rows = formation_rows(hand_built(), batch)
    assert rows["in_context_accuracy", None]["value"] == 1 and rows["loss", None]["value"] < 1e-3
    assert rows["previous_token_at_answers", 0]["value"] == pytest.approx(1, abs=1e-4)
    assert rows["prefix_matching_score", 1]["value"] == pytest.approx(1, abs=1e-4)
    assert rows["prefix_matching_score", 1]["baseline"] < 0.6
    # The head that looks one back is at the right label exactly where the last pair is of the query's class.
    share = (batch.tokens[15:, -3] == batch.tokens[15:, -1]).float().mean().item()
    assert rows["prefix_matching_score", 0]["value"] == pytest.approx(share, abs=1e-4) and 0 < share < 0.5
    # Predictions are asked for at one place: there is no early and late, and no position that only the weights could answer.
    assert ("in_context_score", None) not in rows and ("bigram_loss", None) not in rows
    # Without matching, layer 1 looks at all six labels alike, two of which are right.
    blind = formation_rows(hand_built(matching=False), batch)
    assert blind["prefix_matching_score", 1]["value"] == pytest.approx(2 / 6, abs=1e-4)
    assert blind["previous_token_at_answers", 0]["value"] == pytest.approx(1, abs=1e-4)
    assert blind["in_context_accuracy", None]["value"] < 0.7


def test_the_loss_counts_where_a_prediction_is_asked_for():
    batch, model = hand_drawn(), hand_built(matching=False)
    logits = model(inputs_embeds=batch.inputs)[:, -1]
    losses = [-row.log_softmax(dim=-1)[label].item() for row, label in zip(logits, batch.targets[:, -1], strict=True)]
    rows = formation_rows(model, batch)
    assert rows["loss", None]["value"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_accuracies_of_the_evaluations():
    """Each on its own sequences, of which a known share is right."""
    model, whole = hand_built(), hand_drawn(n=30)

    def with_right(n_right):
        wrong = (whole.targets + (torch.arange(30) >= n_right)[:, None]) % LABELS
        # Positions that are not asked for are all wrong, and no position counts as answered.
        nowhere = torch.zeros_like(whole.answered)
        return Batch(whole.tokens, wrong, nowhere, whole.asked, inputs=whole.inputs, asked=whole.asked)

    batches = {"mixed": with_right(11), "flipped": with_right(17), "in_weights": with_right(23)}
    rows = formation_rows(model, whole, batches)
    assert rows["accuracy", None]["value"] == pytest.approx(11 / 30) and rows["accuracy", None]["n"] == 30
    assert rows["flipped_accuracy", None]["value"] == pytest.approx(17 / 30)
    assert rows["in_weights_accuracy", None]["value"] == pytest.approx(23 / 30)


def test_sequences_for_the_analysis():
    config = config_of()
    task = make_task(config.task)
    data = AnalysisData.draw(config.model, task, sequences=31)
    assert list(data.batches) == [data.own] == ["in-context-classification"] and data.control is None and data.beyond is None
    own = data.batches[data.own]
    assert len(own) == 31 and own.answered[:, -1].all() and (own.tokens[:, ::2] >= 35 + 7).all()
    assert set(data.evaluations) == {"mixed", "flipped", "in_weights"} and all(len(batch) == 31 for batch in data.evaluations.values())
    mixed, flipped, weights = (data.evaluations[name] for name in ("mixed", "flipped", "in_weights"))
    assert 0 < mixed.unanswerable.sum() < 31 and weights.unanswerable.sum() > 15
    assert ((flipped.tokens[:, -1] % 7 + 1) % 7 == flipped.targets[:, -1]).all()
    seen = {vectors.numpy().tobytes() for batch in (own, *data.evaluations.values()) for vectors in batch.inputs}
    assert len(seen) == 4 * 31 and not seen & {vectors.numpy().tobytes() for vectors in TrainingBatches(task, 97, 0)[0].inputs}
    assert torch.equal(AnalysisData.draw(config.model, task, sequences=31).batches[data.own].inputs, own.inputs)
    with pytest.raises(UsageError, match="pass the task"):
        AnalysisData.draw(config.model, None)


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    return train(config_of(steps=5, checkpoint_every=1), tmp_path_factory.mktemp("runs") / "x", progress=False)


def test_a_run_is_analysed(small_run):
    table = analyze(small_run, sequences=29)
    assert set(small_run.tables.names) >= {"formation", "causal", "stream", "attention", "tokens"}
    assert not {"circuits", "probes", "attribution", "hijack", "length"} & set(small_run.tables.names)
    last = table[table["step"] == 5].set_index("metric")["value"]
    data = AnalysisData.of_run(small_run, 29)
    model = small_run.model(5)
    for metric, batch in (("in_context_accuracy", data.batches[data.own]), ("in_weights_accuracy", data.evaluations["in_weights"])):
        right = [
            model(inputs_embeds=vectors[None])[0, -1].argmax() == label
            for vectors, label in zip(batch.inputs, batch.targets[:, -1], strict=True)
        ]
        assert last[metric] == pytest.approx(sum(map(int, right)) / 29)
    assert not set(table["metric"]) & {"patching_effect", "in_context_score", "bigram_loss", "ablation_bigram_increase"}
    assert {"ablation_accuracy_loss", "cut_loss_increase", "path_loss_increase", "streamed_output_share"} <= set(table["metric"])
    tokens = small_run.tables.read("tokens")
    tokens = tokens[tokens["sequence"] == 0]
    assert (
        tokens["text"].iloc[0].startswith("n")
        and tokens["text"].iloc[1].startswith("y")
        and tokens["answered"].tolist() == [False] * 12 + [True]
    )
    attention = small_run.tables.read("attention")
    _, cache = model.run_with_cache(inputs_embeds=data.batches[data.own].inputs[:1])
    attention = attention[(attention["step"] == 5) & (attention["sequence"] == 0) & (attention["layer"] == 1)]
    row = attention[attention["destination"] == 12].sort_values("source")["attention"].to_numpy()
    torch.testing.assert_close(torch.from_numpy(row.copy()), cache["pattern", 1][0, 0, 12], check_dtype=False, atol=1e-5, rtol=1e-5)


def test_a_model_with_its_task_is_analysed():
    config = config_of()
    table = analyze(HookedTransformer(config.model), make_task(config.task), only=["formation"], sequences=13)
    assert isinstance(table, pd.DataFrame) and set(table["task"]) == {"in-context-classification"}
    with pytest.raises(UsageError, match="pass the task"):
        analyze(HookedTransformer(config.model), only=["formation"])


@pytest.mark.parametrize("section", ["circuits", "probes", "attribution", "hijack", "length"])
def test_sections_that_make_no_sense_are_refused_where_they_are_asked_for(section, small_run):
    with pytest.raises(UsageError, match=rf"the section {section} .* needs a model that reads tokens; the task in-context-classification"):
        analyze(small_run, only=[section])
    config = config_of()
    assert section not in applicable(SECTIONS, config.model, config.task, asked=False)
    assert section in applicable(SECTIONS, presets["trigger-bigram"].model, presets["trigger-bigram"].task, asked=False)


def test_which_sections_are_left():
    config = config_of()
    assert applicable(SECTIONS, config.model, config.task, asked=False) == ["formation", "stream", "causal"]
    # Of the sections that emergence watches, those that fit are measured; a metric of another one is refused.
    assert "probes" in chosen(["emergence"])[0]
    sections, kept = chosen(["emergence"])
    assert applicable(sections, config.model, config.task, asked=True, kept=kept) == ["formation", "causal"]
    sections, kept = chosen(["emergence", "copying_probe"])
    with pytest.raises(UsageError, match="the section probes"):
        applicable(sections, config.model, config.task, asked=True, kept=kept)
    # A classifier that reads tokens has no weights from the residual stream to the logits, but positions and lengths.
    with pytest.raises(UsageError, match="linear in the residual stream; this model has readout='classifier'"):
        applicable(["attribution"], config.model, asked=True)
    assert "length" in applicable(SECTIONS, config.model, asked=False)


def test_interventions_run_on_vectors():
    model, batch = hand_built(), hand_drawn()
    outcome = run_batch(model, batch, record=["readout.2.hook_post"])
    assert outcome.evaluation.correct[:, -1].all() and outcome.recorded["readout.2.hook_post"].shape == (31, 13, WIDTH)
    cut = run_batch(model, batch, {"blocks.0.attn.hook_z": lambda value, rows: torch.zeros_like(value)})
    assert cut.evaluation.correct[:, -1].float().mean() < 0.7


def test_commands_refuse_plainly(small_run):
    with pytest.raises(UsageError, match=r"the section circuits .* needs a model that reads tokens"):
        analyze_command(small_run.path, only="formation,circuits")
    with pytest.raises(UsageError, match=r"reads vectors .* no prompt in words"):
        hijack_command(str(small_run.path), "x1 y2")
