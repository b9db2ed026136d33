"""
The page to try a recommender, clicked in headless Chromium. Needs `pip install "tsrec_hf[space]" selenium`, and
Debian's `chromium` and `chromium-driver` (or others of these names on the path).
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest


pytest.importorskip("gradio", reason='needs Gradio: pip install "tsrec_hf[space]"')
selenium = pytest.importorskip("selenium", reason="needs selenium: pip install selenium")
if not (shutil.which("chromium") and shutil.which("chromedriver")):
    pytest.skip("needs chromium and chromedriver: apt-get install chromium chromium-driver", allow_module_level=True)

from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402


APP = Path(__file__).parents[2] / "examples" / "space" / "app.py"
SECONDS = 120
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(request, tmp_path_factory):
    """A page on the tiny catalogue, in a process of its own."""
    folder = tmp_path_factory.mktemp("space")
    conftest = next(p for p in request.config.pluginmanager.get_plugins() if hasattr(p, "make_sid_index"))
    from tsrec_hf import Showcase, TSRecForCausalLM, TSRecTokenizer

    backbone, semantics = conftest.save_backbone(folder / "backbone"), conftest.make_semantics()
    dataset = conftest.make_dataset()
    tokenizer = TSRecTokenizer.from_backbone(backbone, dataset.sid_index)
    TSRecForCausalLM.from_backbone(backbone, tokenizer, semantics).save_pretrained(folder / "checkpoint")
    tokenizer.save_pretrained(folder / "checkpoint")
    # One of the two histories that the data set has of three items; titles with nothing but titles.
    [user] = Showcase.draw(dataset).users
    Showcase({"pear": {"year": "1994", "genre": "Fruit"}}, [user]).save(folder / "checkpoint")
    semantics.to_json(folder / "description_keywords.json")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with open(folder / "log.txt", "w") as log:
        process = subprocess.Popen(
            [sys.executable, APP, folder / "checkpoint", "--port", str(port)],
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )
    try:
        deadline = time.monotonic() + SECONDS
        while True:
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log.txt").read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/"
    finally:
        children = psutil.Process(process.pid).children()
        process.kill()
        process.wait(timeout=SECONDS)
        # The recommender does not outlive the page, however that ends.
        assert not psutil.wait_procs(children, timeout=SECONDS)[1]


@pytest.fixture(scope="module")
def chromium():
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1000"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture
def page(chromium, address):
    """The page, fresh, with the real user it begins with."""
    chromium.get(address)
    wait_for(chromium, lambda: recommended(chromium) and titles(chromium, "button.result"))
    return chromium


@pytest.fixture
def empty_page(page):
    """The page, ready for a history that is clicked together."""
    click(page, "#clear")
    wait_for(page, lambda: "Nothing yet" in page.find_element(By.ID, "cards").text)
    return page


def wait_for(driver, condition):
    return WebDriverWait(driver, SECONDS).until(lambda _: condition())


def titles(driver, selector):
    """Texts of all that match, read at once: lists are replaced as a whole."""
    script = "return [...document.querySelectorAll(arguments[0])].map(one => one.textContent)"
    return [text.strip() for text in driver.execute_script(script, selector)]


def recommended(driver):
    return titles(driver, "li.card .head .title")


def click(driver, selector, text=None):
    found = driver.find_elements(By.CSS_SELECTOR, selector)
    next(one for one in found if text is None or text in one.text).click()


def history(driver):
    return titles(driver, "ol.history .title")


def open_view(driver, label, selector):
    click(driver, "button[role=tab]", label)
    wait_for(driver, lambda: titles(driver, selector))


def test_it_begins_with_a_real_user_and_what_they_took_next(page):
    assert history(page) == ["red apple", "green pear", "rye bread"]
    story = wait_for(page, lambda: page.find_element(By.ID, "story").text)
    assert story.startswith("A real user took red apple, green pear, rye bread, and next hard cheese: number ")
    [taken] = titles(page, "li.card.taken .title")
    assert taken == "hard cheese" and f"number {recommended(page).index(taken) + 1} of 5" in story
    # Details of an item stand beside its title.
    assert "1994 · Fruit" in titles(page, "button.result .details")


def test_lists_and_the_search_are_shown_on_demand(page):
    open_view(page, "Compare", ".lists li")
    assert titles(page, ".lists h4") == ["Model and prior", "Model alone", "Popularity"]
    assert titles(page, ".lists li.taken .title") == ["hard cheese", "hard cheese"]
    open_view(page, "Search tree", ".walk li")
    assert [heading.split(":")[0] for heading in titles(page, ".walk h4")] == ["Token 1", "Token 2", "Token 3"]
    assert "kept, at place" in page.find_element(By.CSS_SELECTOR, "#walk .note").text
    # A view that is looked at follows the history.
    click(page, "ol.history button")
    wait_for(page, lambda: "kept, at place" not in page.find_element(By.ID, "walk").text)


def test_a_link_opens_the_same_history(page, address):
    click(page, "ol.history button")
    wait_for(page, lambda: page.current_url.endswith("?item=pear&item=bread"))
    # The old list, without three items of eight, makes way for one without two.
    shown = wait_for(page, lambda: len(recommended(page)) == 6 and recommended(page))
    shared = page.find_element(By.CSS_SELECTOR, "#link textarea, #link input").get_attribute("value")
    assert shared == f"{address}?item=pear&item=bread"
    page.get(f"{address}?__theme=dark&item=gone&item=pear&item=bread#choose")
    wait_for(page, lambda: recommended(page) == shown)
    assert history(page) == ["green pear", "rye bread"]
    wait_for(page, lambda: "1 of 3 items of the link" in page.page_source)
    wait_for(page, lambda: page.current_url == f"{address}?__theme=dark&item=pear&item=bread")


def test_a_click_adds_an_item_and_changes_the_list(empty_page, tmp_path):
    page = empty_page
    assert len(titles(page, "button.result")) == 8 and recommended(page) == [] and history(page) == []

    click(page, "button.result", "claw hammer")
    first = wait_for(page, lambda: recommended(page))
    assert history(page) == ["claw hammer"]
    assert len(first) == 7 and "claw hammer" not in first
    # Taken items cannot be clicked again.
    [taken] = page.find_elements(By.CSS_SELECTOR, "button.result:disabled")
    assert "claw hammer" in taken.text

    # The first card says what its tokens mean: three of them, each with a description.
    assert all("items" in meaning for meaning in titles(page, "li.card:first-child dd > p:first-child"))
    assert len(titles(page, "li.card:first-child dd")) == 3

    # From a recommendation, the history goes on.
    click(page, "li.card .head button")
    wait_for(page, lambda: len(recommended(page)) == 6)
    assert history(page) == ["claw hammer", first[0]]

    picture = tmp_path / "page.png"
    assert page.save_screenshot(str(picture)) and picture.stat().st_size > 10_000

    click(page, "ol.history button")
    wait_for(page, lambda: history(page) == [first[0]] and len(recommended(page)) == 7)
    click(page, "#clear")
    wait_for(page, lambda: recommended(page) == [] and history(page) == [])


def test_search_narrows_the_list(page):
    box = page.find_element(By.CSS_SELECTOR, "#query input, #query textarea")
    box.send_keys("1994 fruit")
    wait_for(page, lambda: len(titles(page, "button.result")) == 1)
    box.clear()
    box.send_keys("steel")
    wait_for(page, lambda: len(titles(page, "button.result")) == 2)
    box.clear()
    box.send_keys("chese")
    wait_for(page, lambda: "this one is close" in page.page_source)
    assert "hard cheese" in titles(page, "button.result")[0]
    box.send_keys(" xyz")
    wait_for(page, lambda: any("Nothing in the catalogue matches" in text for text in titles(page, "p.message")))


def test_quick_clicks_all_count(empty_page):
    page = empty_page
    # Without waiting for the list to be replaced.
    script = "[...document.querySelectorAll('button.result')].slice(0, 4).forEach(one => one.click())"
    page.execute_script(script)
    wait_for(page, lambda: len(recommended(page)) == 4)
    # Within a millisecond, the order is the network's.
    assert set(history(page)) == {"claw hammer", "steel nail", "steel screw", "hand saw"}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_fits_a_phone_and_cards_come_first(chromium, address, theme):
    try:
        size = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        chromium.get(f"{address}?__theme={theme}")
        wait_for(chromium, lambda: recommended(chromium) and history(chromium))
        tops = [chromium.find_element(By.CSS_SELECTOR, name).rect["y"] for name in ("li.card", "ol.history", "#query")]
        assert tops == sorted(tops) and tops[0] < 844
        for label, selector in (("Compare", ".lists li"), ("Search tree", ".walk li")):
            assert chromium.execute_script("return document.documentElement.scrollWidth") == 390
            open_view(chromium, label, selector)
        assert chromium.execute_script("return document.documentElement.scrollWidth") == 390
        is_dark = chromium.execute_script("return document.body.classList.contains('dark')")
        assert is_dark == (theme == "dark")
    finally:
        chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_programs_can_ask(address):
    gradio_client = pytest.importorskip("gradio_client")
    client = gradio_client.Client(address, verbose=False)
    found = client.predict(["apple"], 3, api_name="/recommend")
    assert len(found) == 3 and all(re.fullmatch(r"(<\w+_\d+>){3}", item["sid"]) for item in found)
    pear = {"item_id": "pear", "title": "green pear", "details": ["1994", "Fruit"]}
    assert client.predict("pear", api_name="/search")["items"] == [pear]
    with pytest.raises(gradio_client.exceptions.AppError, match="Item 'spanner' is not among the 8 items"):
        client.predict(["spanner"], 3, api_name="/recommend")
