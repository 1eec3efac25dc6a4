"""Breaks the code on purpose, one change at a time, and lists which test notices: `python -m tests.mutations [name ...]`.

Every metric has at least one mutation; names choose some. It works on a copy of the tracked files, and ends non-zero where a
mutation survives, where a metric has none, or where the text to change is not found exactly once. Not part of the test run:
it takes some minutes.
"""

# ruff: noqa: E501

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

ROOT = Path(__file__).parent.parent
WORKERS = 2


@dataclass(frozen=True)
class Mutation:
    """In `file` of workbench/, `old` becomes `new`; the tests in `tests` should notice."""

    metric: str
    file: str
    old: str
    new: str
    tests: str


def _all() -> list[Mutation]:
    heads, icl = ("analysis/heads.py", "test_heads"), ("analysis/icl.py", "test_icl")
    circuits, probes = ("analysis/circuits.py", "test_circuits"), ("analysis/probes.py", "test_probes")
    attended = ("analysis/attention_probes.py", "test_probes")
    split, stream = ("analysis/stream_split.py", "test_stream"), ("analysis/stream.py", "test_stream")
    causal, patching = ("analysis/causal.py", "test_causal"), ("analysis/patching.py", "test_patching")
    attribution, lens = ("analysis/attribution.py", "test_attribution"), ("analysis/logit_lens.py", "test_logit_lens")
    length, emergence = ("analysis/length.py", "test_length"), ("analysis/emergence.py", "test_emergence")
    hijack, answered = ("analysis/hijack_measure.py", "test_hijack_measure"), ("analysis/hijack_answers.py", "test_hijack_answers")
    theory = ("analysis/hijack_theory.py", "test_hijack_theory")
    changes: list[tuple[str, tuple[str, str], str, str]] = [
        ("previous_token_score", heads, ".roll(1, dims=0).tril(-1)", ".roll(2, dims=0).tril(-1)"),
        ("previous_token_at_answers", heads, "read = counted(induction_places(tokens), asked).any(dim=1)", "read = asked"),
        ("prefix_matching_score", heads, "places = duplicate_places(tokens).roll(1, dims=2)", "places = duplicate_places(tokens)"),
        ("duplicate_token_score", heads, "tokens[:, None, :]).tril(-1)", "tokens[:, None, :]).tril(0)"),
        ("loss", icl, "over(evaluation.losses, batch.predicted)", "over(evaluation.losses, batch.answered)"),
        ("in_context_accuracy", icl, "over(evaluation.correct, batch.answered)", "over(evaluation.correct, ~batch.answered)"),
        ("in_context_loss", icl, "over(evaluation.losses, batch.answered)", "over(evaluation.losses, batch.unanswerable)"),
        ("bigram_loss", icl, "over(evaluation.losses, batch.unanswerable)", "over(evaluation.losses, batch.answered)"),
        ("excess_loss", ("analysis/icl.py", "../training/test_regression"), "evaluation.losses - least_squares_errors(batch)", "evaluation.losses + least_squares_errors(batch)"),
        ("excess_loss in the log", ("evaluation.py", "../training/test_regression"), '(batch.annotations["least_squares"] - batch.values) ** 2', '(batch.annotations["least_squares"] - batch.values).abs()'),
        ("squared error", ("model/loss.py", "../training/test_regression"), "_counted((predicted - values) ** 2, mask, per_token)", "_counted((predicted - values) ** 2, None, per_token)"),
        ("least squares", ("tasks/regression.py", "../tasks/test_regression"), "variance + noise**2", "variance + noise"),
        ("least squares of smallest norm", ("tasks/regression.py", "../tasks/test_regression"), "<= TINY * (row**2).sum(axis=1)", "< 0 * (row**2).sum(axis=1)"),
        ("ridge in units of x", ("tasks/regression.py", "../tasks/test_regression"), "least_squares(x / config.d_x**0.5, y, config.noise)", "least_squares(x, y, config.noise)"),
        ("prior of the slope", ("tasks/regression.py", "../tasks/test_regression"), "config.max_slope / 3**0.5 * shown", "config.max_slope * shown"),
        ("floor of linear regression", ("tasks/regression.py", "../tasks/test_regression"), "for n in range(config.d_x))", "for n in range(1, config.d_x))"),
        ("in_context_score", icl, "late.mean(dim=1) - early.mean(dim=1)", "early.mean(dim=1) - late.mean(dim=1)"),
        ("accuracy", ("analysis/icl.py", "test_classification"), '    tensor(0.5000)\n    """\n    return over(evaluation.correct, batch.predicted)', '    tensor(0.5000)\n    """\n    return over(evaluation.correct, ~batch.predicted)'),
        ("flipped_accuracy", ("analysis/icl.py", "test_classification"), '    tensor(1.)\n    """\n    return over(evaluation.correct, batch.predicted)', '    tensor(1.)\n    """\n    return over(evaluation.correct, batch.answered)'),
        ("in_weights_accuracy", ("analysis/icl.py", "test_classification"), '    tensor(0.)\n    """\n    return over(evaluation.correct, batch.predicted)', '    tensor(0.)\n    """\n    return over(evaluation.correct, torch.ones_like(batch.predicted))'),
        ("copying_score", circuits, "FactoredMatrix(W_E @ OV.A, OV.B @ W_U), (", "FactoredMatrix(W_E @ OV.A, OV.B @ W_E.T), ("),
        ("qk_match_score", circuits, "eigenvalues.real.sum(dim=-1)", "eigenvalues.abs().sum(dim=-1)"),
        ("q_composition", circuits, "_composition(OV.collapse_l(), QK.collapse_r(),", "_composition(OV.collapse_l(), QK.collapse_l().transpose(-1, -2),"),
        ("k_composition", circuits, "_composition(OV.collapse_l(), QK.collapse_l().transpose(-1, -2),", "_composition(OV.collapse_l(), QK.collapse_r(),"),
        ("v_composition", circuits, "_size(OV)[:, None] * _size(later)", "_size(OV)[:, None] * _size(OV)[None]"),
        ("stream_composition", circuits, "_norm(streamed.A) * _norm(streamed.B)", "_norm(streamed.A)"),
        ("streamed_ov_share", circuits, ".pow(2).sum(dim=0).sqrt()", ".sum(dim=0)"),
        ("previous_token_probe", probes, "W_pos if causal else W_pos[:-1]", "W_pos if causal else W_pos[1:]"),
        ("trigger_match_probe", probes, 'space.used("q", layer), space.used("v", layer - 1)', 'space.own("q", layer), space.used("v", layer - 1)'),
        ("copying_probe", probes, "offset=start", "offset=0"),
        ("bigram_probe", probes, "torch.special.xlogy(bigram, bigram).sum(dim=-1) - ", "0.0 - "),
        ("argmax_previous_token", attended, "largest = chosen == chosen.amax(dim=-1, keepdim=True)", "largest = chosen > 0"),
        ("argmax_prefix_match", attended, "places = counted(induction_places(tokens), rows)", "places = counted(induction_places(tokens), ~rows)"),
        ("attended_is_predicted", attended, "predicted[:, :, None]).tril()", "predicted[:, :, None]).tril(-1)"),
        ("OV matrix", ("analysis/circuit_matrices.py", "test_circuit_matrices"), "(W_E @ OV.A) @ (OV.B @ W_U)", "(OV.B @ W_U).T @ (W_E @ OV.A).T"),
        ("QK matrix", ("analysis/circuit_matrices.py", "test_circuit_matrices"), "(rows @ QK.A) @ (QK.B @ columns.T)", "(columns @ QK.A) @ (QK.B @ rows.T)"),
        ("a matrix's earlier head", ("analysis/circuit_matrices.py", "test_circuit_matrices"), "if head.layer < layer), None)", "if head.layer <= layer), None)"),
        ("a matrix's streamed keys", ("analysis/circuit_matrices.py", "test_circuit_matrices"), "if source > source_layer]", "if source >= source_layer]"),
        ("a table without rows", ("tables.py", "test_circuit_matrices"), "file.unlink(missing_ok=True)", "pass"),
        ("compared matrices' colours", ("figures/matrices.py", "../figures/test_matrices"), "coloraxis{kinds.index(panel.kind) + 1}", "coloraxis{number + 1}"),
        ("a head's streamed curve", ("figures/stream.py", "../figures/test_stream"), "where(table, **place_of(head)) for table", "where(table, layer=place_of(head)[\"layer\"]) for table"),
        ("streamed_input_share", split, "own.pow(2).sum(dim=(1, 3)) + arrived", "own.pow(2).sum(dim=(1, 3))"),
        ("streamed_output_share", split, "Ratio((streamed * whole).sum", "Ratio((own * whole).sum"),
        ("score_contrast", split, "weights = (weight(places) - weight(others))", "weights = (weight(places) + weight(others))"),
        ("stream_scale", split, "return a, b", "return b, a"),
        ("cut_accuracy_loss", stream, "values = arriving.roll(-1, dims=2) if how", "values = arriving.roll(1, dims=2) if how"),
        ("cut_accuracy_share", stream, "right = (clean.correct & batch.answered)", "right = (edited.correct & batch.answered)"),
        ("cut_loss_increase", stream, "edits[_name(letter, layer, \"_stream\")]", "edits[_name(letter, layer)]"),
        ("cut_bigram_increase", stream, "lost(edited.losses, clean.losses, batch.unanswerable)", "lost(clean.losses, edited.losses, batch.unanswerable)"),
        ("path_accuracy_share", stream, "z: replaced_by(clean.recorded[z])})", "z: replaced_by(both.recorded[z])})"),
        ("path_loss_increase", stream, "residual = run(model, batch, {z: replaced_by(both.recorded[z])})", "residual = both"),
        ("ablation_accuracy_loss", causal, "lost(clean.correct, ablated.correct, batch.answered)", "lost(ablated.correct, clean.correct, batch.answered)"),
        ("ablation_loss_increase", causal, "lost(ablated.losses, clean.losses, batch.answered)", "lost(ablated.losses, clean.losses, ~batch.answered)"),
        ("ablation_bigram_increase", causal, "lost(ablated.losses, clean.losses, batch.unanswerable)", "lost(ablated.losses, clean.losses, batch.answered)"),
        ("output_norm", causal, "(z[:, :, head] @ W_O[head]).norm(dim=-1)", "z[:, :, head].norm(dim=-1)"),
        ("matched_control", causal, "other in free if head.layer == other.layer", "other in free"),
        ("forward_passes", causal, "passed += len(embedded)", "passed += 1"),
        ("patching_effect", patching, "return PerSequence(clean - corrupted,", "return PerSequence(corrupted - clean,"),
        ("patching_recovery", patching, "return Ratio(patched - before, ", "return Ratio(patched, "),
        ("logit_lens_accuracy", lens, "return in_context_accuracy(evaluation, batch)", "return in_context_loss(evaluation, batch)"),
        ("logit_lens_loss", lens, "model.unembed(model.ln_final(resid))", "model.unembed(resid)"),
        ("loss_by_position", lens, "evaluation.losses[:, positions]", "evaluation.losses[:, : positions.stop]"),
        ("direct_logit_attribution", attribution, "block.attn.mix[0] * cache[\"v\", layer]", "cache[\"v\", layer]"),
        ("direct_logit_by_source", attribution, "same = (tokens[:, :, None] == tokens[:, None, :]).tril() & ~answer", "same = (tokens[:, :, None] == tokens[:, None, :]).tril()"),
        ("accuracy_by_position", length, "over(evaluation.correct[:, positions], batch.answered[:, positions])", "over(evaluation.correct[:, positions], ~batch.answered[:, positions])"),
        ("previous_token_by_position", length, "heads.previous_at_answers(tokens, asked)", "heads.previous_places(tokens)"),
        ("prefix_matching_by_position", length, "heads.counted(heads.induction_places(tokens), asked)", "heads.induction_places(tokens)"),
        ("hijack_margin", answered, "return (logits.gather(1, context) - logits.gather(1, prior))", "return (logits.gather(1, prior) - logits.gather(1, context))"),
        ("hijack_margin_by_position", length, "return hijack_margin(margins)", "return hijack_rate(margins)"),
        ("hijack_rate_by_position", length, "return hijack_rate(margins)", "return hijack_rate(-margins)"),
        ("hijack_rate", hijack, "(margins < 0).to(margins.dtype)", "(margins > 0).to(margins.dtype)"),
        ("hijack_contribution", answered, "(value - for_prior[component])[:, 0]", "value[:, 0]"),
        ("hijack_contribution", hijack, "hijack_contribution(values[rows])", "hijack_contribution(values)"),
        ("hijack_causal_part", answered, "z[:, end].mean(dim=0)", "z[:, 0].mean(dim=0)"),
        ("hijack_causal_part", hijack, 'PerSequence(margins - global_margins, count)', "PerSequence(margins, count)"),
        ("hijack_strength", ("analysis/hijack_fit.py", "test_hijack_fit"), "followed * high + elsewhere", "followed * high - elsewhere"),
        ("hijack_r2", ("analysis/hijack_fit.py", "test_hijack_fit"), "float(1 - ((predicted - margins) ** 2).sum()", "float(((predicted - margins) ** 2).sum()"),
        ("hijack_r2", theory, "predicted[held_out], judged.margins[held_out])\n        yield {\"metric\": hijack_r2", "predicted[fitted], judged.margins[fitted])\n        yield {\"metric\": hijack_r2"),
        ("hijack_sign_agreement", theory, "columns[fitted], margins[fitted], rcond", "-columns[fitted], margins[fitted], rcond"),
        ("hijack_boundary", theory, "    return t3 / t2\n", "    return t2 / t3\n"),
        ("hijack_boundary_shift", theory, "hijacked = (margins < 0)", "hijacked = (margins > 0)"),
        ("hijack_residual", theory, "_over_prompts(margins - predicted)", "_over_prompts(predicted - margins)"),
        ("hijack prompts by lot", theory, "np.random.default_rng(0).permutation(len(prompts)) % 2", "np.arange(len(prompts)) % 2"),
        ("crosstalk", ("analysis/hijack_crosstalk.py", "test_hijack_crosstalk"), "/ (2 * d_model)", "/ d_model"),
        ("likeliest followers", ("tasks/hijack.py", "../tasks/test_hijack"), "followers[row[followers].argmax()]", "followers[row[followers].argmin()]"),
        ("hijack prompts", ("tasks/hijack.py", "../tasks/test_hijack"), "others[np.arange(n), trigger] = 0.0", "others[np.arange(n), trigger] = 1.0"),
        ("associative memory", ("model/constructed.py", "../model/test_constructed"), "t1 * (at.noted[wanted].T @ at.tokens[wanted])", "t1 * (at.noted.T @ at.tokens)"),
        ("prompts of facts", ("tasks/hijack.py", "../tasks/test_facts"), "% beat == (t - (length - 1)) % beat", "% beat < beat"),
        ("facts", ("tasks/language.py", "../tasks/test_facts"), "eligible[ids[subject]] = True", "eligible[ids[true]] = True"),
        ("triggers of facts", ("tasks/language.py", "../tasks/test_facts"), "else self.unigram * self.eligible", "else self.unigram"),
        ("prompts in words", ("analysis/word_prompts.py", "test_word_prompts"), "CONTEXT if context > prior else PRIOR", "CONTEXT if context < prior else PRIOR"),
        ("relative positions", ("model/attention.py", "../model/test_attention"), ".clamp(0, self.config.longest_distance)", ".clamp(0, self.config.longest_distance - 1)"),
        ("emergence_step", ("analysis/logistic.py", "test_logistic"), "m = np.clip", "m = 1 + np.clip"),
        ("emergence_step", emergence, "    return fit.midpoint\n", "    return fit.low\n"),
        ("emergence_width", emergence, "    return fit.width\n", "    return fit.width / 2\n"),
        ("emergence_rise", emergence, "return fit.high - fit.low", "return fit.high"),
        ("emergence_fit", emergence, "return fit.r2", "return 1 - fit.r2"),
        ("threshold_step", emergence, "steps[there.argmax(axis=1)]", "steps[there.argmin(axis=1)]"),
        ("reached", emergence, "(curves >= threshold).any(axis=1).mean()", "(curves >= threshold).all(axis=1).mean()"),
        ("persistence", emergence, "means[:, -1] / np.where", "means[:, 0] / np.where"),
        ("overtaking_step", emergence, "stays[:, -1] & (curves < 0).any(axis=1)", "stays[:, -1]"),
        ("emergence_gap", emergence, "return later - earlier", "return earlier - later"),
        ("held-out selection", ("analysis/data.py", "test_roles"), "return slice(0, max(1, n // 2))", "return slice(n // 2, n)"),
        ("positional heads", ("analysis/roles.py", "test_roles"), 'return row["baseline"] > row["selection"] / 2', "return False"),
        ("bootstrap of units", emergence, "np.random.default_rng(0).multinomial", "np.random.default_rng(1).multinomial"),
        ("seeds that are censored", ("analysis/seeds.py", "test_seeds"), "if censored or not len(numbers):", "if not len(numbers):"),
        ("pairing of seeds", ("analysis/seeds.py", "test_seeds"), "values[seed] - reference[seed] for seed", "values[seed] - reference[max(reference)] for seed"),
        ("ranks of a median", ("analysis/compare.py", "test_compare"), "float(low[rank - 1])", "float(low[rank])"),
        ("a censored pair", ("analysis/compare.py", "test_compare"), 'both["value"].fillna(both["at_least"]) - both["value_r"].fillna(math.inf)', 'both["value"].fillna(both["at_least"]) - both["value_r"].fillna(both["at_least_r"])'),
        ("an interval without spread", ("analysis/compare.py", "test_compare"), "spread = found.ci_low < found.ci_high", "spread = True"),
        ("the best learning rate", ("analysis/compare.py", "test_compare"), '["share", "mean", "lr"]', '["mean", "share", "lr"]'),
        ("bands over seeds", ("analysis/compare.py", "test_compare"), '(1 + CONFIDENCE) / 2, np.where', 'CONFIDENCE, np.where'),
        ("claims in a comparison", ("analysis/compare_words.py", "test_compare"), "if low <= 0 <= high:", "if low == 0:"),
        ("runs of one task", ("analysis/compare_runs.py", "../test_cli_compare"), 'text.startswith("task")', 'text.startswith("model")'),
        ("an event that has no row", ("analysis/compare_runs.py", "../test_cli_compare"), 'if source == EMERGENCE and metric in EVENTS:', 'if False:'),
        ("amicl_accuracy", ("amicl/accuracy.py", "../test_amicl"), "return float(right.mean())", "return float(right[0])"),
        ("pearson_ceiling", ("amicl/accuracy.py", "../test_amicl"), "(1 - 1 / pairs) * (1 - 1 / n_classes)", "1 - 1 / pairs"),
        ("AMICL's memory", ("amicl/model.py", "../test_amicl"), "* tokens[:, :-1]", "* tokens[:, 1:]"),
        ("AMICL's empty slot", ("amicl/model.py", "../test_amicl"), "    own[:, -1] = empty\n", ""),
        ("AMICL's query", ("amicl/data.py", "../test_amicl"), "tokens[np.arange(trials), 2 * asked + 1]", "tokens[np.arange(trials), 1]"),
        ("AMICL's classes", ("amicl/data.py", "../test_amicl"), "(ids[:, :, None] == ids[:, None, :]).argmax(axis=2)", "np.arange(pairs)[None].repeat(trials, axis=0)"),
        ("AMICL's noise", ("amicl/data.py", "../test_amicl"), "np.float32(config.eps / config.d)", "np.float32(config.eps / config.d**0.5)"),
        ("AMICL's softmax", ("amicl/model.py", "../test_amicl"), "np.asarray(beta, dtype=scores.dtype) * (", "("),
        ("flipped labels", ("tasks/classification.py", "../tasks/test_classification"), 'labels = (classes + (split == "flipped"))', "labels = (classes + 0)"),
        ("a query kept out", ("tasks/classification.py", "../tasks/test_classification"), "left_out * (places >= begins)", "left_out * (places > 1)"),
        ("where a window begins", ("tasks/classification.py", "../tasks/test_classification"), "config.window - config.seq_len + 1", "config.window - config.seq_len"),
        ("a classifier's bias", ("model/components.py", "../model/test_classifier"), "F.linear(x, self.W.T) + self.b", "F.linear(x, self.W.T)"),
        ("where a label is asked for", ("training/loop.py", "../training/test_classification"), "else batch.asked", "else None"),
        ("what is finished", ("runs.py", "../training/test_ensemble"), "self.steps[-1:] == [self.config.train.steps]", "self.steps[-1:] == []"),
        ("threads of a member", ("processes.py", "../training/test_ensemble"), "    torch.set_num_threads(threads)\n", "    torch.set_num_threads(threads + 2)\n"),
        ("stopping an ensemble", ("processes.py", "../training/test_ensemble"), "        return stop.is_set()\n", "        return False\n"),
        ("whose slice of a stack", ("training/stack.py", "../training/test_stacked"), ".data = stacked.data[number]", ".data = stacked.data[number - 1]"),
        ("rows of a learning rate", ("training/stack.py", "../training/test_stacked"), "gradient[self.rows]", "gradient[: len(parameter)]"),
        ("a learning rate in a stack", ("training/stack.py", "../training/test_stacked"), 'group["lr"] = learning_rate(self.config, step)', "pass"),
        ("a state that goes back", ("training/stack.py", "../training/test_stacked"), "value is None else value[place]", "value is None else value[0]"),
        ("a state that is stacked", ("training/stack.py", "../training/test_stacked"), "            if states[0]:", "            if False:"),
        ("clipping each member", ("training/stack.py", "../training/test_stacked"), "torch.linalg.vector_norm(norms, dim=0)", "torch.linalg.vector_norm(norms)"),
        ("each member's batch", ("training/stack.py", "../training/test_stacked"), "key = trainer.config.data_seed, step", "key = 0, step"),
        ("drawing ahead", ("training/stack.py", "../training/test_stacked"), "[step + 1 for step in self._steps]", "[step for step in self._steps]"),
        ("a member that diverges", ("training/stacked.py", "../training/test_stacked"), 'seat.trainer.require_finite(loss, "the loss")', "pass"),
        ("dropout in a stack", ("training/stacked.py", "../training/test_stacked"), "size = 1 if shape.model.dropout else MEMBERS_AT_ONCE", "size = MEMBERS_AT_ONCE"),
        ("stopping a stack", ("training/stacked.py", "../training/test_stacked"), "stopping = wished()", "stopping = False"),
        ("evaluation of a stack", ("training/stacked.py", "../training/test_stacked"), "all_found[number] if", "all_found[0] if"),
        ("the wire's scale", ("model/wire.py", "test_circuits"), "scale = model.blocks[layer].attn.mix[1]", "scale = 1.0"),
        ("value-weighted attention", ("analysis/attention.py", "test_attention"), "return pattern * _lengths(written)", "return pattern * _lengths(written) ** 2"),
        ("streamed attention", ("analysis/attention.py", "test_attention"), "(streamed * written).sum(dim=-1)", "(streamed * streamed).sum(dim=-1)"),
        ("streamed scores", ("analysis/attention.py", "test_attention"), "streamed, other)[1]\n", "streamed, other)[0]\n"),
        ("where an induction head reads", ("analysis/attention.py", "test_attention"), "torch.where(places, position, -1).amax(dim=-1)", "torch.where(places, position, -1).argmax(dim=-1)"),
        ("predictions that are kept", ("analysis/predictions.py", "test_predictions"), "(rank < top) | (rank == right[..., None])", "rank < top"),
        ("the right token's rank", ("analysis/predictions.py", "test_predictions"), "ranked_log_probs(model(batch.tokens.to(model.W_E.device)))", "ranked_log_probs(model(batch.targets.to(model.W_E.device)))"),
        ("tokens as HTML", ("figures/predictions.py", "../figures/test_predictions"), "html.escape(visible_token(text))", "visible_token(text)"),
        ("the script in a notebook", ("figures/circuitsvis.py", "../figures/test_circuitsvis"), "_shown = _shown or included", "_shown = False"),
        ("the viewer's checkpoint", ("figures/viewer.js", "../report/test_viewer_page"), "const at = (run.steps.indexOf(step) * run.heads.length + run.heads.indexOf(head)) * cells;", "const at = (Math.max(0, run.steps.indexOf(step) - 1) * run.heads.length + run.heads.indexOf(head)) * cells;"),
        ("the viewer's difference", ("figures/viewer.js", "../report/test_viewer_page"), "this.values(second.label, this.secondStep, head);", "this.values(second.label, state.step, head);"),
        ("the viewer's selection", ("figures/viewer.js", "../report/test_viewer_page"), "this.state = this._checked({ ...before, ...change });", "this.state = this._checked({ ...this._defaults(), ...change });"),
        ("the viewer's traits", ("figures/viewer.js", "../report/test_jupyter"), "model.save_changes(); },", "},"),
        ("the viewer's second events", ("figures/viewer.js", "../report/test_viewer_page"), "if (row && (event.step < first || event.step > last)) return;", ""),
        ("the viewer's intervals", ("figures/viewer.py", "../figures/test_viewer"), 'for name in ("ci_low", "ci_high")]', 'for name in ("ci_high", "ci_low")]'),
        ("the viewer's factors", ("figures/viewer.py", "../figures/test_viewer"), "np.rint(numbers / factor).astype(np.int64) + offset", "np.rint(numbers / factor).astype(np.int64) + 2 * offset"),
        ("what the viewer leaves out", ("figures/viewer.py", "../figures/test_viewer"), "key=lambda head: names[head] not in run.roles)", "key=lambda head: names[head] in run.roles)"),
        ("a detached source", ("model/attention.py", "../model/test_streams"), "source = source.detach()", "pass"),
        ("a permuted source", ("model/attention.py", "../model/test_streams"), "return source.roll(-1, dims=2)", "return source.roll(1, dims=2)"),
        ("resampling", ("analysis/interventions.py", "test_interventions"), "activation.roll(-1, dims=0)", "activation.roll(-2, dims=0)"),
    ]  # fmt: skip
    return [Mutation(metric, f"workbench/{file}", old, new, f"tests/analysis/{tests}.py") for metric, (file, tests), old, new in changes]


