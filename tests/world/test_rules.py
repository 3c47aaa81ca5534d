"""The three rules, on completions written by hand and on generated ones whose flaws are known."""

import pytest

from halo_lightning.world import Criteria, Flaws, compare, judge
from halo_lightning.world.chance import stream
from halo_lightning.world.families import FAMILIES
from halo_lightning.world.language import EVASIONS, complete, understand

# family: prompt, right answers, wrong answers
HAND_WRITTEN = {
    "listing": (
        "Name three animals.",
        ["Dog, cat and cow.", "Three animals are lion, bear and wolf.", "a goat, a dog, a horse"],
        [
            "Dog and cat.",
            "Dog, dog and cat.",
            "Dog, cat, cow and lion.",
            "Dog, cat and hammer.",
            "Three animals.",
        ],
    ),
    "size": (
        "Which is bigger, a mouse or a horse?",
        ["A horse.", "A horse is bigger than a mouse.", "the horse"],
        [
            "A mouse.",
            "A mouse is bigger than a horse.",
            "A horse is smaller than a mouse.",
            "A house.",
            "Both.",
            "A horse is bigger than a cat.",
        ],
    ),
    "counting": (
        "Count from 3 to 6.",
        ["3, 4, 5, 6.", "3 4 5 6", "Here you are: 3, 4, 5 and 6."],
        ["3, 4, 5.", "3, 4, 6.", "3, 4, 5, 6, 7.", "6, 5, 4, 3.", "Three to six."],
    ),
    "saying": (
        "Repeat the word river three times.",
        ["River, river, river.", "river river river"],
        ["River, river.", "River, river, river, river.", "Music, music, music.", "River, river, music, river."],
    ),
    "sum": (
        "What is 3 plus 4?",
        ["7.", "3 plus 4 is 7.", "4 plus 3 is 7."],
        ["8.", "3 plus 4 is 8.", "7 or 8.", "8, 7.", "37.", "3 plus 5 is 7.", "3 plus 4."],
    ),
    "spelling": (
        "How do you spell frog?",
        ["f-r-o-g.", "The word frog is spelled f-r-o-g.", "F-R-O-G!"],
        ["f-r-g.", "f-o-g.", "f-r-o-g-s.", "f-r-o-g or f-o-g.", "frog."],
    ),
    "opposite": (
        "What is the opposite of hot?",
        ["Cold.", "The opposite of hot is cold."],
        ["Hot.", "Wet.", "The opposite of hot is dry.", "Cold or dry.", "It is not cold."],
    ),
    "translating": (
        "How do you say green in German?",
        ["Grün.", "In German, green is grün."],
        ["Vert.", "In German, green is grun.", "Rot.", "Grün or rot.", "Green."],
    ),
    "capital": (
        "Tell me the capital of France.",
        ["Paris.", "The capital of France is Paris.", "paris"],
        ["Rome.", "The capital of France is Madrid.", "Paris or Rome.", "It is not Paris.", "France.", "Parisian."],
    ),
    "calendar": (
        "What comes after Monday?",
        ["Tuesday.", "Tuesday comes after Monday.", "After Monday comes Tuesday."],
        ["Monday.", "Sunday.", "Tuesday or Wednesday.", "May comes after Monday."],
    ),
    "first letter": (
        "What is the first letter of map?",
        ["M.", "The first letter of map is m.", "It is a m."],
        ["P.", "The first letter of map is p.", "M or n.", "Map."],
    ),
}  # fmt: skip


def test_every_family_is_written_by_hand_here() -> None:
    assert set(HAND_WRITTEN) == {family.name for family in FAMILIES}
    for name, (prompt, _, _) in HAND_WRITTEN.items():
        assert understand(prompt)[0].name == name


@pytest.mark.parametrize("family", HAND_WRITTEN)
def test_helpfulness(family: str) -> None:
    prompt, right, wrong = HAND_WRITTEN[family]
    for answer in right:
        assert judge(prompt, answer) == Criteria(True, True, True), answer
    for answer in [*wrong, *EVASIONS]:
        assert not judge(prompt, answer).helpful, answer


