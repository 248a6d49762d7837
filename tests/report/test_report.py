"""`dmspec explore --report`: what the page says, and the page in a real Chromium."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dmspec.cli import doctor, main
from dmspec.compiler import compile_file
from dmspec.report import graph, read_sources
from dmspec.runtime.explore.explain import Edge
from dmspec.runtime.plan import to_bytes

# Two ways to end badly, one to end well: a suspend that waits for a lock's holder, and an error.
SPEC = '''# The <first> line & its "comment".
disk pv1 1MiB
disk pv2 1MiB
device vol { linear pv1 }
lock a
lock b
process one { with a { suspend vol  with b { resume vol } } }
process two { with b { with a { write vol at=0 size=4KiB } } }
process three { create extra { linear pv2 }  write vol at=0 size=4KiB }
scenario crossed "two locks </script><b>in two orders</b>" {
    run one two
    always no-deadlock
    expect violation of no-deadlock
}
scenario broken "a disk that fails" {
    run three
    fault fail pv1 at=any most=1
    always no-io-error three
    always no-deadlock
}
'''


def explore(folder: Path, *arguments: str, text: str = SPEC, name: str = "spec.dms") -> tuple[Result, str]:
    """Explore a spec; the page is empty where none was written."""
    spec, out = folder / name, folder / "out.html"
    spec.write_text(text)
    result = CliRunner().invoke(main, ["explore", str(spec), "--quiet", "--report", str(out), *arguments])
    return result, out.read_text(encoding="utf-8") if out.is_file() else ""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    result, _ = explore(folder)
    assert result.exit_code == 1, result.output  # `broken` is
    return folder / "out.html"


def data_of(text: str) -> list[dict[str, Any]]:
    """What the page's script reads, one for each counterexample."""
    found = re.findall(r'<script type="application/json" class="data">(.*?)</script>', text)
    return [json.loads(one) for one in found]


def test_the_page_has_every_scenario_and_verdict(page: Path) -> None:
    text = page.read_text()
    for words in ("Scenario crossed", "Scenario broken", "as expected", "violated", "always no-io-error three",
                  "fail pv1 at any point, at most once", "every state within the bounds"):
        assert words in text, words
    assert text.count('<article class="example"') == len(data_of(text)) == 2


def test_the_page_needs_nothing_else_and_is_small(page: Path) -> None:
    text = page.read_text()
    assert len(text) < 150_000
    assert not re.search(r"""(src|href)=["']?(https?:|//|/)|url\(|@import""", text)
    assert "default-src 'none'" in text
    assert str(page.parent) not in text


def test_what_a_spec_says_is_never_markup(page: Path) -> None:
    text = page.read_text()
    assert "</script><b>" not in text
    assert "&lt;/script&gt;&lt;b&gt;in two orders" in text
    assert "The &lt;first&gt; line &amp; its" in text


def test_the_same_exploration_gives_the_same_bytes(page: Path, tmp_path: Path) -> None:
    _, again = explore(tmp_path)
    assert again == page.read_text()


def test_states_are_kept_as_differences(page: Path) -> None:
    crossed = data_of(page.read_text())[0]
    keys = [tuple(key) for key in crossed["keys"]]
    state: dict[tuple[str, ...], str | None] = {}
    for changes in crossed["steps"]:
        state.update({keys[number]: text for number, text in changes})
    assert state["process", "one", "state"] == "waits for lock b, held by two"
    assert state["process", "one", "holds"] == "lock a"
    assert state["lock", "a", "waiting"] == "two"
    assert state["device", "vol", "state"] == "suspended"
    assert state["disk", "pv1", "state"] == "good"


def test_a_partial_search_says_so(tmp_path: Path) -> None:
    result, text = explore(tmp_path, "--states", "3", "--preemptions", "1")
    assert result.exit_code == 1
    assert "<b>partial</b>: the bound of 3 states" in text
    assert "unknown" in text
    assert "at most 1 in a run" in text


