"""The page in a browser: what a reader finds, chooses, opens and saves, without a network."""

import re
import shutil
import subprocess

import pytest
from playwright.sync_api import expect, sync_playwright
from workflows import Clone

MODELS = ("tiny", "twin")
#: The figures of each study in its order, and of each whether it is of a model.
FIGURES = {
    "category_selectivity": {"cosine_matrices": True, "rsa_profile": True},
    "mlp_distributions": {"gelu": False, "tsne": True},
    "mine": {"drawn": True, "redrawn": True},
}
PAGES = ("index", *FIGURES)

#: Texts that reach beyond the window and cannot be scrolled to.
BEYOND = """() => {
    const scrolls = (element) =>
        element &&
        (/auto|scroll/.test(getComputedStyle(element).overflowX) || scrolls(element.parentElement));
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const found = [];
    while (texts.nextNode()) {
        const range = document.createRange();
        range.selectNodeContents(texts.currentNode);
        const right = Math.max(0, ...[...range.getClientRects()].map((box) => box.right));
        if (right > innerWidth + 1 && !scrolls(texts.currentNode.parentElement))
            found.push(texts.currentNode.textContent);
    }
    return found;
}"""
#: Pictures that are shown and have nothing to show.
MISSING = """async () => {
    const pictures = [...document.images];
    for (const picture of pictures) picture.loading = "eager";
    await Promise.all(pictures.map((picture) => picture.decode().catch(() => {})));
    return pictures.filter((picture) => !picture.naturalWidth).map((picture) => picture.src);
}"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory, model):
    """A run of three studies on two models; one study is a user's, without README or captions."""
    clone = Clone(tmp_path_factory.mktemp("clone"), model)
    (clone.folder / "studies/mine").mkdir()
    reads = {"rsa": "category_selectivity.rsa"}
    drawn = {"use": "category_selectivity.rsa_profile", "reads": reads}
    clone.save_study("mine", {"figures": {"drawn": drawn, "redrawn": drawn}})
    profile = {"statistic": "rsa", "variable": "r", "at": {"pair": "q-k"}, "label": "RSA ($r$)"}
    with (clone.folder / "studies/category_selectivity/study.yaml").open("a") as file:
        file.write(f"page: {{picture: rsa_profile, profile: {profile!r}}}\n")
    clone.config["models"]["twin"] = {"source": "untrained://tiny?seed=1", "n_layers": 3}
    clone.config["studies"]["mine"] = {}
    for study in clone.config["studies"].values():
        study["models"] = list(MODELS)
    clone.save(clone.config)
    clone.run()
    return clone


@pytest.fixture(scope="module")
def chromium():
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    assert found, "no Chromium; install it, as in: apt-get install chromium"
    with sync_playwright() as playwright:
        # As root, Chromium wants no sandbox.
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def reader(clone, chromium):
    """A window, and how to open one of the pages; nothing is asked of a network, nothing fails."""
    context = chromium.new_context(viewport={"width": 1400, "height": 900}, color_scheme="light")
    window = context.new_page()
    asked, faults = [], []
    context.on("request", lambda request: asked.append(request.url))
    # A page that is left while its pictures load aborts them.
    context.on("requestfailed", lambda request: faults.append(f"{request.failure} {request.url}"))
    window.on("pageerror", lambda error: faults.append(str(error)))
    window.on("console", lambda message: faults.append(message.text))
    window.open_page = lambda name: window.goto(clone.product(f"page/{name}.html").as_uri())
    yield window
    context.close()
    assert not [fault for fault in faults if not fault.startswith("net::ERR_ABORTED ")]
    assert not [url for url in asked if not url.startswith(("file:", "data:"))]


def shown(window, selector):
    """The elements that a reader sees."""
    return window.locator(f"{selector}:visible")


def box(window, model):
    """The box that chooses a model."""
    return window.get_by_role("checkbox", name=model, exact=True)


