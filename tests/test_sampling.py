"""Balanced pairs for source tracing, and attack domains for genuine speech."""

from collections import Counter
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spooftrace.data_scripts.rows import Row, codec_attributes
from spooftrace.data_scripts.sampling import partition_bonafide, sample_balanced
from spooftrace.data_scripts.taxonomy import ATTRIBUTE_LABELS, CODECS


def bonafide(utterance_id, speaker=None):
    return Row(utterance_id, "bonafide", "c", speaker_id=speaker, **codec_attributes("bonafide"))


def spoof(source, codec):
    return Row(f"{source}_{codec.tag}", "spoof", "c", attack_id=codec.tag, codec=codec.tag, **attributes(codec))


def attributes(codec):
    return codec_attributes("spoof", codec.attributes)


@cache
def cors(utterances):
    """As many utterances by all codecs."""
    sources = [f"p{225 + number % 7}_{number:03d}" for number in range(utterances)]
    return [row for source in sources for row in (bonafide(source), *(spoof(source, c) for c in CODECS.values()))]


@cache
def attacks(genuine, spoofs=12, speakers=20):
    """Genuine utterances of some speakers, and spoofs of six attacks."""
    rows = [bonafide(f"LA_T_{number:07d}", f"s{number * 7 % speakers}") for number in range(genuine)]
    return rows + [Row(f"LA_S_{n:07d}", "spoof", "c", attack_id=f"A0{n % 6 + 1}") for n in range(spoofs)]


