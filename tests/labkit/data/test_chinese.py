"""Chinese characters and nothing else, sums that are right, and texts that follow the seed."""

import re
import unicodedata

import numpy as np
import pytest

from labkit.data import chinese

VALUES = {chinese.numeral(n): n for n in range(100)}


def test_numerals():
    assert len(VALUES) == 100
    named = {0: "零", 7: "七", 10: "十", 11: "十一", 20: "二十", 35: "三十五", 99: "九十九"}
    assert {n: chinese.numeral(n) for n in named} == named
    with pytest.raises(ValueError, match="number=100"):
        chinese.numeral(100)


def test_texts_are_chinese_throughout():
    for character in set("".join(chinese.documents(300))):
        name = unicodedata.name(character)
        assert name.startswith("CJK UNIFIED IDEOGRAPH") or character in "，。：？", name


def test_sums_and_cities_are_consistent():
    text = "".join(chinese.documents(400))
    sums = re.findall(r"([零一二三四五六七八九十]+)加(\w+?)等于(\w+?)。", text)
    assert len(sums) > 20
    assert all(VALUES[a] + VALUES[b] == VALUES[c] for a, b, c in sums)
    visits = re.findall(r"如果你来(\w+)，一定要看看(\w+)，再尝一尝(\w+)。", text)
    assert len(visits) > 20
    assert all(chinese.CITIES[city][1:] == (sight, dish) for city, sight, dish in visits)


def test_no_one_meets_himself():
    rng = np.random.default_rng(0)
    texts = [chinese.sentence(rng) for _ in range(2000)]
    pairs = [m.groups() for t in texts if (m := re.search(r"，(\w+)和(\w+)一起", t))]
    assert len(pairs) > 50
    assert all(a != b for a, b in pairs)


def test_texts_follow_the_seed_and_hold_different_sentences():
    first, again, other = (chinese.documents(20, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert first == chinese.documents(30, seed=1)[:20]
    for text in chinese.documents(50, sentences=6):
        pieces = [piece for piece in text.split("。") if piece]
        assert len(set(pieces)) == len(pieces)


def test_split_keeps_equal_texts_together():
    texts = chinese.documents(500, sentences=1)
    train, held = chinese.split(texts * 2, held_out=0.2)
    assert not set(train) & set(held)
    assert len(train) + len(held) == 1000
    assert 0.14 < len(held) / 1000 < 0.26
    assert chinese.split(texts, held_out=0.2)[1] == held[: len(held) // 2]


def test_refuses():
    with pytest.raises(ValueError, match="count=0"):
        chinese.documents(0)
    with pytest.raises(ValueError, match=r"held_out=1\.5 must"):
        chinese.split(["一"], held_out=1.5)