@pytest.mark.parametrize("width", [360, 1400])
@pytest.mark.parametrize("name", PAGES)
def test_no_picture_is_missing_and_no_text_beyond_the_window(reader, name, width):
    reader.set_viewport_size({"width": width, "height": 800})
    reader.open_page(name)
    for details in reader.locator("details").all():
        details.evaluate("details => { details.open = true }")
    assert reader.evaluate(MISSING) == []
    assert reader.evaluate(BEYOND) == []
    assert reader.evaluate("document.documentElement.scrollWidth") <= width
    for picture in reader.locator("img").all():
        assert picture.get_attribute("alt")


def test_the_start_page_leads_to_every_study_with_a_picture(reader):
    reader.open_page("index")
    studies = reader.locator(".studies .study")
    # Without a README, a study is called by its name.
    titles = ["Category selectivity", "MLP distributions", "Mine"]
    assert studies.locator("h3").all_text_contents() == titles
    assert "Are words of one category" in studies.first.text_content()
    assert [shown(study, "img").count() for study in studies.all()] == [1, 1, 1]
    assert "rsa_profile" in shown(studies.first, "img").get_attribute("src")
    expect(reader.get_by_alt_text("RSA (r), over the relative depth of each model")).to_be_visible()
    for number, name in enumerate(FIGURES):
        reader.open_page("index")
        studies.nth(number).click()
        expect(reader).to_have_url(re.compile(rf"/{name}\.html"))


@pytest.mark.parametrize("study", FIGURES)
def test_a_page_has_every_figure_of_every_model(reader, clone, study):
    reader.open_page(study)
    sections = reader.locator("section.figure")
    names = [section.get_attribute("id") for section in sections.all()]
    assert names == list(FIGURES[study])
    for name, of_model in FIGURES[study].items():
        folders = [f"{model}/" for model in MODELS] if of_model else [""]
        pictures = reader.locator(f"#{name} figure img").all()
        files = [f"../figures/{study}/{folder}{name}.png" for folder in folders]
        assert [picture.get_attribute("src") for picture in pictures] == files
        links = reader.locator(f"#{name} figure > a").all()
        for link, file in zip(links, files, strict=True):
            assert link.get_attribute("href") == file.replace(".png", ".svg")
            assert (clone.product("page") / link.get_attribute("href")).exists()


def test_captions_say_what_to_look_at_and_the_numbers_of_each_model(reader):
    reader.open_page("category_selectivity")
    expect(reader.locator("#rsa_profile .caption")).to_contain_text("Look for layers where")
    said = reader.locator("#rsa_profile figcaption p").all_text_contents()
    assert len(said) == len(set(said)) == 2
    assert all(re.match(r"Scores are −?\d\.\d\d to ", text) for text in said)
    assert reader.locator("details#method math").count() > 10
    expect(reader.locator("#errata")).to_contain_text("normalises the stored activations in place")


def test_one_choice_of_models_holds_for_all_figures_and_pages(reader):
    reader.open_page("category_selectivity")
    assert shown(reader, "figure").count() == 4
    box(reader, "twin").uncheck()
    assert shown(reader, "figure").count() == 2
    assert shown(reader, "[data-model=twin]").count() == 0
    reader.get_by_role("link", name="All studies").first.click()
    expect(box(reader, "twin")).not_to_be_checked()
    reader.locator(".study").nth(1).click()
    reader.wait_for_url("**/mlp_distributions.html*")
    expect(reader.locator("#gelu img")).to_be_visible()  # of no model
    assert shown(reader, "figure").count() == 2
    box(reader, "tiny").uncheck()
    expect(reader.locator(".none")).to_be_visible()
    box(reader, "twin").check()
    assert shown(reader, "figure").last.get_attribute("data-model") == "twin"
    reader.reload()
    expect(box(reader, "tiny")).not_to_be_checked()
    expect(box(reader, "twin")).to_be_checked()


