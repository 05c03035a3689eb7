import pytest

from ds_bert.data.sentences import split_sentences


@pytest.mark.parametrize(
    "paragraph, sentences",
    [
        ("One here. Two there! Three? Four", ["One here.", "Two there!", "Three?", "Four"]),
        ("He met Dr. J. Smith of the U.S. Navy.", ["He met Dr. J. Smith of the U.S. Navy."]),
        ("It costs 3.5 euros. Cheap.", ["It costs 3.5 euros.", "Cheap."]),
        ('"Really?" she said. "Yes." Then she left.', ['"Really?" she said.', '"Yes."', "Then she left."]),
        ("WikiText sets signs apart . So does this one .", ["WikiText sets signs apart .", "So does this one ."]),
        ("see e.g. the appendix of vol. 3 for more", ["see e.g. the appendix of vol. 3 for more"]),
        ("Étonnant ! Élan vital.", ["Étonnant !", "Élan vital."]),
        ("你好。世界！", ["你好。", "世界！"]),
        ("  ", []),
    ],
)
def test_split(paragraph: str, sentences: list[str]) -> None:
    assert split_sentences(paragraph) == sentences


def test_no_text_is_lost() -> None:
    paragraph = 'A b. C d ... E? ("F!") G.H. i J. "K" 1. 2.3 。X! y... Z'
    assert "".join("".join(split_sentences(paragraph)).split()) == "".join(paragraph.split())