MUTATIONS = _all()


def main() -> int:
    """Run the mutations; gives the number of those that survive or cannot be made."""
    from workbench.analysis.sections import all_metrics

    mutations = [mutation for mutation in MUTATIONS if len(sys.argv) == 1 or mutation.metric in sys.argv[1:]]
    without = [name for name in all_metrics() if name not in {mutation.metric for mutation in MUTATIONS}]
    for name in without:
        print(f"{name}: no mutation")
    with tempfile.TemporaryDirectory() as folder:
        copies: Queue[Path] = Queue()
        for number in range(WORKERS):
            copies.put(copied(Path(folder) / str(number)))

        def check(mutation: Mutation) -> str:
            copy = copies.get()
            try:
                return noticed_by(mutation, copy)
            finally:
                copies.put(copy)

        survived = 0
        with ThreadPoolExecutor(WORKERS) as pool:
            for mutation, verdict in zip(mutations, pool.map(check, mutations), strict=True):
                survived += not verdict.startswith("tests/")
                print(f"{mutation.metric:<28} {mutation.old.strip()[:50]!r:<54} {verdict}", flush=True)
    print(f"{len(mutations)} mutations, {survived} survive; {len(without)} metrics without one")
    return survived + len(without)


def copied(place: Path) -> Path:
    """The tracked files, and nothing of a run."""
    for name in subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n"):
        if name and (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place / name)
    return place


def noticed_by(mutation: Mutation, copy: Path) -> str:
    """The first test that fails with the mutation; a sentence where none does, or where it cannot be made."""
    path = copy / mutation.file
    text = path.read_text()
    if text.count(mutation.old) != 1:
        return f"CANNOT BE MADE: {text.count(mutation.old)} places"
    path.write_text(text.replace(mutation.old, mutation.new))
    try:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider", mutation.tests]
        found = subprocess.run(command, cwd=copy, capture_output=True, text=True, env=_alone())
    finally:
        path.write_text(text)
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", found.stdout, flags=re.MULTILINE)
    return failed[1] if failed else f"SURVIVES (pytest ended with {found.returncode})"


def _alone() -> dict[str, str]:
    """One thread, and no compiled files of another copy."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


if __name__ == "__main__":
    sys.exit(bool(main()))
