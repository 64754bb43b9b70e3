import pytest
from pydantic import ValidationError

from pipeline import params
from pipeline.generate.params import GenerateParams
from pipeline.stage import UserError
from tests.builders import generate_params, generate_section


def test_a_question_with_an_unknown_place_is_told() -> None:
    section = generate_section(agreement={"system": "S", "text": "Is it {emotion}?"})
    with pytest.raises(UserError, match=r"generate.agreement.text: expected only the placeholders .*, not \{emotion\}"):
        params.check("params.yaml", "generate", section, GenerateParams)


def test_the_model_must_be_longer_than_an_answer() -> None:
    with pytest.raises(ValidationError, match="max_model_len above max_new_tokens = 12"):
        generate_params(max_model_len=12)