def test_the_start_page_shows_the_first_model_that_is_chosen(reader):
    reader.open_page("index")
    picture = shown(reader.locator(".study").first, "[data-model]")
    assert picture.text_content().strip() == "tiny"
    box(reader, "tiny").uncheck()
    assert picture.text_content().strip() == "twin"


def test_tables_are_sorted_and_saved(reader, clone):
    reader.open_page("mlp_distributions")
    table = reader.locator("#table-weight_counts table").first
    counts = table.locator("td:nth-child(3)")
    first = counts.all_text_contents()
    numbers = sorted(map(int, first))
    assert len(set(numbers)) > 1
    button = table.get_by_role("button", name="count")
    button.click()
    assert list(map(int, counts.all_text_contents())) == numbers
    button.press("Enter")
    assert list(map(int, counts.all_text_contents())) == numbers[::-1]
    table.get_by_role("button", name="tensor").click()
    tensors = table.locator("tbody th:first-child").all_text_contents()
    assert tensors == sorted(tensors, key=str.lower)
    # A minus is a minus, in the exponent too, and words come after numbers.
    for cell, text in zip(counts.all(), ["", "4e−05", "−1e−06", "−2.5"], strict=True):
        cell.evaluate("(cell, text) => { cell.textContent = text }", text)
    button.click()
    assert counts.all_text_contents() == ["−2.5", "−1e−06", "4e−05", ""]
    link = reader.get_by_role("link", name="CSV").first
    file = clone.product("page") / link.get_attribute("href")
    assert file.resolve() == clone.product("tables/mlp_distributions/tiny/weight_counts.csv")
    assert [line.split(",")[-2] for line in file.read_text().splitlines()[1:]] == first


def test_a_figure_opens_in_full_size(reader):
    reader.open_page("mine")
    reader.locator("#drawn img").first.click()
    large = reader.locator("dialog[open]")
    expect(large.locator("img")).to_have_js_property("complete", True)
    assert large.locator("img").evaluate("image => image.naturalWidth") > 0
    source = large.locator("img").get_attribute("src")
    assert source.endswith("/figures/mine/tiny/drawn.svg")
    assert large.get_by_role("link", name="SVG").get_attribute("href") == source
    reader.keyboard.press("Escape")
    expect(large).to_have_count(0)


def test_provenance_leads_from_a_figure_to_its_texts_and_its_code(reader, clone):
    reader.open_page("category_selectivity")
    provenance = reader.locator("#rsa_profile .provenance")
    expect(provenance.locator("dl")).to_be_hidden()
    provenance.locator("summary").press("Enter")
    found = provenance.locator("dl").inner_text()
    assert "twin (seed 1)" in found
    assert "studies/category_selectivity/figures.py" in found
    assert "def rsa_profile(rsa: xr.Dataset" in found
    (command,) = [line for line in found.splitlines() if "--force" in line]
    both = {f"figures/category_selectivity/{model}/rsa_profile" for model in MODELS}
    _, *arguments = subprocess.check_output(["bash", "-c", f"echo {command}"], text=True).split()
    assert clone.planned(*arguments) == both


@pytest.mark.parametrize("script", [True, False], ids=["with its script", "without"])
def test_provenance_links_to_what_a_page_tells_once(clone, chromium, script):
    context = chromium.new_context(java_script_enabled=script)
    window = context.new_page()
    window.goto(clone.product("page/category_selectivity.html").as_uri())
    provenance = window.locator("#rsa_profile .provenance")
    provenance.locator("summary").click()

    def told(link, words):
        provenance.get_by_role("link", name=link).click()
        expect(window.get_by_text(words).first).to_be_in_viewport()

    told("tiny", "untrained://tiny?seed=1, revision seed 1")
    told("words", "The next word is {word}")
    expect(window.get_by_text("fruit: apple, pear, plum")).to_be_visible()
    told(re.compile("^rsa$"), "results/statistics/category_selectivity/model/rsa.h5")
    told("cosine_similarities", 'layers: [0, 1], sites: ["q", "k", "v"], word_token: -1')
    statistics = window.locator(".sources").last.inner_text()
    assert "from cosine_similarities" in statistics
    assert "from results/activations/model/words" in statistics
    # Of two figures that one function draws, the first has its source.
    window.goto(clone.product("page/mine.html").as_uri())
    provenance = window.locator("#redrawn .provenance")
    provenance.locator("summary").click()
    told("rsa_profile", "def rsa_profile(rsa: xr.Dataset")
    context.close()


