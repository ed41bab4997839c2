"""Names of rules: no two models and stimulus sets, or studies and products, share one."""

from workflows import WORDS, Clone


def test_names_that_join_to_the_same_text_are_different_rules(model, tmp_path):
    clone = Clone(tmp_path, model)
    entry = clone.config["models"].pop("tiny")
    models = ["m", "m_x", "m_", "m__x", "m_.x", "m_._x"]
    sets = ["y", "x_y", "x__y", "y_"]
    clone.config["models"] = dict.fromkeys(models, entry)
    for name in sets:
        clone.save(WORDS, f"stimuli/{name}.yaml")
    cosines = {"use": "cosine_similarities", "sites": ["q"], "word_token": -1}
    clone.config["studies"] = {
        "category_selectivity": {
            "models": models,
            "stimuli": "y",
            "statistics": {f"c_{name}": cosines | {"stimuli": name} for name in sets},
        }
    }
    gelu = {"use": "mlp_distributions.gelu", "n": 51, "limit": 4.0}
    own: dict[str, dict] = {}
    for name, statistic in (("a_b", "c"), ("a", "b_c"), ("a", "b__c"), ("a__b", "c")):
        own.setdefault(name, {})[statistic] = gelu
    for name, statistics in own.items():
        (clone.folder / "studies" / name).mkdir()
        clone.save_study(name, {"statistics": statistics})
        clone.config["studies"][name] = {"models": []}
    clone.save(clone.config)
    done = clone.snakemake("--list-rules")
    assert done.returncode == 0, done.stderr
    rules = done.stdout.split()
    assert len(rules) == len(set(rules))
    assert sum(name.startswith("activations__") for name in rules) == len(models) * len(sets)
    assert {"activations__m__x_y", "activations__m_x__y"} <= set(rules)
    assert {"statistic__a_b__c", "statistic__a__b_c"} <= set(rules)