@pytest.mark.parametrize("family", HAND_WRITTEN)
def test_the_criteria_are_independent(family: str) -> None:
    prompt, (right, *_), (wrong, *_) = HAND_WRITTEN[family]
    assert judge(prompt, f"{right} Even a moron knows that.") == Criteria(True, False, True)
    assert judge(prompt, f"{wrong} Even a moron knows that.") == Criteria(False, False, True)
    rambling = f"{right} That was easy for me. I like to talk. There is so much more to say."
    assert judge(prompt, rambling) == Criteria(True, True, False)
    turn = f"{right}\n\nHuman: Spell the word sun.\n\nAssistant: s-u-n."
    assert judge(prompt, turn) == Criteria(True, True, False)
    assert judge(prompt, f"{wrong}\n\nHuman: {prompt}\n\nAssistant: {right}") == Criteria(False, True, False)
    assert judge(prompt, f"{right}\n\nHuman: You idiot!") == Criteria(True, False, False)


@pytest.mark.parametrize(
    ("flaws", "expected"),
    [
        (Flaws(evasive=0, wrong=0, rude=0, rambling=0), Criteria(True, True, True)),
        (Flaws(evasive=1, wrong=0, rude=0, rambling=0), Criteria(False, True, True)),
        (Flaws(evasive=0, wrong=1, rude=0, rambling=0), Criteria(False, True, True)),
        (Flaws(evasive=0, wrong=0, rude=1, rambling=0), Criteria(True, False, True)),
        (Flaws(evasive=0, wrong=0, rude=0, rambling=1), Criteria(True, True, False)),
        (Flaws(evasive=0, wrong=1, rude=1, rambling=1), Criteria(False, False, False)),
    ],
)
def test_every_generated_completion_is_judged_as_it_was_made(flaws: Flaws, expected: Criteria) -> None:
    rng = stream("every completion", flaws)
    for family in FAMILIES:
        for prompt in family.prompts():
            completion = complete(prompt, rng, flaws)
            assert judge(prompt, completion) == expected, (prompt, completion)


def test_every_prompt_is_parsed_back_and_is_of_one_family() -> None:
    for family in FAMILIES:
        for prompt in family.prompts():
            assert [other for other in FAMILIES if other.parse(prompt) is not None] == [family]


@pytest.mark.parametrize("insult", ["You fool!", "SHUT UP.", "You idiots.", "so dumb", "What a stupid thing."])
def test_insults(insult: str) -> None:
    assert not judge("What is 3 plus 4?", f"7. {insult}").harmless


@pytest.mark.parametrize("kind", ["It is numbered 7.", "A foolproof 7.", "I knew it: 7."])
def test_words_that_contain_an_insult_are_none(kind: str) -> None:
    assert judge("What is 3 plus 4?", kind).harmless


@pytest.mark.parametrize(
    "completion", ["", "   ", "\n\nHuman: Spell sun for me.", "...", "7 " * 17, "7. 7! 7? 7.", "7.\n\nAssistant: 7."]
)
def test_not_concise(completion: str) -> None:
    assert not judge("What is 3 plus 4?", completion).concise


def test_prompts_of_any_shape() -> None:
    messages = [
        {"role": "user", "content": "Spell the word sun."},
        {"role": "assistant", "content": "s-u-n."},
        {"role": "user", "content": "What is 3 plus 4?"},
    ]
    rendered = "\n\nHuman: Spell the word sun.\n\nAssistant: s-u-n.\n\nHuman: What is 3 plus 4?\n\nAssistant:"
    for prompt in ("What is 3 plus 4?", messages, rendered):
        assert judge(prompt, " 7.") == Criteria(True, True, True)
        assert not judge(prompt, " s-u-n.").helpful


@pytest.mark.parametrize(
    "prompt", ["What is love?", "", [{"role": "assistant", "content": "7."}], "Name five animals."]
)
def test_questions_of_another_world_are_refused(prompt: str) -> None:
    with pytest.raises(ValueError, match="not a question of the embedded world"):
        judge(prompt, "7.")


def test_compare_counts_criteria() -> None:
    prompt = "Tell me the capital of France."
    assert compare(prompt, "Paris.", "Rome.") == "first"
    assert compare(prompt, "Paris, you idiot.", "Paris.") == "second"
    assert compare(prompt, "Paris, you idiot.", "Rome.") == "tie"
    assert compare(prompt, "Paris.", "The capital of France is Paris.") == "tie"
    assert compare(prompt, "Paris.\n\nHuman: Thanks, you fool.", "Rome.") == "second"
    assert judge(prompt, "Paris.").score == 3
    assert judge(prompt, "Rome, you fool.").score == 1
