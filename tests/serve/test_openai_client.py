"""The server, asked by openai's own client, against generation in this process."""

from __future__ import annotations

import concurrent.futures
import math
from typing import Any

import openai
import pytest
import torch

from gpt_lab.infer.generate import complete
from gpt_lab.infer.stream import text
from gpt_lab.serve.guard import Limits
from gpt_lab.serve.served_model import LocalModel
from tests.serve.conftest import Live, Serve

PROMPT = "To be, or"


def local(server: Live, name: str) -> LocalModel:
    found = server.models[name]
    assert isinstance(found, LocalModel)
    return found


def expected(server: Live, name: str, prompt: str = PROMPT, samples: int = 1, **options: object) -> list[str]:
    made = local(server, name)
    ids = made.tokenizer.encode(prompt)
    found = complete(made.model, ids, samples=samples, stop=made.tokenizer.eot, **options)
    return [text(made.tokenizer, one, ids) for one in found]


def seed_of_a_space(made: LocalModel, ids: list[int]) -> int:
    """A seed with which the first token after a text, at temperature 5, is a space or a line break."""
    for seed in range(2000):
        if complete(made.model, ids, max_tokens=1, temperature=5.0, seed=seed)[0][0] in b" \n\t":
            return seed
    raise AssertionError("no seed of 2,000 gives one")


def test_models(shared: Live) -> None:
    client = shared.client()
    assert [model.id for model in client.models.list()] == ["lab/rope", "lab/alibi", "lab/tuned"]
    assert client.models.retrieve("lab/alibi").object == "model"
    with pytest.raises(openai.NotFoundError, match="did you mean 'lab/alibi'"):
        client.models.retrieve("lab/alib")


@pytest.mark.parametrize("name", ["lab/rope", "lab/alibi"])
def test_a_completion_is_what_generation_makes(shared: Live, name: str) -> None:
    """Beyond the context of 16, too; n choices are its samples."""
    said = shared.client().completions.create(model=name, prompt=PROMPT, max_tokens=20, seed=3, n=2, top_p=0.9)
    assert [one.text for one in said.choices] == expected(
        shared, name, samples=2, max_tokens=20, temperature=1.0, top_p=0.9, seed=3
    )
    assert said.usage is not None
    made = sum(len(ids) for ids in complete_ids(shared, name))
    assert (said.usage.prompt_tokens, said.usage.completion_tokens) == (len(PROMPT), made)


def complete_ids(server: Live, name: str) -> list[list[int]]:
    made = local(server, name)
    options = {"max_tokens": 20, "temperature": 1.0, "top_p": 0.9, "seed": 3, "stop": made.tokenizer.eot}
    return complete(made.model, made.tokenizer.encode(PROMPT), samples=2, **options)


def test_a_stream_is_the_same_and_counts_its_tokens(shared: Live) -> None:
    options = {"model": "lab/rope", "prompt": PROMPT, "max_tokens": 12, "seed": 5}
    whole = shared.client().completions.create(**options)
    *chunks, last = shared.client().completions.create(**options, stream=True, stream_options={"include_usage": True})
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == whole.choices[0].finish_reason == "length"
    assert last.choices == [] and last.usage == whole.usage


def test_whoever_runs_beside_it_a_seed_gives_the_same_text(shared: Live) -> None:
    def ask(seed: int) -> str:
        said = shared.client().completions.create(model="lab/rope", prompt=PROMPT, max_tokens=10 + seed, seed=seed)
        return str(said.choices[0].text)

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        together = list(pool.map(ask, range(12)))
    assert together == [
        expected(shared, "lab/rope", max_tokens=10 + seed, temperature=1.0, seed=seed)[0] for seed in range(12)
    ]
    assert shared.engine.load == {"running": 0, "waiting": 0}


