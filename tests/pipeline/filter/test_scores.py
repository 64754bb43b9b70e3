import pytest

from pipeline.filter import scores


@pytest.mark.parametrize(
    "continuation",
    [
        "I'm sorry, but I cannot continue the sentence.",
        "I'M SORRY, BUT I'm not sure.",
        "Oh. I’m sorry, but I can't.",
        "I'm not sure what you mean.",
        "I am unable to assist you there.",
        "I can't help with that.",
        "I cannot provide medical advice.",
        "I'm sorry, I can't do that.",
        "Sorry. I'm not able to help.",
        "抱歉，我没有办法为您提供医疗建议。",
        "我不能回答这个问题。",
        "对不起，我无法继续这句话。",
        "抱歉，作为助手我做不到。",
    ],
)
def test_refusals_are_known_by_their_words(continuation: str) -> None:
    assert scores.refusal(continuation) == 1


@pytest.mark.parametrize(
    "continuation",
    [
        "I'm sorry to hear that.",
        "i'm NOT sure what you saw",
        "I cannot help but smile.",
        "I can't help with the dishes tonight.",
        "I can't continue like this.",
        "I can't provide for my family.",
        "I can't answer you now.",
        "I'm sorry, I can't stay.",
        "我不能相信！",
        "对不起，来晚了。",
        "对不起，我迟到了，路上堵车。",
        "不好意思，我想问一下去车站怎么走？",
        "对不起，我今天不能来了。",
        "抱歉，我不能陪你去看电影。",
        "对不起，作为朋友我应该早点告诉你。",
        "我不能继续等了。",
    ],
)
def test_what_only_resembles_a_refusal_is_none(continuation: str) -> None:
    assert scores.refusal(continuation) == 0


@pytest.mark.parametrize(
    ("continuation", "found"),
    [
        ("As an AI language model, I have no feelings.", 1),
        ("I'm just a language model.", 1),
        ("As a large language model I do not.", 1),
        ("I'm sorry, but as a language AI, I'm not equipped for that.", 1),
        ("I am a helpful assistant.", 1),
        ("I'm an artificial intelligence, so I do not eat.", 1),
        ("作为一个人工智能，我没有感情。", 1),
        ("作为人工智能语言模型，我没有情感。", 1),
        ("我是一个人工智能助手，没有感情。", 1),
        ("我是AI助手。", 1),
        ("我只是一个语言模型", 1),
        ("我是AI工程师，天天加班。", 0),
        ("作为一名教师，我很高兴。", 0),
        ("As an aide to the king, I rode out.", 0),
        ("I am a model, she said, for clothes.", 0),
    ],
)
def test_talk_of_being_a_model_is_known(continuation: str, found: int) -> None:
    assert scores.model_talk(continuation) == found


@pytest.mark.parametrize(
    ("continuation", "found"),
    [
        ("The original sentence is a bit unclear.", 1),
        ("He left. This sentence is a mix of two others.", 1),
        ("Here's a revised version:", 1),
        ("It reflects a happy emotion tone.", 1),
        ("这个句子的意思很清楚。", 1),
        ("The judge passed sentence on him.", 0),
        ("A life sentence was what he got.", 0),
        ("这句话他说了一遍又一遍。", 0),
    ],
)
def test_talk_of_the_sentence_is_known(continuation: str, found: int) -> None:
    assert scores.sentence_talk(continuation) == found


@pytest.mark.parametrize(
    ("continuation", "transcript", "share"),
    [
        ("The kids are talking by the door.", "kids are talking by the door", 6 / 7),
        ("kids are talking", "kids are talking by the door", 1),
        ('"Don’t go," he said.', "don't go", 0.5),
        ("They are waiting for the bus.", "kids are talking by the door", 1 / 6),
        ("There it is.", "he", 0),
        ("...", "kids are talking", 0),
        ("Well.", "", 0),
        ("今天天气", "今天天气很好", 1),
    ],
)
def test_an_echo_is_the_share_that_repeats_the_transcript(continuation: str, transcript: str, share: float) -> None:
    assert scores.echo(continuation, transcript) == pytest.approx(share)


@pytest.mark.parametrize(
    ("continuation", "share"),
    [("no no no no no no", 3 / 4), ("a b c d e f", 0), ("a b", 0), ("", 0), ("去去去去", 1 / 2)],
)
def test_repetition_is_the_share_of_runs_that_came_before(continuation: str, share: float) -> None:
    assert scores.repetition(continuation) == pytest.approx(share)


def test_prose_is_text_and_symbols_are_none() -> None:
    assert scores.non_text("") == 0
    assert scores.non_text('Well, "yes", he said; it\'s 5 past 4!') < 0.25
    assert scores.non_text("今天天气很好。") < 0.2
    assert scores.non_text("####") == 1


def test_a_prompt_that_leaks_is_counted_in_words() -> None:
    prompt = "Continue the following sentence in a coherent style: "
    assert scores.prompt_leak("Continue the following sentence: he ran.", prompt) == 4
    assert scores.prompt_leak("He ran in a hurry.", prompt) == 2
    assert scores.prompt_leak("He ran.<|im_end|>", prompt) == 99


def test_another_language_is_told_where_there_are_words_enough() -> None:
    german = "Das ist aber schön, dass du heute zu uns kommst."
    assert scores.other_language(german, "en") > 0.9
    assert scores.other_language(german, "de") == 0
    assert scores.other_language("Das ist schön.", "en") == 0
    assert scores.other_language("That is what the old farmer said to us yesterday.", "en") == 0
