"""Languages: tables against hand counts and theorems, and every refusal."""

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from workbench.config import TriggerBigramConfig
from workbench.errors import ConfigError, UsageError
from workbench.tasks import language
from workbench.tasks.alias import UNITS
from workbench.tasks.language import Language, from_text, prose, read_text, synthetic


def test_synthetic_unigram_is_stationary_and_falls_with_rank():
    made = synthetic(31, zipf_exponent=1.0, concentration=10.0, seed=3)
    assert np.abs(made.unigram @ made.bigram - made.unigram).max() < 1e-8
    assert made.unigram[:5].sum() > made.unigram[5:10].sum() > made.unigram[10:15].sum() > made.unigram[-5:].sum()
    uniform_rows = np.full((31, 31), 1 / 31)
    assert np.abs(made.unigram @ uniform_rows - made.unigram).max() > 0.01


def test_stationary_distribution_of_a_chain_known_by_hand():
    # From a to b with 1/4, back with 1/2: a has twice the weight of b. c is left at once and never entered.
    bigram = np.array([[0.75, 0.25, 0.0], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    assert np.allclose(language._stationary(bigram), [2 / 3, 1 / 3, 0], atol=1e-15)
    assert language._stationary(np.eye(2)) is None


def test_stationary_distribution_agrees_with_the_eigenvector():
    bigram = np.random.default_rng(2).dirichlet(np.full(23, 0.3), size=23)
    values, vectors = np.linalg.eig(bigram.T)
    vector = vectors[:, np.argmax(values.real)].real
    assert np.allclose(language._stationary(bigram), vector / vector.sum(), atol=1e-12)


def test_concentration_decides_how_much_the_context_tells():
    loose, tight = synthetic(31, concentration=1e6), synthetic(31, concentration=1.0)
    base = 1 / np.arange(1, 32)
    assert np.abs(loose.bigram - base / base.sum()).max() < 0.005
    assert tight.entropies().mean() < 0.6 * loose.entropies().mean()


def test_synthetic_is_the_same_on_every_machine():
    units = (synthetic(7, seed=5).bigram * UNITS).astype(np.int64)
    assert units[0].tolist() == [1103470454, 646239687, 1264533959, 245420795, 9887723, 138474334, 886940344]
    assert (units == (synthetic(7, seed=5).bigram * UNITS).astype(np.int64)).all()
    assert (units != (synthetic(7, seed=6).bigram * UNITS).astype(np.int64)).any()


def test_tables_are_read_only_and_exact():
    made = synthetic(13)
    assert (made.bigram.sum(1) == 1).all() and made.unigram.sum() == 1
    with pytest.raises(ValueError, match="read-only"):
        made.unigram[0] = 1


def test_entropies_in_nats():
    made = Language(np.array([0.5, 0.5]), np.array([[0.5, 0.5], [0.0, 1.0]]), ("a", "b"))
    assert made.entropies().tolist() == [pytest.approx(np.log(2), abs=1e-15), 0.0]


def test_token_names_are_single_characters_while_they_last():
    assert synthetic(3).strings == ("a", "b", "c")
    assert len(set(synthetic(94).strings)) == 94 and max(map(len, synthetic(94).strings)) == 1
    assert synthetic(97).strings[96] == "t96"


def test_text_is_counted():
    # a four times, b three times, then c and d twice each, of which c has the smaller code point; e and f are dropped.
    text = "abacdabeacdbf"
    kept = "abacdabacdb"
    counted = from_text(text * 10, 3)
    assert counted.strings == ("a", "b", "c")
    kept = (kept * 10).replace("d", "")
    for i, v in enumerate("abc"):
        assert counted.unigram[i] == pytest.approx(kept.count(v) / len(kept), abs=1e-9)
        for j, u in enumerate("abc"):
            pairs = sum(kept[t : t + 2] == v + u for t in range(len(kept) - 1))
            assert counted.bigram[i, j] == pytest.approx(pairs / kept[:-1].count(v), abs=1e-9)


def test_a_character_that_nothing_follows_gets_the_unigram():
    counted = from_text("ab" * 15 + "c", 3)
    assert counted.strings[2] == "c"
    assert counted.bigram[2].tolist() == counted.unigram.tolist()
    assert counted.bigram[0].tolist() == [0, 1, 0]


def test_white_space_has_a_visible_name():
    assert from_text("a \n" * 10 + "a", 3).strings == ("a", "'\\n'", "' '")


def test_text_too_poor_or_too_short_is_refused():
    with pytest.raises(ConfigError, match=r"the text has 2 different characters, fewer than d_vocab=3"):
        from_text("ab" * 50, 3)
    from_text("abc" * 10, 3)
    with pytest.raises(ConfigError, match=r"has 29 characters.*at least 30"):
        from_text(("abc" * 10)[:-1], 3)
    with pytest.raises(ConfigError, match="0 different characters"):
        from_text("", 2)


def test_files_are_read_whatever_their_line_ends_and_mark(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "é\r\nb".encode())
    assert read_text(str(path)) == "é\nb"


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read .*missing.txt.*No such file.*synthetic, prose"):
        read_text(str(tmp_path / "missing.txt"))
    with pytest.raises(UsageError, match="cannot read"):
        read_text(str(tmp_path))
    with pytest.raises(UsageError, match="cannot read"):
        read_text("a\0b")
    (tmp_path / "latin").write_bytes("é".encode("latin-1"))
    with pytest.raises(UsageError, match="latin is not UTF-8 text"):
        read_text(str(tmp_path / "latin"))


def test_prose_is_english_and_stable():
    text = prose()
    assert text == prose() and len(text) > 200_000
    counted = from_text(text, 61)
    assert counted.strings[:3] == ("' '", "e", "t")
    at = {name: i for i, name in enumerate(counted.strings)}
    assert counted.bigram[at["q"], at["u"]] > 0.8


def test_load_finds_each_source(tmp_path):
    assert language.load(TriggerBigramConfig(d_vocab=7, n_triggers=3)).strings == tuple("abcdefg")
    assert language.load(TriggerBigramConfig(language="prose")).strings[0] == "' '"
    path = tmp_path / "text"
    path.write_text("xyz" * 10)
    assert language.load(TriggerBigramConfig(language=str(path), d_vocab=3, n_triggers=1)).strings == ("x", "y", "z")
    with pytest.raises(ConfigError, match="text has 3 different"):
        language.load(TriggerBigramConfig(language=str(path), d_vocab=5, n_triggers=1))


@pytest.mark.parametrize(
    ("unigram", "bigram", "strings", "message"),
    [
        ([0.5, 0.5], np.eye(2), ("a", "a"), "same string"),
        ([0.5, 0.5], np.eye(2), ("a", "b", "c"), "unigram has the shape"),
        ([1.5, -0.5], np.eye(2), ("a", "b"), "negative or not finite"),
        ([0.5, 0.5], [[1, 0], [np.nan, 1]], ("a", "b"), "negative or not finite"),
        ([0.5, 0.4], np.eye(2), ("a", "b"), "unigram does not sum to one"),
        ([0.5, 0.5], [[1, 0], [0.5, 0.6]], ("a", "b"), "bigram does not sum to one"),
    ],
)
def test_tables_that_are_no_probabilities(unigram, bigram, strings, message):
    with pytest.raises(ConfigError, match=message):
        Language(np.array(unigram, dtype=float), np.array(bigram, dtype=float), strings)


def test_tables_of_different_sizes():
    # Under the shape checker the signature refuses them first.
    with pytest.raises((ConfigError, TypeCheckError), match="bigram"):
        Language(np.array([0.5, 0.5]), np.eye(3), ("a", "b"))


def test_impossible_synthetic_languages():
    with pytest.raises(ConfigError, match="falls into parts"):
        synthetic(31, concentration=1e-3)
    with pytest.raises(ConfigError, match="seed must be at least 0, got -1"):
        synthetic(7, seed=-1)
