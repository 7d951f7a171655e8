"""The page in Chromium: two models in step, from the same random numbers, coloured by each other's probabilities."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gpt_lab.inside.attention_maps import look
from gpt_lab.serve.served_model import LocalModel
from tests.browser import Browser, Tab, browse
from tests.serve.conftest import Live
from tests.serve.test_openai_client import seed_of_a_space

pytestmark = pytest.mark.browser

DONE = "!document.getElementById('go').disabled"
STATE = """({
    status: document.getElementById('status').textContent,
    texts: [...document.querySelectorAll('.text')].map(text => text.textContent),
    parts: [...document.querySelectorAll('.text')].map(
        text => [...text.querySelectorAll('.token')].findIndex(token => token.classList.contains('parts'))),
    coloured: document.querySelectorAll('.text .p1, .text .p2, .text .p3, .text .m1, .text .m2, .text .m3').length,
    tokens: panes.map(pane => pane.turn && pane.turn.tokens),
    speeds: [...document.querySelectorAll('.speed')].map(one => one.textContent),
    wide: document.documentElement.scrollWidth > document.documentElement.clientWidth,
})"""


def ask(tab: Tab, **fields: Any) -> Any:
    tab.wait("document.querySelector('.model').options.length > 0")
    for name, value in fields.items():
        tab.evaluate(f"document.getElementById('{name}').value = {value!r}")
    tab.evaluate("document.getElementById('go').click()")
    tab.wait(f"{DONE} && document.getElementById('status').textContent")
    tab.browser.listen(0.1)
    return tab.evaluate(STATE)


def logprob(server: Live, model: str, prompt: str, token_ids: list[int], place: int) -> float:
    body = {"model": model, "prompt": [*prompt.encode(), *token_ids], "echo": True, "logprobs": 0, "max_tokens": 0}
    found = server.pool.post(f"{server.url}/v1/completions", json=body).json()["choices"][0]["logprobs"]
    return float(found["token_logprobs"][len(prompt) + place])


def test_two_panes(shared: Live) -> None:
    prompt = "ROMEO:"
    with Browser() as browser:
        tab = browser.open(f"{shared.url}/")
        seen = ask(tab, prompt=prompt, max_tokens="24", temperature="1", seed="7")
        wanted = [
            shared.client().completions.create(model=name, prompt=prompt, max_tokens=24, temperature=1, seed=7)
            for name in ("lab/rope", "lab/alibi")
        ]
        assert seen["texts"] == [prompt + one.choices[0].text for one in wanted]
        left, right = seen["tokens"]
        place = next(i for i, (one, other) in enumerate(zip(left, right, strict=False)) if one["id"] != other["id"])
        assert seen["parts"] == [place, place] and f"part at token {place + 1}:" in seen["status"]
        ids = tab.evaluate("panes[0].turn.ids")
        for name, key in (("lab/rope", "p"), ("lab/alibi", "other")):
            given = logprob(shared, name, prompt, ids, 3)
            assert left[3][key] == pytest.approx(2.718281828459045**given, rel=1e-3)
        assert seen["coloured"] > 0 and not seen["wide"]
        assert all("24 tokens," in one and "tokens/s" in one for one in seen["speeds"])
        tab.evaluate("panes[1].text.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true}))")
        assert "token 1 of lab/alibi" in tab.evaluate("document.getElementById('detail').textContent")
        exported = tab.evaluate("exportPage()")
        tab.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
        assert tab.evaluate("document.documentElement.scrollWidth") == 390, "nothing sticks out on a phone"
        again = ask(tab, prompt=prompt, max_tokens="24", temperature="1", seed="7")
        assert again["texts"] == seen["texts"], "a seed gives the same texts"
        page = tab.page()
    assert page.errors == []
    assert {url.split("/")[2] for url in page.requests} == {f"127.0.0.1:{shared.port}"}
    assert "<script" not in exported and "lab/alibi" in exported and "ROMEO:" in exported


def test_what_is_reset_in_mid_stream_leaves_the_page_free(shared: Live) -> None:
    """By the button, and by another model; what is generated then has as many tokens as were asked for."""
    with Browser() as browser:
        tab = browser.open(f"{shared.url}/")
        tab.wait("document.querySelector('.model').options.length > 0")
        for act in (
            "document.getElementById('reset').click()",
            "panes[1].select.value = 'lab/tuned'; panes[1].select.dispatchEvent(new Event('change'))",
        ):
            for name, value in {"max_tokens": 3000, "prompt": "ROMEO:", "temperature": 0.8}.items():
                tab.evaluate(f"document.getElementById({name!r}).value = {value!r}")
            tab.evaluate("document.getElementById('go').click()")
            tab.wait("panes[0].turn.tokens.length > 50")
            tab.evaluate(act)
            tab.wait(DONE)
            tab.wait("panes.every(pane => pane.text.textContent === '')")
            seen = ask(tab, prompt="x", max_tokens="4", temperature="0")
            assert tab.console == [] and [len(tokens) for tokens in seen["tokens"]] == [4, 4]


def test_attention_maps_are_the_models(shared: Live) -> None:
    """Of both models, by layer and head."""
    with Browser() as browser:
        tab = browser.open(f"{shared.url}/")
        ask(tab, prompt="ROMEO:", max_tokens="6", temperature="0", seed="7")
        tab.evaluate("document.getElementById('inside').open = true")
        tab.wait("panes.every(pane => pane.map)")
        layers = tab.evaluate("[...document.getElementById('place').options].map(one => one.text)")
        tab.evaluate(
            "panes.forEach(pane => {pane.map = null}); document.getElementById('place').value = 1;"
            "document.getElementById('place').dispatchEvent(new Event('change'));"
            "document.getElementById('head').value = 2;"
            "document.getElementById('head').dispatchEvent(new Event('change'))"
        )
        tab.wait("panes.every(pane => pane.map)")
        browser.listen(0.3)
        seen = tab.evaluate("panes.map(pane => ({map: pane.map, ids: [...pane.turn.promptIds, ...pane.turn.ids]}))")
        painted = tab.evaluate(
            "[...document.querySelectorAll('.map')]"
            ".map(one => one.getContext('2d').getImageData(0, 0, 512, 512).data.some(value => value))"
        )
        assert not tab.console
    assert layers == ["0", "1"] and painted == [True, True]
    for one, name in zip(seen, ("lab/rope", "lab/alibi"), strict=True):
        served = shared.models[name]
        assert isinstance(served, LocalModel)
        wanted = look(served.model, one["ids"]).maps[1].weights_HTS[2]
        assert torch.allclose(torch.tensor(one["map"]["values"]), wanted, atol=1e-4)


def test_a_conversation_in_one_pane(shared: Live) -> None:
    """Chat is offered where the models shown have a template; each question goes on from what was said."""
    with Browser() as browser:
        tab = browser.open(f"{shared.url}/")
        tab.wait("document.querySelector('.model').options.length > 0")
        assert tab.evaluate("document.getElementById('mode').options[1].disabled")
        for side, name in ((0, "lab/tuned"), (1, "(none)")):
            tab.evaluate(
                f"panes[{side}].select.value = {name!r}; panes[{side}].select.dispatchEvent(new Event('change'))"
            )
        assert not tab.evaluate("document.getElementById('mode').options[1].disabled")
        served = shared.models["lab/tuned"]
        assert isinstance(served, LocalModel) and served.template is not None
        seed = seed_of_a_space(served, served.template.render([{"role": "user", "content": "Hi"}], True))
        fields = {"mode": "chat", "max_tokens": "10", "temperature": "5", "seed": str(seed)}
        for name, value in fields.items():
            tab.evaluate(f"document.getElementById({name!r}).value = {value!r}")
        messages: list[Any] = []
        for question in ("Hi", "And?"):
            messages.append({"role": "user", "content": question})
            said = shared.client().chat.completions.create(
                model="lab/tuned", messages=messages, max_tokens=10, temperature=5, seed=seed
            )
            tab.evaluate(f"document.getElementById('prompt').value = {question!r}")
            tab.evaluate("document.getElementById('go').click()")
            tab.wait(DONE)
            assert tab.evaluate("textOf(panes[0].turn)") == said.choices[0].message.content
            messages.append({"role": "assistant", "content": said.choices[0].message.content})
        assert tab.evaluate("panes[0].text.textContent").count("You: ") == 2


def test_the_exported_file_stands_alone(shared: Live, tmp_path: Any) -> None:
    with Browser() as browser:
        tab = browser.open(f"{shared.url}/")
        ask(tab, prompt="<script>document.title = 'broken'</script>", max_tokens="8")
        (tmp_path / "conversation.html").write_text(tab.evaluate("exportPage()"), encoding="utf-8")
    page = browse(tmp_path / "conversation.html", script="[document.title, document.querySelectorAll('.token').length]")
    assert page.value[0] == "gpt_lab conversation" and page.value[1] > 0
    assert page.errors == [] and len(page.requests) == 1


def test_the_files_are_the_only_ones_and_ask_nobody_else(shared: Live) -> None:
    for path in ("/", "/app.js", "/style.css"):
        answer = shared.pool.get(shared.url + path)
        assert answer.status_code == 200 and "https://" not in answer.text and "http://" not in answer.text
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    for path in ("/index.html", "/static/app.js", "/docs", "/openapi.json"):
        assert shared.pool.get(shared.url + path).status_code == 404