@given(
    utterances=st.integers(1, 40),
    attribute=st.sampled_from(["vq", "aux", "dec"]),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
@settings(max_examples=30, deadline=None)
def test_each_genuine_utterance_has_one_spoof_of_its_own_and_classes_are_level(utterances, attribute, seed, data):
    rows = cors(utterances)
    pairs = sample_balanced(rows, attribute, seed)
    genuine, spoofs = pairs[::2], pairs[1::2]
    assert [row.utterance_id for row in genuine] == sorted(row.utterance_id for row in rows if row.label == "bonafide")
    assert all(two.utterance_id == f"{one.utterance_id}_{two.codec}" for one, two in zip(genuine, spoofs, strict=True))
    numbers = Counter(getattr(row, attribute) for row in spoofs)
    classes = ATTRIBUTE_LABELS[attribute][1:]
    assert max(numbers[name] for name in classes) - min(numbers[name] for name in classes) <= 1
    assert numbers.keys() <= set(classes)
    shuffled = data.draw(st.randoms(use_true_random=False)).sample(rows, len(rows))
    assert sample_balanced(shuffled, attribute, seed) == pairs


@pytest.mark.parametrize("attribute", ["vq", "aux", "dec"])
def test_codecs_are_uniform_within_their_class(attribute):
    rows = cors(1_200)
    drawn = Counter()
    for seed in range(2):
        drawn.update(row.codec for row in sample_balanced(rows, attribute, seed) if row.label == "spoof")
    for name in ATTRIBUTE_LABELS[attribute][1:]:
        tags = [tag for tag, codec in CODECS.items() if getattr(codec, attribute) == name]
        total = sum(drawn[tag] for tag in tags)
        expected = total / len(tags)
        chi_square = sum((drawn[tag] - expected) ** 2 / expected for tag in tags)
        # Mean len - 1, variance 2 (len - 1) where the draw is uniform; five deviations are far out.
        assert chi_square < len(tags) - 1 + 5 * (2 * (len(tags) - 1)) ** 0.5


def test_another_seed_draws_other_spoofs_for_the_same_utterances():
    one, other = (sample_balanced(cors(60), "aux", seed) for seed in (0, 1))
    assert one[::2] == other[::2] and one[1::2] != other[1::2]


def test_the_class_with_the_remainder_is_left_to_chance():
    most = set()
    for seed in range(20):
        numbers = Counter(row.vq for row in sample_balanced(cors(4), "vq", seed)[1::2])
        most.add(max(numbers, key=numbers.get))
    assert most == {"mvq", "svq", "sq"}


def test_chance_decides_which_utterance_gets_which_class():
    drawn = [row.vq for row in sample_balanced(cors(60), "vq", 0)[1::2]]
    assert all(len(set(drawn[turn::3])) == 3 for turn in range(3))  # and not their order


def test_spoofs_of_unknown_class_are_never_drawn():
    unknown = [Row(f"{row.utterance_id}_future", "spoof", "c") for row in cors(9) if row.label == "bonafide"]
    assert sample_balanced([*cors(9), *unknown], "vq", 3) == sample_balanced(cors(9), "vq", 3)


def test_an_utterance_without_spoofs_of_a_class_is_an_error_or_left_out():
    rows = [row for row in cors(5) if not (row.utterance_id.startswith("p225_000") and row.vq == "sq")]
    message = r"1 of 5 genuine utterances lack spoofs of a class, such as 'p225_000' of sq: .*incomplete=\"drop\""
    with pytest.raises(ValueError, match=message):
        sample_balanced(rows, "vq")
    pairs = sample_balanced(rows, "vq", incomplete="drop")
    assert len(pairs) == 8 and "p225_000" not in {row.utterance_id for row in pairs}
    assert len(sample_balanced(rows, "dec")) == 10


@pytest.mark.parametrize(
    "rows, options, message",
    [
        ([], {}, "no genuine utterance has spoofs of every class"),
        (cors(2), {"attribute": "codec"}, "unknown attribute 'codec': write one of 'vq', 'aux', 'dec'"),
        (cors(2), {"incomplete": "skip"}, "incomplete is 'skip': write 'error' or 'drop'"),
        ([*cors(2), *cors(1)], {}, "utterance id 'p225_000' is given twice"),
    ],
)
def test_wrong_calls_of_balanced_sampling_name_the_remedy(rows, options, message):
    with pytest.raises(ValueError, match=message):
        sample_balanced(rows, **{"attribute": "vq", **options})


@pytest.mark.parametrize("genuine, expected", [(2_580, [430] * 6), (2_548, [425, 425, 425, 425, 424, 424])])
def test_asvspoof_2019_la_is_divided_as_published(genuine, expected):
    domains = partition_bonafide(attacks(genuine, spoofs=0), [f"A0{number}" for number in range(1, 7)], seed=1)
    found = Counter(domains.values())
    assert [found[f"A0{number}"] for number in range(1, 7)] == expected


@given(
    genuine=st.integers(0, 60),
    seed=st.integers(0, 2**32),
    stratify=st.booleans(),
    speakers=st.integers(1, 9),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=40, deadline=None)
def test_every_utterance_has_one_domain_and_numbers_are_level(genuine, seed, stratify, speakers, order):
    rows = attacks(genuine, speakers=speakers)
    domains = partition_bonafide(rows, seed=seed, stratify_by_speaker=stratify)
    assert domains.keys() == {row.utterance_id for row in rows}
    assert all(domains[row.utterance_id] == row.attack_id for row in rows if row.label == "spoof")
    names = [f"A0{number}" for number in range(1, 7)]
    groups = {row.speaker_id for row in rows if row.label == "bonafide"} if stratify else set()
    for speaker in {None, *groups}:
        chosen = [row for row in rows if row.label == "bonafide" and speaker in (None, row.speaker_id)]
        numbers = Counter(domains[row.utterance_id] for row in chosen)
        assert max(numbers[name] for name in names) - min(numbers[name] for name in names) <= 1
    shuffled = order.sample(rows, len(rows))
    again = partition_bonafide(shuffled, seed=seed, stratify_by_speaker=stratify)
    assert list(again.items()) == list(domains.items())


def test_another_seed_divides_otherwise():
    one, other = (partition_bonafide(attacks(60), seed=seed) for seed in (0, 1))
    assert one != other and one.keys() == other.keys()


def test_stratifying_gives_each_speaker_every_domain():
    rows = attacks(2_580)
    domains = partition_bonafide(rows, stratify_by_speaker=True)
    per_speaker = Counter((row.speaker_id, domains[row.utterance_id]) for row in rows if row.label == "bonafide")
    assert len(per_speaker) == 20 * 6 and set(per_speaker.values()) == {21, 22}
    assert set(Counter(domains[row.utterance_id] for row in rows if row.label == "bonafide").values()) == {430}


def test_domains_follow_the_order_that_is_given():
    rows = attacks(7)
    reverse = [f"A0{number}" for number in range(6, 0, -1)]
    found = Counter(domain for name, domain in partition_bonafide(rows, reverse).items() if name.startswith("LA_T"))
    assert found["A06"] == 2 and found["A01"] == 1


@pytest.mark.parametrize(
    "rows, options, message",
    [
        (attacks(3), {"domains": ["A01", "A02"]}, "spoofs of A03, A04, A05, A06 are of none of the domains A01, A02"),
        (attacks(3), {"domains": []}, r"domains are \[\]: give every attack once, and at least one"),
        (attacks(3), {"domains": ["A01", "A01"]}, "give every attack once"),
        (attacks(3, spoofs=0), {}, r"domains are \[\]"),
        ([*attacks(3), Row("x", None, "c")], {}, "'x' has no label"),
        ([*attacks(3), Row("x", "spoof", "c")], {}, "spoofs of None are of none of the domains"),
        (
            [*attacks(3), bonafide("x")],
            {"stratify_by_speaker": True},
            "'x' has no speaker: leave stratify_by_speaker out",
        ),
        ([*attacks(3), *attacks(1)], {}, "is given twice"),
    ],
)
def test_wrong_calls_of_the_partition_name_the_remedy(rows, options, message):
    with pytest.raises(ValueError, match=message):
        partition_bonafide(rows, **options)
