"""The script of mutations stays true: every metric has one, and each can be made. Running it is a matter of minutes, and is
left to `python -m tests.mutations`; here two of them are run, one that a test notices and one that changes nothing."""

from dataclasses import replace

from tests.mutations import MUTATIONS, ROOT, copied, noticed_by
from workbench.analysis.sections import all_metrics


def test_every_metric_has_a_mutation_that_can_be_made():
    assert set(all_metrics()) <= {mutation.metric for mutation in MUTATIONS}
    for mutation in MUTATIONS:
        assert (ROOT / mutation.file).read_text().count(mutation.old) == 1, f"{mutation.metric}: {mutation.old!r} in {mutation.file}"
        assert mutation.old != mutation.new and (ROOT / mutation.tests).is_file()


def test_a_mutation_is_noticed_and_a_change_of_nothing_survives(tmp_path):
    copy = copied(tmp_path / "copy")
    mutation = next(mutation for mutation in MUTATIONS if mutation.metric == "pairing of seeds")
    assert noticed_by(mutation, copy).startswith("tests/analysis/test_seeds.py::")
    nothing = replace(mutation, new=mutation.old + " ")
    assert noticed_by(nothing, copy) == "SURVIVES (pytest ended with 0)"
    assert noticed_by(replace(mutation, old="not in the file"), copy) == "CANNOT BE MADE: 0 places"
    assert (copy / mutation.file).read_text() == (ROOT / mutation.file).read_text()
