"""What a config asks of studies and cannot have: refused in one line, before any job."""

import pytest
from refusals import Case, assert_refused, study

MLP, NORMS, STATES = "mlp_distributions", "attention_norms", "hidden_states"


def scaled(text: str, more: str = "") -> str:
    """A config that changes the intervention of hidden_states."""
    return study(f"{{interventions: {{scaled_blocks: {text}}}{more}}}", STATES)


#: A config on top of the workflow's own, and what is said of it.
CONFIGS = {
    # Products
    "statistics_are_a_list": (
        study("{statistics: [rsa]}"),
        "statistics: wants names with options, as in",
    ),
    "a_figure_is_a_number": (study("{figures: {masks: 5}}"), "figures.masks: wants options, as in"),
    "unknown_key": (study("{figurs: {}}"), "figurs: unknown key; did you mean 'figures'"),
    "no_such_study": (
        "studies: {category_selectivty: {models: [smollm2-135m]}}",
        "mine.yaml: studies.category_selectivty: no folder studies/category_selectivty with a "
        "study.yaml; did you mean 'category_selectivity'?",
    ),
    "figure_misspelt": (
        study("{figures: {rsa_scater: {layer: 5}}}"),
        "mine.yaml: studies.category_selectivity.figures.rsa_scater: ",
        "category_selectivity/figures.py has no function 'rsa_scater'; did you mean 'rsa_scatter'?",
    ),
    "statistic_misspelt": (
        study("{statistics: {qkv_point: {token: 2}}}"),
        "statistics.qkv_point: ",
        "statistics.py has no function 'qkv_point'; did you mean 'qkv_points'?",
    ),
    "statistic_named_like_an_input": (
        study("{statistics: {tokens: {use: word_pairs}}}"),
        "statistics.tokens: means something else to a statistic that reads it; choose another name",
    ),
    # Functions of another name
    "use_of_an_unknown_function": (
        study("{figures: {masks: {use: mask}}}"),
        "masks.use: ",
        "category_selectivity/figures.py has no function 'mask'; did you mean 'masks'?",
    ),
    "use_of_an_unknown_function_of_another_study": (
        study("{figures: {masks: {use: attention_norms.nrms}}}"),
        "masks.use: ",
        "attention_norms/figures.py has no function 'nrms'; did you mean 'norms'?",
    ),
    "use_of_an_unknown_study": (
        study("{figures: {masks: {use: attention_norm.norms}}}"),
        "masks.use: no study 'attention_norm'; did you mean 'attention_norms'?",
    ),
    "use_of_a_path": (
        study("{figures: {masks: {use: ../masks}}}"),
        'masks.use: wants a name, or study.name for that of another study; has "../masks"',
    ),
    # What is read
    "reads_is_a_list": (
        study("{figures: {rsa_profile: {reads: [rsa]}}}"),
        "rsa_profile.reads: wants a statistic for each parameter, as in {norms: attention_norms",
    ),
    "reads_for_an_unknown_parameter": (
        study("{statistics: {rsa: {reads: {cosines: cosine_similarities}}}}"),
        "rsa.reads.cosines: rsa has no such parameter; known: cosine_similarities",
    ),
    "reads_for_an_input_that_is_no_statistic": (
        study("{statistics: {qkv_points: {reads: {section: rsa}}}}"),
        "qkv_points.reads.section: qkv_points has no such parameter; it reads no statistics",
    ),
    "reads_of_an_unknown_statistic": (
        study("{figures: {rsa_profile: {reads: {rsa: rsaa}}}}"),
        "rsa_profile.reads.rsa: rsa_profile reads 'rsaa', which is no statistic; did you mean",
    ),
    "reads_of_an_unknown_statistic_of_another_study": (
        study("{figures: {rsa_profile: {reads: {rsa: attention_norms.nrms}}}}"),
        "reads.rsa: rsa_profile reads 'attention_norms.nrms', which is no statistic; did you mean",
    ),
    "reads_of_an_unknown_study": (
        study("{figures: {rsa_profile: {reads: {rsa: category_selectivty.rsa}}}}"),
        "rsa_profile.reads.rsa: no study 'category_selectivty'; did you mean 'category_selectiv",
    ),
    "reads_itself": (
        study("{statistics: {rsa: {reads: {cosine_similarities: rsa}}}}"),
        "mine.yaml: studies.category_selectivity.statistics.rsa: reads itself; name another stat",
    ),
    "a_circle_over_two_studies": (
        "studies: {category_selectivity: {statistics: {rsa: {reads: {cosine_similarities: "
        "attention_norms.norm_histograms}}}}, attention_norms: {statistics: {norm_histograms: "
        "{reads: {norms: category_selectivity.rsa}}}}}",
        "these read each other: ",
        "; take one of the reads out",
    ),
    # Options
    "unknown_option": (
        study("{statistics: {qkv_points: {tokn: 2}}}"),
        "qkv_points.tokn: unknown option; did you mean 'token'?",
    ),
    "unknown_option_of_a_figure_without_any": (
        study("{figures: {masks: {limits: [0, 1]}}}"),
        "masks.limits: unknown option; masks takes none; take it out",
    ),
    "axes_for_a_figure": (
        study("{figures: {rsa_profile: {ax: 1}}}"),
        "rsa_profile.ax: unknown option; rsa_profile takes none; take it out",
    ),
    "option_left_out": (
        study("{statistics: {rsa_2: {use: rsa_test, seed: 1}}}"),
        "statistics.rsa_2: the option 'n_permutations' is missing; it wants a whole number, 1 to",
    ),
    "seed_is_a_text": (
        study("{statistics: {rsa_test: {seed: one}}}"),
        'seed: wants a whole number, 0 to 4294967295; has "one"',
    ),
    "token_is_a_text": (
        study("{statistics: {qkv_points: {token: last}}}"),
        'wants a token\'s position, negative from the end; has "last"',
    ),
    "token_is_a_fraction": (study("{statistics: {qkv_points: {token: 1.0}}}"), "; has 1.0"),
    "first_token_is_negative": (
        study("{statistics: {norm_histograms: {first_token: -1}}}", NORMS),
        "norm_histograms.first_token: wants a token's position, 0 or more; has -1",
    ),
    "limits_are_one_number": (
        study("{figures: {cosine_matrices: {limits: 1}}}"),
        "wants two numbers between -1e30 and 1e30, the smaller first, as in [0.0, 1.0]; has 1",
    ),
    "limits_in_the_wrong_order": (
        study("{figures: {cosine_matrices: {limits: [1, 0]}}}"),
        "limits: wants two numbers between -1e30 and 1e30, the smaller first, ",
        "has [1, 0]",
    ),
    "limits_that_are_one": (
        study("{figures: {cosine_matrices: {limits: [1, 1]}}}"),
        "the smaller first, ",
    ),
    "infinite_limits": (
        study("{figures: {cosine_matrices: {limits: [0, .inf]}}}"),
        "cosine_matrices.limits: wants two numbers between -1e30 and 1e30, ",
        "has [0, Infinity]",
    ),
    "huge_limits": (
        study("{figures: {cosine_matrices: {limits: [0, 1.0e+308]}}}"),
        "wants two numbers between -1e30 and 1e30, ",
    ),
    "a_limit_that_is_no_number": (
        study("{statistics: {weight_histograms: {limit: .nan}}}", MLP),
        "mine.yaml: studies.mlp_distributions.statistics.weight_histograms.limit: wants a number "
        "above 0, up to 1e30; has NaN",
    ),
    "an_infinite_limit": (
        study("{statistics: {weight_histograms: {limit: .inf}}}", MLP),
        "weight_histograms.limit: wants a number above 0, up to 1e30; has Infinity",
    ),
    "a_huge_limit": (
        study("{statistics: {gelu: {limit: 1.0e+300}}}", MLP),
        "gelu.limit: wants a number above 0, up to 1e30; has 1e+300",
    ),
    "more_bins_than_memory": (
        study("{statistics: {weight_histograms: {n_edges: 100000000000}}}", MLP),
        "n_edges: wants a number of bin edges, 2 to 100,000; has 100000000000",
    ),
    "more_points_than_memory": (
        study("{statistics: {gelu: {n: 100000000000}}}", MLP),
        "gelu.n: wants a whole number, 1 to 1,000,000; has 100000000000",
    ),
    "a_number_that_yaml_takes_for_a_text": (
        study("{statistics: {autoregression: {alpha: 1e-3}}}", NORMS),
        "mine.yaml: studies.attention_norms.statistics.autoregression.alpha: wants a level of ",
        'significance between 0 and 1; has "1e-3"',
    ),
    "alpha_of_one": (
        study("{statistics: {autoregression: {alpha: 1}}}", NORMS),
        "wants a level of significance between 0 and 1; has 1",
    ),
    "no_target": (
        study("{interventions: {scaled_blocks: {read: {logits: last, targets: ['']}}}}", STATES),
        "scaled_blocks.read.targets: wants `clean`, `next`, or a list of texts, each one",
    ),
    "scale": (
        study("{figures: {selectivity_profile: {scale: z}}}"),
        'selectivity_profile.scale: wants cosine or fisher_z; has "z"',
    ),
    "the_same_label_twice": (
        study("{statistics: {t_tests: {difference: [noun, noun]}}}", "grammar_tuning"),
        "difference: wants two labels of words, as in [noun, verb]; has",
    ),
    # Sites
    "unknown_site": (
        study("{statistics: {norms: {site: atn_out}}}", NORMS),
        "norms.site: no site 'atn_out' of a block; did you mean 'attn_out'?",
    ),
    "unknown_site_among_others": (
        study("{statistics: {qkv_points: {sites: [q, kk]}}}"),
        "qkv_points.sites: no site 'kk' of a block; did you mean 'k'?",
    ),
    "a_second_site": (
        study("{statistics: {norms: {site: [attn_out, mlp_out]}}}", NORMS),
        'norms.site: wants one site; has ["attn_out", "mlp_out"]',
    ),
    "the_key_of_several_sites_for_one": (
        study("{statistics: {norms: {sites: [attn_out]}}}", NORMS),
        "norms.sites: unknown option; did you mean 'site'?",
    ),
    "a_site_after_the_blocks": (
        study("{statistics: {norms: {site: ln_final}}}", NORMS),
        "norms.site: no site 'ln_final' of a block; known: resid_pre, ln1_out, q",
    ),
    "logits_of_a_stream": (
        "studies: {corpus: {models: [smollm2-135m], stimuli: penguins, "
        "statistics: {moments: {sites: [resid_post, logits]}}}}",
        "moments.sites: no site 'logits' of a block; known: resid_pre",
    ),
    "a_site_with_absent_keys": (
        study("{statistics: {norms: {site: pattern}}}", NORMS),
        "norms.site: pattern is NaN where a key is absent, which this function does not leave out",
    ),
    "no_sites": (
        study("{statistics: {activation_profile: {sites: []}}}", MLP),
        "activation_profile.sites: wants a list of sites, each once; has []",
    ),
    "one_site_where_pairs_are_meant": (
        study("{statistics: {qkv_points: {sites: [q]}}}"),
        'qkv_points.sites: wants a list of two or more sites, each once; has ["q"]',
    ),
    "one_site_of_what_is_read": (
        study("{statistics: {cosine_similarities: {sites: [q]}}}"),
        "mine.yaml: studies.category_selectivity.statistics.cosine_similarities.sites: ",
        "which reads it, wants two or more sites; has",
    ),
    "three_sites_where_two_are_meant": (
        study("{statistics: {tsne: {sites: [pre, post, mlp_out]}}}", MLP),
        "tsne.sites: wants two sites, as in [ln2_out, mlp_out]; has",
    ),
    "the_same_site_twice": (
        study("{statistics: {cosine_similarities: {sites: [q, q]}}}"),
        "wants a list of sites, each once",
    ),
    "sites_of_unequal_width": (
        study("{statistics: {qkv_points: {sites: [q, pre]}}}"),
        "qkv_points.sites: wants sites of one width, to compare value by value; "
        "has q (heads × d_head), pre (d_mlp)",
    ),
    "another_site_than_that_of_the_tests": (
        study("{statistics: {text_tuning: {site: post}}}", "grammar_tuning"),
        "text_tuning.site: 'word_activations' has no site post; it has pre",
    ),
    # Layers
    "layers_where_one_is_read": (
        study("{statistics: {qkv_points: {layers: [1, 3]}}}"),
        "qkv_points.layers: means nothing to qkv_points; choose the one it reads with `layer`",
    ),
    "layers_of_a_figure": (
        study("{figures: {masks: {layers: [1]}}}"),
        "masks.layers: means nothing to masks; take it out",
    ),
    "layers_of_what_reads_all": (
        study("{statistics: {token_profile: {layers: [1]}}}", STATES),
        "token_profile.layers: means nothing to token_profile; take it out",
    ),
    "layer_out_of_range": (
        study("{figures: {cosine_matrices: {layer: 30}}}"),
        "cosine_matrices.layer: no layer 30 in smollm2-135m, it has 0 to 29",
    ),
    "layer_of_weights_out_of_range": (
        study("{statistics: {weight_counts: {layer: 30}}}", MLP),
        "weight_counts.layer: no layer 30 in smollm2-135m, it has 0 to 29",
    ),
    "layers_out_of_range": (
        study("{statistics: {cosine_similarities: {layers: [5, 30]}}}"),
        "cosine_similarities.layers: no layer 30 in smollm2-135m, it has 0 to 29",
    ),
    "negative_layer": (
        study("{figures: {rsa_scatter: {layer: -1}}}"),
        "rsa_scatter.layer: wants a layer, as in 6 or 20%; has -1",
    ),
    "layer_that_is_true": (
        study("{figures: {rsa_scatter: {layer: true}}}"),
        "wants a layer, as in 6 or 20%; has true",
    ),
    "layer_deeper_than_the_last": (
        study("{figures: {rsa_scatter: {layer: 101%}}}"),
        'rsa_scatter.layer: wants a layer, as in 6 or 20%; has "101%"',
    ),
    "no_layers": (
        study("{statistics: {cosine_similarities: {layers: []}}}"),
        "wants `all` or a list of layers, as in [4, 20%]; has []",
    ),
    "layers_of_another_kind": (
        study("{statistics: {cosine_similarities: {layers: [6.0]}}}"),
        "wants `all` or a list of layers, as in [4, 20%]; has [6.0]",
    ),
    "layers_that_are_one_number": (
        study("{statistics: {cosine_similarities: {layers: 6}}}"),
        "wants `all` or a list of layers, as in [4, 20%]; has 6",
    ),
    "layer_that_was_not_computed": (
        study("{statistics: {cosine_similarities: {layers: [4, 5]}}}"),
        "similarity_distributions.layer: 'cosine_similarities' has no layer 6 of smollm2-135m; "
        "it has 4, 5",
    ),
    "another_layer_than_that_of_the_tests": (
        study("{statistics: {text_tuning: {layer: 7}}}", "grammar_tuning"),
        "text_tuning.layer: 'word_activations' has no layer 7 of smollm2-135m; it has 8",
    ),
    "predictions_of_a_model_without_head": (
        study("{models: [smollm2-135m, minilm]}", STATES),
        "mine.yaml: studies.hidden_states.models: minilm has no head, and so no logits",
    ),
    "silencing_heads_of_its_untrained_twin": (
        study("{models: [minilm-untrained]}", "head_silencing"),
        "mine.yaml: studies.head_silencing.models: minilm-untrained has no head, and so no logits ",
    ),
    # Interventions
    "interventions_are_a_list": (
        study("{interventions: [scaled_blocks]}", STATES),
        "hidden_states.interventions: wants names with declarations, as in silence: {site: z",
    ),
    "an_intervention_is_a_text": (
        scaled("zero"),
        "scaled_blocks: wants a declaration, as in {site: z, change: zero, read: {loss: true}}",
    ),
    "an_intervention_without_a_site": (
        study("{interventions: {silence: {change: zero}}}", STATES),
        "mine.yaml: studies.hidden_states.interventions.silence: the key 'site' is missing; ",
    ),
    "a_misspelt_intervention": (
        study("{interventions: {scaled_block: {change: {scale: 0.7}}}}", STATES),
        "did you mean 'scaled_blocks'?",
    ),
    "an_unknown_key_of_an_intervention": (
        scaled("{neuron: [1]}"),
        "mine.yaml: studies.hidden_states.interventions.scaled_blocks.neuron: unknown key; did you",
    ),
    "options_of_the_statistic_as_they_were": (
        study("{statistics: {scaling: {factor: 0.5}}}", STATES),
        "scaling.factor: unknown option; scaling takes none; take it out",
    ),
    "a_change_that_is_none": (
        scaled("{change: {scael: 0.8}}"),
        "scaled_blocks.change: wants one of zero, scale, ",
        "did you mean 'scale'?",
    ),
    "an_intervention_named_like_a_statistic": (
        study("{statistics: {scaled_blocks: {use: next_tokens, n: 5}}}", STATES),
        "interventions.scaled_blocks: is a statistic's name too; choose another one",
    ),
    "an_intervention_named_like_an_input": (
        study("{interventions: {tokens: {site: z, change: zero, read: {loss: true}}}}", STATES),
        "interventions.tokens: means something else to a statistic that reads it; choose another",
    ),
    "a_layer_that_is_changed_and_not_there": (
        scaled("{layers: [3, 30]}"),
        "scaled_blocks.layers: smollm2-135m: no layer 30; there are 0 to 29",
    ),
    "a_layer_that_is_read_and_not_there": (
        scaled("{read: {resid_post: {layers: [30]}}}"),
        "scaled_blocks.read.resid_post.layers: smollm2-135m: no layer 30; there are 0 to 29",
    ),
    "a_change_of_no_function": (
        scaled("{change: {use: shrink}}"),
        "hidden_states/changes.py: no such file; write it",
    ),
    "values_of_no_statistic": (
        scaled("{neurons: next_token.text}"),
        "scaled_blocks.neurons: scaled_blocks reads 'next_token', which is no statistic; did you "
        "mean 'next_tokens'?",
    ),
    "values_of_no_study": (
        scaled("{change: {add: 1, vector: attention_norm.norms.mean}}"),
        "scaled_blocks.change.vector: no study 'attention_norm'; did you mean 'attention_norms'?",
    ),
    "a_statistic_reads_no_intervention": (
        study("{statistics: {scaling: {reads: {scaled_blocks: scaled_block}}}}", STATES),
        "scaling.reads.scaled_blocks: scaling reads 'scaled_block', which is no statistic; did you "
        "mean 'scaled_blocks'?",
    ),
    "an_intervention_and_a_statistic_in_a_circle": (
        scaled("{neurons: scaling.log_probability}"),
        "these read each other: hidden_states.scaling, hidden_states.scaled_blocks; take one of ",
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_what_no_study_can_do_is_refused_in_one_line(tmp_path, name):
    config, *says = CONFIGS[name]
    assert_refused(tmp_path, Case(config, tuple(says)))
