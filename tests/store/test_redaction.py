import pytest

from fmray.store import redact
from fmray.store.redaction import is_secret_name

MODEL_PARAMS = {
    "token_width": 64, "token_dim": 8, "max_token_len": 128, "oov_token": "<oov>", "unk_token": "[UNK]",
    "mask_token": "[MASK]", "user_token": "<user>", "token_mixing": True, "tokens": ["a", "b"], "per_token": 0.5,
    "token_embedding": "learned", "pad_token_id": 0, "secret_size": 3, "auth_dim": 16, "password_length": 12,
    "tokenizer": "wordpiece", "key": "text", "api": "v2", "private_layers": 2, "keys": "a", "monkey": "see",
}  # fmt: skip


def test_parameters_of_a_model_are_kept_as_they_are():
    job = {"model": {"name": "my_net:Net", "params": MODEL_PARAMS}}
    assert redact(job) == job
    dotted = {f"model.my_net:Net.{name}": value for name, value in MODEL_PARAMS.items()}
    assert redact(dotted) == dotted
    text = "\n".join(f"  {name}: {value}" for name, value in MODEL_PARAMS.items())
    assert redact(text) == text


@pytest.mark.parametrize("name", ["token", "password", "secret", "api_key", "class_weights"])
def test_a_number_is_a_parameter_whatever_its_field_is_called(name):
    value = {name: 64, "deep": {name: {"password": 2.5, "secret": None, "token": True}}, "list": {name: [1, 2]}}
    assert redact(value) == value


SECRET_FIELDS = [
    "password", "db_password", "dbPassword", "client_secret", "aws_secret_access_key",
    "api_key", "apiKey", "X-Api-Key", "AWS_ACCESS_KEY_ID", "private_key",
    "credentials", "token", "api_token", "hf_token", "accessToken",
    "MY_TOKEN", "CI_JOB_TOKEN", "x.api_key", "model.my:Net.api_token", "secret_key",
    "password2", "azure_storage_account_key", "Authorization", "passphrase",
]  # fmt: skip


@pytest.mark.parametrize("name", SECRET_FIELDS)
def test_text_in_a_field_that_holds_a_secret_is_hidden(name):
    assert is_secret_name(name)
    assert redact({name: "hunter2"}) == {name: "***"}
    assert redact({name: {"value": ["hunter2", 3]}}) == {name: {"value": ["***", 3]}}
    assert "hunter2" not in redact(f"it said {name}=hunter2 and left")
    assert "hunter2" not in str(redact([f"--{name}", "x", "--password", "hunter2"]))


@pytest.mark.parametrize("name", MODEL_PARAMS)
def test_a_name_that_ends_in_something_else_holds_no_secret(name):
    assert not is_secret_name(name)