def test_light_and_dark(reader, clone, chromium):
    def colour(window):
        return window.evaluate("getComputedStyle(document.body).backgroundColor")

    reader.open_page("index")
    light = colour(reader)
    reader.get_by_role("button", name="Dark").click()
    dark = colour(reader)
    assert dark != light
    reader.locator(".study").first.click()
    reader.wait_for_url("**/category_selectivity.html*")
    assert colour(reader) == dark
    reader.get_by_role("button", name="Light").click()
    assert colour(reader) == light
    # Nothing chosen: as the system has it.
    context = chromium.new_context(color_scheme="dark")
    other = context.new_page()
    other.goto(clone.product("page/index.html").as_uri())
    assert colour(other) == dark
    context.close()


def test_on_paper_there_is_what_can_be_read(reader):
    reader.open_page("category_selectivity")
    reader.emulate_media(media="print")
    reader.evaluate("dispatchEvent(new Event('beforeprint'))")
    expect(reader.locator(".bar")).to_be_hidden()
    expect(reader.locator("#method math").first).to_be_visible()
    assert shown(reader, "figure img").count() == 4


def test_the_report_has_figures_by_study_and_model_before_the_graph(clone, chromium):
    asked = ("--report", "results/report.html", "--report-metadata", "report/metadata.yaml")
    done = clone.snakemake("all", *asked)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    context = chromium.new_context()
    window = context.new_page()
    window.goto(clone.product("report.html").as_uri())
    expect(window.get_by_role("link", name="cosine_matrices")).to_have_count(2)
    names = window.locator(".prose a").all_text_contents()
    of_words = ["category_selectivity", *("cosine_matrices", "rsa_profile") * 2]
    of_texts = ["mlp_distributions", "gelu", "tsne", "tsne"]
    assert names == [*of_words, *of_texts, "mine", *("drawn", "redrawn") * 2]
    expect(window.locator("#rulegraph")).to_be_hidden()
    window.get_by_role("link", name="tsne").last.click()
    expect(window.get_by_text("results/figures/mlp_distributions/twin/tsne.png")).to_be_visible()
    context.close()


def test_pages_are_small(clone):
    files = [file for file in clone.product("page").glob("*") if file.is_file()]
    # .ci/run counts those of the default config.
    assert sum(file.stat().st_size for file in files) < 100_000
    names = {file.name for file in files if not file.name.startswith(".")}
    assert names == {f"{name}.html" for name in PAGES} | {"style.css", "page.js"}


def test_a_profile_that_is_none_is_named_in_a_line(clone, tmp_path):
    clone = clone.copy(tmp_path / "edited")
    clone.replace("studies/category_selectivity/study.yaml", "'variable': 'r'", "'variable': 's'")
    done = clone.snakemake()
    assert done.returncode != 0
    assert (
        "microtome: studies/category_selectivity/study.yaml: page.profile: results/" in done.stderr
    )
    assert "rsa.h5: no variable 's'; " in done.stderr


def test_pages_are_as_they_were_made(clone):
    assert clone.verify() == []
    before = clone.contents()
    for file in clone.product("page").glob("*.html"):
        file.unlink()
    assert clone.run() == {f"page/{name}" for name in PAGES}
    assert clone.contents() == before
