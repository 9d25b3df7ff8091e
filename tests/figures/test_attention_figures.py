"""Pictures of attention, places and embeddings: what is drawn and what they say."""

import pytest
import torch
from matplotlib.collections import PathCollection

from components.figures.attention import attention_maps, positions, sharpest
from components.figures.embeddings import embedding_map
from components.layers.positions import sinusoids

WORDS = ["[CLS]", "a", "good", "film"]


def weights(layers: int = 2, heads: int = 3) -> torch.Tensor:
    return torch.full((layers, heads, 4, 4), 0.25)


def title(figure) -> str:
    return figure.get_suptitle().replace("\n", " ")


def test_the_sharpest_head_is_found_and_shown_with_its_words():
    given = weights()
    given[1, 2] = torch.tensor([[1.0, 0, 0, 0], [0.8, 0.2, 0, 0], [0, 0.9, 0, 0.1], [0, 0, 0.9, 0.1]])
    assert sharpest(given) == ((1, 2), pytest.approx(0.9))
    figure = attention_maps(WORDS, given)
    assert title(figure) == "Head 3 of layer 2 looks most sharply, 90 % on one token in the mean: at the token before"
    assert len([axes for axes in figure.axes if axes.images]) == 2 * 3 + 1
    shown = figure.axes[6]
    assert shown.images[0].get_array().tolist() == pytest.approx(given[1, 2].numpy())
    assert [label.get_text() for label in shown.get_xticklabels()] == WORDS
    assert not shown.collections


def test_maps_are_as_high_as_they_are_wide_and_share_a_scale():
    given = torch.full((2, 3, 30, 30), 0.03)
    given[1, 2, 4, 5] = 0.13
    figure = attention_maps(["word"] * 30, given)
    for axes in figure.axes[:6]:
        assert axes.get_aspect() == 1
        assert axes.images[0].get_clim() == (0, pytest.approx(0.13))
        axes.apply_aspect()
        box = axes.get_window_extent()
        assert box.height == pytest.approx(box.width, rel=0.02)
        assert box.height > 100, "as large as there is room for"


def test_a_masked_triangle_is_hatched():
    given = torch.softmax(torch.zeros(1, 2, 4, 4).masked_fill(torch.ones(4, 4, dtype=torch.bool).triu(1), float("-inf")), -1)
    figure = attention_maps(WORDS, given)
    assert title(figure).startswith("Nothing is read from the future; head 1 of layer 1")
    (hatched,) = figure.axes[2].collections
    assert hatched.get_hatch() == "///"
    (path,) = hatched.get_paths()
    assert path.contains_point((2, 0.4))  # place 0 does not read place 2
    assert not path.contains_point((1, 1.4))


def test_a_head_that_looks_at_one_word_is_said():
    given = weights(1, 1)
    given[0, 0] = torch.tensor([0.97, 0.01, 0.01, 0.01]).expand(4, 4)
    assert title(attention_maps(WORDS, given)).endswith("97 % on one token in the mean: at “[CLS]”")


def test_how_like_each_other_places_are():
    table = sinusoids(torch.arange(80), 32)
    figure = positions({"sinusoidal": table})
    first = (table[:64] - table[:64].mean(0)).double()
    first /= first.norm(dim=-1, keepdim=True)
    near = float((first[:-1] * first[1:]).sum(-1).mean())
    assert title(figure).startswith(f"sinusoidal: neighbours {near:.2f} alike, places 16 apart ")
    assert figure.axes[0].images[0].get_array().shape == (64, 64)
    two = positions({"a": table, "b": table * 2})
    lines = two.axes[-1].lines
    assert lines[0].get_ydata().tolist() == pytest.approx(lines[1].get_ydata().tolist(), abs=1e-5)  # length does not count


def test_an_embedding_map_names_neighbours_and_counts_those_of_one_class():
    vectors = torch.tensor([[1.0, 0, 0], [1, 0.1, 0], [0, 1, 0], [0, 1, 0.3], [0.9, 0, 0.05]])
    texts = ["a $good$ film", "a fine film", "rain", "snow", "a dull film"]
    figure = embedding_map(vectors, texts, groups=[0, 0, 1, 1, 1], names=["film", "weather"], named=[0, 1])
    assert title(figure) == "Of 5 texts 60 % have a nearest neighbour of their own class"
    clouds = [cloud for cloud in figure.axes[0].collections if isinstance(cloud, PathCollection)]
    assert [len(cloud.get_offsets()) for cloud in clouds] == [2, 3]
    assert len(figure.axes[0].lines) == 2
    (words,) = [text.get_text() for part in figure.subfigs for text in part.texts if "film" in text.get_text()]
    assert words.splitlines() == [
        r"1   a \$good\$ film",
        "1′  a dull film  (1.00)",
        "2   a fine film",
        r"2′  a \$good\$ film  (1.00)",
    ]
    assert [mark.get_text() for mark in figure.axes[0].texts] == ["1", "1′", "2", "2′"]
    assert title(embedding_map(vectors, texts)) == "5 texts, and the nearest of some"


def test_a_texts_own_copy_is_no_neighbour_of_it():
    vectors = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0.1, 1]])
    figure = embedding_map(vectors, ["same", "same", "rain", "snow"], named=[0])
    (words,) = [text.get_text() for part in figure.subfigs for text in part.texts]
    assert words.splitlines() == ["1   same", "1′  snow  (0.10)"]
    figure = embedding_map(vectors, ["same", "same", "rain", "snow"], named=[0], copies_count=True)
    assert "1′  same  (1.00)" in next(text.get_text() for part in figure.subfigs for text in part.texts)
    alone = embedding_map(vectors[:2], ["same", "same"], named=[0])
    assert [text.get_text() for part in alone.subfigs for text in part.texts] == ["1   same"]
    figure = embedding_map(vectors, ["snow", "same", "rain", "snow"], groups=[0, 1, 1, 1], named=[0], among=1, title="one among three")
    assert title(figure) == "one among three"
    assert "1′  same  (1.00)" in next(text.get_text() for part in figure.subfigs for text in part.texts)