def test_one_scenario_and_json_go_together(tmp_path: Path) -> None:
    result, text = explore(tmp_path, "--scenario", "crossed", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["dmspec_explore"] == 1
    assert "Scenario crossed" in text
    assert "Scenario broken" not in text


@pytest.mark.parametrize("out", ["no/such/folder.html", "."])
def test_a_place_that_cannot_be_written_is_said_before_the_search(tmp_path: Path, out: str) -> None:
    (tmp_path / "spec.dms").write_text(SPEC)
    result = CliRunner().invoke(main, ["explore", str(tmp_path / "spec.dms"), "--report", str(tmp_path / out)])
    assert result.exit_code == 2
    assert "scenario" not in result.output


def test_sources_are_read_only_if_they_are_the_plans_own(tmp_path: Path) -> None:
    spec, plan_file = tmp_path / "spec.dms", tmp_path / "spec.plan"
    spec.write_text(SPEC)
    plan = compile_file(spec).plan
    assert plan is not None
    plan_file.write_bytes(to_bytes(plan))
    for path in (spec, plan_file):
        [source] = read_sources(plan, str(path))
        assert source.name == "spec.dms"
        assert source.lines == SPEC.splitlines()
    spec.write_text(SPEC + "# changed since\n")
    assert read_sources(plan, str(plan_file)) == []
    spec.unlink()
    assert read_sources(plan, str(plan_file)) == []


def test_a_library_is_among_the_sources(tmp_path: Path) -> None:
    text = ('use lvm\ndisk pv1 8MiB\ndisk pv2 8MiB\ndevice vol { linear pv1 }\n'
            'process lvcreate { lvm.create_snapshot vol name=snap cow=pv2 }\n'
            'scenario s {\n run lvcreate\n fault fail pv1 at=any most=1\n'
            ' fault fail pv2 at=any most=1\n always no-error\n}\n')
    _, page = explore(tmp_path, "--first", text=text)
    assert 'data-name="&lt;dmspec&gt;/lvm.dms"' in page
    [data] = data_of(page)
    calls = [call for where in data["where"] for call in where["calls"]]
    assert ["lvcreate", 0, 5] in calls  # the line that called the procedure it is in
    assert any(file == 1 for where in data["where"] for _, file, _ in where["at"])


# Who waits for whom


def edges(*pairs: str) -> list[Edge]:
    return [Edge(pair[0], pair[2], f"since {pair}") for pair in pairs]


def test_the_graph_is_in_layers_and_closes_its_cycle_at_the_side() -> None:
    some = edges("a>b", "b>c", "c>a", "d>b", "d>c")
    layers, back = graph.layers_of(some, ["a", "b", "c"])
    assert layers == {"a": 0, "b": 1, "c": 2, "d": 0}
    assert back == {("c", "a")}
    assert [graph.in_cycle(edge, ["a", "b", "c"]) for edge in some] == [True, True, True, False, False]


@pytest.mark.parametrize("pairs", [
    ["a>a"], ["a>b", "a>b"], ["a>b", "b>a"], ["a>b", "c>d"], ["a>b", "b>c", "c>b", "d>a"],
    [f"{one}>{other}" for one in "abcd" for other in "abcd"],
])
def test_any_graph_can_be_drawn(pairs: list[str]) -> None:
    drawn = graph.draw(edges(*pairs), [])
    assert drawn == graph.draw(edges(*pairs), [])
    assert drawn.count('class="edge badge"') == len(pairs)
    assert len(re.findall(r"<rect ", drawn)) == len({name for pair in pairs for name in pair.split(">")})


# In a browser


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """A Chromium for one test: it starts processes as it goes, and a test leaves none behind."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for argument in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                     "--disable-background-networking", "--disable-component-update", "--disable-sync",
                     "--disable-dev-shm-usage", f"--user-data-dir={tmp_path / 'chromium'}"):
        options.add_argument(argument)
    options.binary_location = doctor.find_command("chromium") or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(doctor.find_command("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def shown(browser: Any, page: Path) -> Iterator[Any]:
    """The page, freshly loaded on a wide screen; a message on the console is an error of the test."""
    show(browser, page, 1600, 1000)
    yield browser
    assert browser.get_log("browser") == []


def show(browser: Any, page: Path, width: int, height: int, scheme: str = "light", media: str = "") -> None:
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": width, "height": height, "deviceScaleFactor": 1, "mobile": False})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {
        "media": media, "features": [{"name": "prefers-color-scheme", "value": scheme}]})
    browser.get("about:blank")
    browser.get(page.as_uri())


def press(browser: Any, *keys: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


def text_of(browser: Any, selector: str) -> str:
    """The text of the first element of that kind, as it is seen."""
    text: str = browser.execute_script("return document.querySelector(arguments[0]).innerText", selector)
    return text


def names_of_things(browser: Any, example: int) -> list[str]:
    """The processes, locks, devices and disks that a counterexample shows in this step."""
    names: list[str] = browser.execute_script("""
        return [...document.querySelectorAll(".state-pane")[arguments[0]].querySelectorAll("h5")].map(h => h.innerText)
        """, example)
    return names


def is_seen(browser: Any, selector: str) -> bool:
    seen: bool = browser.execute_script(
        "return document.querySelector(arguments[0]).getClientRects().length > 0", selector)
    return seen


@pytest.mark.requires("chromium", "chromedriver")
def test_keys_step_to_the_end_and_back(shown: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    last = int(shown.find_element("css selector", "input").get_attribute("max"))
    assert text_of(shown, "output") == f"0 / {last}"
    assert "can go on" in text_of(shown, ".state-pane .thing.process")
    seen = [text_of(shown, ".now")]
    for key in [Keys.ARROW_RIGHT, "j"] * last:
        press(shown, key)
        if text_of(shown, ".now") != seen[-1]:
            seen.append(text_of(shown, ".now"))
    assert len(seen) == last + 1
    assert text_of(shown, "output") == f"{last} / {last}"
    assert "VIOLATION of no-deadlock" in text_of(shown, ".now")
    assert "waits for lock b, held by two" in text_of(shown, ".state-pane")
    assert "suspended" in text_of(shown, ".state-pane .thing.device")
    for key, step in [(Keys.ARROW_LEFT, last - 1), ("k", last - 2), (Keys.HOME, 0), (Keys.END, last), (Keys.HOME, 0)]:
        press(shown, key)
        assert text_of(shown, "output") == f"{step} / {last}"
    assert text_of(shown, ".now") == seen[0]


@pytest.mark.requires("chromium", "chromedriver")
def test_what_a_step_changed_is_marked_with_what_it_was(shown: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    press(shown, Keys.END)
    changed = shown.execute_script("""return [...document.querySelectorAll(".state-pane dd.changed")]
        .map(dd => dd.previousElementSibling.textContent + "|" + dd.innerText)""")
    assert any(one.startswith("state changed to|waits for lock") and "was can go on" in one for one in changed), changed
    press(shown, Keys.HOME)
    assert shown.find_elements("css selector", ".state-pane .changed") == []


@pytest.mark.requires("chromium", "chromedriver")
def test_buttons_slider_rows_and_addresses_step_too(shown: Any, page: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    shown.find_element("css selector", "button[data-go=on]").click()
    assert text_of(shown, "output").startswith("1 /")
    shown.find_element("css selector", "input").send_keys(Keys.ARROW_RIGHT)
    assert text_of(shown, "output").startswith("2 /")  # once, although the page listens too
    shown.find_element("css selector", "#s1c1-3 .happened").click()
    assert text_of(shown, "output").startswith("3 /")
    assert shown.current_url.endswith("#s1c1-3")
    row = shown.find_element("css selector", ".steps tr[aria-current=step]")
    assert row.get_attribute("id") == "s1c1-3"
    assert "extra" not in names_of_things(shown, 1)
    shown.get("about:blank")
    shown.get(page.as_uri() + "#s2c1-1")
    assert "extra new" in names_of_things(shown, 1)
    assert shown.find_elements("css selector", "output")[1].text.startswith("1 /")
    press(shown, "j")  # goes to the counterexample that is in the window
    assert shown.find_elements("css selector", "output")[1].text.startswith("2 /")


@pytest.mark.requires("chromium", "chromedriver")
def test_the_line_of_the_step_is_shown_beside_it(shown: Any) -> None:
    press(shown, "j")
    ran = text_of(shown, ".source-pane .ran")
    assert "process " in ran
    assert "this step" in ran
    assert "is here" in text_of(shown, ".source-pane")


@pytest.mark.requires("chromium", "chromedriver")
def test_no_width_scrolls_sideways_and_nothing_is_fetched(shown: Any, page: Path) -> None:
    for width in (360, 800, 1280, 2200):
        show(shown, page, width, 800)
        press(shown, "j", "j")
        sizes = shown.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert sizes[0] <= sizes[1], width
        for selector in (".state-pane", ".steps-pane", ".source-pane", ".graph", "button"):
            assert is_seen(shown, selector), (width, selector)
    assert shown.execute_script("return performance.getEntriesByType('resource').length") == 0


@pytest.mark.requires("chromium", "chromedriver")
def test_it_is_dark_where_that_is_preferred_and_focus_is_seen(shown: Any, page: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    colors = []
    for scheme in ("light", "dark"):
        show(shown, page, 1200, 800, scheme)
        colors.append(shown.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert colors[0] != colors[1]
    for _ in range(40):
        press(shown, Keys.TAB)
        if shown.switch_to.active_element.tag_name == "button":
            break
    outline = shown.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    assert (shown.switch_to.active_element.tag_name, outline) == ("button", "solid")
    nameless = shown.execute_script("""return [...document.querySelectorAll("button, input, [tabindex='0'], [role]")]
        .filter(one => !one.getAttribute("aria-label") && !one.labels?.length && !one.textContent.trim()).length""")
    assert nameless == 0


@pytest.mark.requires("chromium", "chromedriver")
def test_print_shows_every_step_with_what_it_changed(shown: Any, page: Path) -> None:
    show(shown, page, 900, 1200, media="print")
    assert not is_seen(shown, ".controls")
    assert not is_seen(shown, ".state-pane")
    assert "one: can go on → waits for lock b, held by two" in text_of(shown, ".steps")
    assert is_seen(shown, ".state-table")
    pdf = base64.b64decode(shown.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"])
    assert pdf.startswith(b"%PDF-")
    assert pdf.count(b"/Type /Page\n") >= 2


@pytest.mark.requires("chromium", "chromedriver")
def test_without_scripts_the_steps_are_there(browser: Any, page: Path) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(browser, page, 1200, 800)
        text = browser.find_element("tag name", "body").text
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert "one: can go on → waits for lock b, held by two" in text
    assert "In the beginning" in text
    browser.get_log("browser")