@pytest.mark.parametrize("length", [9, 40])
def test_log_probabilities_of_a_given_text_are_the_models(shared: Live, length: int) -> None:
    made = local(shared, "lab/alibi")
    ids = torch.randint(256, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    said = shared.client().completions.create(
        model="lab/alibi", prompt=ids, max_tokens=0, echo=True, logprobs=2, extra_body={"return_token_ids": True}
    )
    with torch.no_grad():
        logprobs_TV = made.model(torch.tensor([ids]))[0].double().log_softmax(-1)
    found = said.choices[0].logprobs
    assert found is not None and found.token_logprobs is not None and found.top_logprobs is not None
    assert found.token_logprobs[0] is None
    wanted = [float(logprobs_TV[place, token]) for place, token in enumerate(ids[1:])]
    assert found.token_logprobs[1:] == pytest.approx(wanted, abs=1e-5)
    best = [sorted(row.values(), reverse=True) for row in found.top_logprobs[1:]]
    assert best == [pytest.approx(row.topk(2).values.tolist(), abs=1e-5) for row in logprobs_TV[:-1]]
    assert said.choices[0].model_extra is not None
    assert said.choices[0].model_extra["token_ids"] == ids
    text_bytes = bytes(ids).decode(errors="replace")
    assert said.choices[0].text == text_bytes


def test_new_tokens_have_the_probabilities_that_they_have_as_a_given_text(shared: Live) -> None:
    client = shared.client()
    options = {"model": "lab/rope", "echo": True, "logprobs": 0}
    new = client.completions.create(
        prompt=PROMPT, max_tokens=14, seed=1, extra_body={"return_token_ids": True}, **options
    )
    ids = (new.choices[0].model_extra or {})["token_ids"]
    given = client.completions.create(prompt=ids, max_tokens=0, **options)
    assert new.choices[0].logprobs is not None and given.choices[0].logprobs is not None
    assert new.choices[0].logprobs.token_logprobs == pytest.approx(
        given.choices[0].logprobs.token_logprobs, abs=1e-4, nan_ok=True
    )
    assert new.choices[0].logprobs.text_offset == given.choices[0].logprobs.text_offset


def test_a_stop_text_is_not_shown_nor_any_beginning_of_it(shared: Live) -> None:
    whole = expected(shared, "lab/rope", max_tokens=30, temperature=1.0, seed=2)[0]
    stop = whole[12:15]
    wanted = whole[: whole.index(stop)]
    options = {"model": "lab/rope", "prompt": PROMPT, "max_tokens": 30, "seed": 2, "stop": [stop, "never said"]}
    said = shared.client().completions.create(**options, logprobs=0).choices[0]
    assert (said.text, said.finish_reason) == (wanted, "stop")
    assert said.logprobs is not None and all(
        place < len(PROMPT) + len(wanted) for place in said.logprobs.text_offset or ()
    )
    pieces = [chunk.choices[0] for chunk in shared.client().completions.create(**options, stream=True)]
    assert "".join(piece.text for piece in pieces) == wanted and pieces[-1].finish_reason == "stop"


def test_greedy_text_needs_no_seed(shared: Live) -> None:
    said = shared.client().completions.create(model="lab/rope", prompt=[PROMPT, "x"], max_tokens=5, temperature=0)
    assert [one.text for one in said.choices] == [
        expected(shared, "lab/rope", prompt, max_tokens=5, temperature=0.0)[0] for prompt in (PROMPT, "x")
    ]


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("suffix", "x", "suffix cannot be honoured here"),
        ("logit_bias", {"1": 5}, "logit_bias cannot be honoured"),
        ("presence_penalty", 0.5, "presence_penalty cannot be honoured"),
        ("best_of", 3, "best_of cannot be honoured"),
        ("temprature", 1, "did you mean 'temperature'"),
        ("temperature", -1, "temperature must be a number >= 0"),
        ("max_tokens", 0, "0 goes with echo=true"),
        ("max_tokens", 5000, "allows 4,096 together"),
        ("logprobs", 21, "logprobs must be a whole number in"),
        ("repetition_penalty", 1e-300, r"repetition_penalty must be a number in \[0.01, 100\]"),
        ("n", 0, "n must be a whole number in"),
        ("stop", [""], "each stop must be a text"),
        ("seed", "x", "seed must be a whole number"),
        ("prompt", [300], "tokens outside the vocabulary of 257"),
        ("prompt", [], "prompt must be a text"),
        ("stream_options", {"include_usage": True}, "goes with stream=true"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(shared: Live, field: str, value: object, line: str) -> None:
    body = {"model": "lab/rope", "prompt": "x", "max_tokens": 4, field: value}
    with pytest.raises(openai.BadRequestError, match=line) as refused:
        shared.client().post("/completions", body=body, cast_to=object)
    assert refused.value.param == field and refused.value.type == "invalid_request_error"


def test_neutral_fields_are_no_reason_to_refuse(shared: Live) -> None:
    said = shared.client().completions.create(
        model="lab/rope",
        prompt="x",
        max_tokens=1,
        presence_penalty=0,
        frequency_penalty=0,
        logit_bias={},
        user="me",
        best_of=1,
    )
    assert len(said.choices) == 1


def test_a_conversation_is_what_generation_makes_of_the_template(shared: Live) -> None:
    made = local(shared, "lab/tuned")
    assert made.template is not None
    messages: list[Any] = [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": " there"}]},
    ]
    plain = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi there"}]
    ids = made.template.render(plain, add_generation_prompt=True)
    (wanted,) = complete(made.model, ids, max_tokens=14, temperature=0.7, seed=6, stop=made.template.stop)
    options: dict[str, Any] = {"model": "lab/tuned", "messages": messages, "seed": 6, "temperature": 0.7}
    options |= {"max_completion_tokens": 14, "logprobs": True, "top_logprobs": 2}
    said = shared.client().chat.completions.create(**options)
    choice = said.choices[0]
    assert (choice.message.role, choice.message.content) == ("assistant", text(made.tokenizer, wanted, ids).lstrip())
    assert said.usage is not None and said.usage.prompt_tokens == len(ids)
    assert choice.logprobs is not None and choice.logprobs.content is not None
    assert [bytes(one.bytes or ()) for one in choice.logprobs.content] == [bytes([token]) for token in wanted]
    with torch.no_grad():
        logprobs_TV = made.model(torch.tensor([[*ids, *wanted]]))[0, len(ids) - 1 : -1].double().log_softmax(-1)
    for one, row, token in zip(choice.logprobs.content, logprobs_TV, wanted, strict=True):
        assert one.logprob == pytest.approx(float(row[token]), abs=1e-4)
        assert [top.logprob for top in one.top_logprobs] == pytest.approx(row.topk(2).values.tolist(), abs=1e-4)
    chunks = list(shared.client().chat.completions.create(**options, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[-1].choices[0].finish_reason == "length"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == choice.message.content


def test_an_answer_begins_with_its_first_word(shared: Live) -> None:
    """As the template has a space before it, which is no part of what is said; a completion of the same text has it."""
    made = local(shared, "lab/tuned")
    assert made.template is not None
    messages: list[Any] = [{"role": "user", "content": "Hi"}]
    ids = made.template.render(messages, add_generation_prompt=True)
    seed = seed_of_a_space(made, ids)
    options: dict[str, Any] = {"model": "lab/tuned", "max_tokens": 6, "seed": seed, "temperature": 5}
    plain = shared.client().completions.create(prompt=ids, **options).choices[0].text
    said = shared.client().chat.completions.create(messages=messages, **options).choices[0].message.content
    chunks = shared.client().chat.completions.create(messages=messages, stream=True, **options)
    assert plain[0].isspace() and said == plain.lstrip()
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == said


def test_tokens_of_a_prompt_and_its_continuation_are_bounded_together(serve: Serve) -> None:
    """An answer without max_tokens ends there; a text that is scored alone may be as long as that."""
    server = serve(Limits(tokens=30))
    messages: list[Any] = [{"role": "user", "content": "Hi"}]
    ids = local(server, "lab/tuned").template.render(messages, add_generation_prompt=True)  # type: ignore[union-attr]
    said = server.client().chat.completions.create(model="lab/tuned", messages=messages, temperature=0)
    assert said.choices[0].finish_reason == "length" and said.usage is not None
    assert (said.usage.prompt_tokens, said.usage.total_tokens) == (len(ids), 30)
    scored = server.client().completions.create(model="lab/rope", prompt=[1] * 30, max_tokens=0, echo=True)
    assert scored.usage is not None and scored.usage.total_tokens == 30
    for prompt, tokens in (([1] * 31, 0), ([1] * 30, 1)):
        with pytest.raises(openai.BadRequestError, match=f"max_tokens is {tokens}: this server allows 30 together"):
            server.client().completions.create(model="lab/rope", prompt=prompt, max_tokens=tokens, echo=True)


@pytest.mark.parametrize("path", ["completions", "chat/completions"])
def test_fields_that_are_said_to_be_allowed_are(shared: Live, path: str) -> None:
    def refusal(body: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = shared.pool.post(f"{shared.url}/v1/{path}", json=body).json()["error"]
        return found

    said = refusal({"temprature": 1})["message"]
    allowed = said.partition("(allowed: ")[2].rstrip(")").split(", ")
    assert {"temperature", "stop", "user"} <= {*allowed}
    for name in allowed:
        assert refusal({name: [0]})["code"] != "unsupported_field", name


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "name": "me"}]}, "messages[0].name"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
        ({"prompt": "x"}, "prompt"),
    ],
)
def test_what_no_conversation_can_have_is_refused_by_name(shared: Live, changes: dict[str, Any], param: str) -> None:
    body = {"model": "lab/tuned", "messages": [{"role": "user", "content": "x"}], **changes}
    with pytest.raises(openai.BadRequestError) as refused:
        shared.client().post("/chat/completions", body=body, cast_to=object)
    assert refused.value.param == param


