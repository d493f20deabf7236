import builtins

import pytest
import sacrebleu

from ketune.errors import DataError, KetuneError
from ketune.finetuning import scores
from ketune.finetuning.scoring import final_number, is_match

FOX = "the quick brown fox jumps over the lazy dog"


def test_a_text_equal_to_one_of_its_references_scores_full_marks():
    result = scores([FOX, FOX], [["something else entirely here", FOX], [FOX]])
    assert result == pytest.approx({"bleu": 100, "rouge1": 100, "rouge2": 100, "rougeL": 100, "exact_match": 1.0})


def test_bleu_takes_all_references_of_uneven_number():
    predictions = ["the cat sat on the mat today", "a dog ran in the park", "hello there my friend"]
    references = [
        ["the cat is on the mat", "a cat sat on the mat today", "cat on a mat"],
        ["a dog was running in the park"],
        ["hello my friend", "hello there friend"],
    ]
    # An empty reference changes neither the clipped counts nor, here, the closest length: an independent padding.
    streams = [[texts[i] if i < len(texts) else texts[0] for texts in references] for i in range(3)]
    assert scores(predictions, references)["bleu"] == pytest.approx(sacrebleu.corpus_bleu(predictions, streams).score)
    alone = [[texts[0]] for texts in references]
    assert scores(predictions, references)["bleu"] > scores(predictions, alone)["bleu"]


def test_rouge_takes_the_best_reference_of_each_text():
    result = scores(["a b c d"], [["x y", "a b x y", "a x c"]])
    # ROUGE-1 by hand: against "a b x y" 2 of 4 and 2 of 4; against "a x c" 2 of 4 and 2 of 3, F1 = 4/7.
    assert result["rouge1"] == pytest.approx(100 * 4 / 7)
    # ROUGE-2: "a b" is one of three bigrams in both.
    assert result["rouge2"] == pytest.approx(100 / 3)
    assert result["rougeL"] == pytest.approx(100 * 4 / 7)


@pytest.mark.parametrize(
    ("prediction", "reference", "equal"),
    [
        ("The Red  apple.", "red apple", True),
        ("a red apple", "an apple, red", False),
        ("so 2 + 2 = 4\n#### 4", "...\n#### 4.0", True),
        ("#### 1,234", "x #### 1234", True),
        ("#### -5", "x #### 5", False),
        ("the answer is 4", "x #### 4", False),
        ("#### 4 #### 5", "x #### 5", True),
    ],
)
def test_exact_match_knows_words_and_final_numbers(prediction, reference, equal):
    assert is_match(prediction, [reference]) is equal


def test_the_final_number_needs_its_mark():
    assert final_number("12") is None
    assert final_number("#### none") is None
    assert final_number("a #### $1,000.50 ") == 1000.5


@pytest.mark.parametrize(
    ("predictions", "references", "words"),
    [
        (["a"], [], "1 predictions and 0 lists"),
        ([], [], "nothing to score"),
        (["a"], [[]], r"references\[0\] is \[\]"),
        (["a"], ["text"], r"references\[0\] is 'text'"),
    ],
)
def test_what_cannot_be_scored_is_refused(predictions, references, words):
    with pytest.raises(DataError, match=words):
        scores(predictions, references)


def test_bertscore_without_its_package_says_what_to_install(monkeypatch):
    original = builtins.__import__

    def without_bert_score(name, *args, **kwargs):
        if name == "bert_score":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_bert_score)
    with pytest.raises(KetuneError, match=r"ketune\[bertscore\]"):
        scores(["a"], [["a"]], bertscore_model="some-encoder")
    assert "bertscore" not in scores(["a"], [["a"]])
