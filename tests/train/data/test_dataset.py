import pytest
import torch

from pipeline.tables.packed import PromptShell
from train.data.dataset import Collator, Example


@pytest.mark.parametrize("with_teacher", [True, False])
def test_a_batch_holds_the_same_responses_for_student_and_teacher(with_teacher: bool) -> None:
    shell = PromptShell(before_speech=[1], before_text=[1], after=[2])
    examples = [
        Example(torch.randn(80, 100), 100, [11, 12, 13], [4, 5], 0),
        Example(torch.randn(80, 300), 300, [14], [6], -1),
    ]
    batch = Collator(shell, with_teacher)(examples)
    assert isinstance(batch.features, torch.Tensor)
    assert batch.features.shape == (2, 80, 300)
    assert not batch.features[0, :, 100:].any()
    assert batch.student.speech.sum(1).tolist() == [7, 19]
    assert batch.response_ids.tolist() == [4, 5, 6]
    assert batch.emotion.tolist() == [0, -1]
    if with_teacher:
        assert batch.teacher is not None
        assert batch.teacher.token_ids.roll(-1, 1)[batch.teacher.predicts].tolist() == [4, 5, 6]
        attended = int(batch.student.attended.sum()) + int(batch.teacher.attended.sum())
        assert batch.num_positions == attended - 2  # of each two rows, the shared start of one token is computed once
    else:
        assert batch.teacher is None


def test_stored_signals_stand_in_the_order_of_the_response_tokens_and_in_place_of_the_text_branch() -> None:
    signals = ([[[4, 9], [5, 9]], [[6, 9]]], [[[-0.1, -3.0], [-0.2, -2.0]], [[-0.3, -1.5]]])
    examples = [
        Example(torch.randn(80, 100), 100, [11], response, 0, top_ids, top_logprobs)
        for response, top_ids, top_logprobs in zip([[4, 5], [6]], *signals, strict=True)
    ]
    shell = PromptShell(before_speech=[1], before_text=[1], after=[2])
    batch = Collator(shell, with_teacher=False, with_signals=True)(examples)
    assert batch.teacher is None
    assert batch.signals is not None
    assert batch.signals.top_ids.tolist() == [[4, 9], [5, 9], [6, 9]]
    assert batch.signals.top_logprobs[:, 1].tolist() == [-3.0, -2.0, -1.5]
    assert batch.response_ids.tolist() == [4, 5, 6]