def test_a_repetition_penalty_and_min_p_are_generations(shared: Live) -> None:
    options = {"min_p": 0.05, "repetition_penalty": 1.5}
    said = shared.client().completions.create(
        model="lab/alibi", prompt=PROMPT, max_tokens=25, seed=2, extra_body={**options, "top_k": 50}
    )
    assert [said.choices[0].text] == expected(
        shared, "lab/alibi", max_tokens=25, temperature=1.0, seed=2, top_k=50, **options
    )


def test_a_model_without_a_template_takes_no_conversation(shared: Live) -> None:
    with pytest.raises(openai.BadRequestError, match="no chat template: it continues text") as refused:
        shared.client().chat.completions.create(model="lab/rope", messages=[{"role": "user", "content": "x"}])
    assert refused.value.code == "no_chat_template"


def test_a_full_queue_says_when_to_come_again(serve: Serve) -> None:
    server = serve(Limits(rows=1, queue=0))
    stream = server.client().completions.create(model="lab/rope", prompt="x", max_tokens=3000, stream=True)
    next(iter(stream))
    with pytest.raises(openai.RateLimitError) as refused:
        server.client().completions.create(model="lab/rope", prompt="x")
    assert refused.value.code == "queue_full" and int(refused.value.response.headers["retry-after"]) >= 1
    stream.close()
    said = server.client(max_retries=5).completions.create(model="lab/rope", prompt="x", max_tokens=1)
    assert said.choices, "the row of the client that vanished is free again"


def test_the_server_ends_its_streams_with_an_error_when_it_stops(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt_lab.serve.running.GRACE", 0.0)
    server = serve(Limits())
    stream = server.client().completions.create(
        model="lab/rope", prompt="x", max_tokens=4000, temperature=0, stream=True
    )
    read = iter(stream)
    next(read)
    server.stop.set()
    with pytest.raises(openai.APIError, match="the server is stopping"):
        for _ in read:
            pass


def test_a_key_is_wanted_and_the_page_alone_goes_without(serve: Serve) -> None:
    server = serve(key="secret")
    with pytest.raises(openai.AuthenticationError, match="wants its key"):
        server.client(api_key="wrong").models.list()
    assert len(server.client(api_key="secret").models.list().data) == 3
    assert server.pool.get(server.url).status_code == 200


def test_logits_that_are_not_finite_end_one_request_and_not_the_server(serve: Serve) -> None:
    server = serve()
    weight = local(server, "lab/alibi").model.embed.weight
    with torch.no_grad():
        before = weight[7].clone()
        weight[7] = math.nan
    try:
        with pytest.raises(openai.InternalServerError, match="not finite"):
            server.client().completions.create(model="lab/alibi", prompt=[7], max_tokens=2)
    finally:
        with torch.no_grad():
            weight[7] = before
    assert server.client().completions.create(model="lab/alibi", prompt=[7], max_tokens=2).choices
    assert server.engine.load == {"running": 0, "waiting": 0}
