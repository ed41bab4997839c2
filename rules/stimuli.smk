# Token tables, whose rows are those of every activation array of a model and stimulus set, and the
# texts that stimulus sets name by their address.

import json


# What is fetched depends on no code. What was fetched before stays until another text has come whole.
rule fetch_text:
    output:
        text=update("results/texts/{stimuli}.{suffix}"),
        note=update("results/texts/{stimuli}.{suffix}.json"),
    log:
        "results/logs/fetch_text/{stimuli}.{suffix}.log",
    wildcard_constraints:
        suffix="txt|parquet",
    localrule: True
    params:
        source=lambda wildcards: studies.stimulus_set(wildcards.stimuli).remote.address,
        sha256=lambda wildcards: studies.stimulus_set(wildcards.stimuli).remote.sha256,
    script:
        "../scripts/fetch_text.py"


# Several files of a data set, in a folder.
rule fetch_texts:
    output:
        texts=directory("results/texts/{stimuli}"),
        note="results/texts/{stimuli}.json",
    log:
        "results/logs/fetch_texts/{stimuli}.log",
    wildcard_constraints:
        stimuli="[a-z0-9_]+",
    localrule: True
    params:
        source=lambda wildcards: studies.stimulus_set(wildcards.stimuli).remote.address,
    script:
        "../scripts/fetch_texts.py"


rule token_table:
    input:
        unpack(texts_and_like),
        manifest="results/models/{model}/manifest.json",
        checkpoint=ancient("results/models/{model}/checkpoint"),
        stimuli=lambda wildcards: studies.stimulus_file(wildcards.stimuli),
    output:
        "results/tokens/{model}/{stimuli}.h5",
    log:
        "results/logs/token_table/{model}/{stimuli}.log",
    localrule: True
    # All cores, for texts that may be many.
    threads: lambda wildcards: 64 if studies.stimulus_set(wildcards.stimuli).many else 1
    resources:
        judged=lambda wildcards: json.dumps(studies.judged(wildcards.model, wildcards.stimuli)),
    params:
        # Not of the script: what it judges beside the table changes nothing in it.
        code=code_digest(
            [
                (ROOT / "microtome" / "texts" / "stimuli.py", "read_set"),
                (ROOT / "microtome" / "texts" / "fetched.py", "with_fetched"),
                (ROOT / "microtome" / "texts" / "tokens.py", "set_table"),
            ],
            ROOT,
        ),
        tokens=lambda wildcards: studies.tokens_kept(wildcards.stimuli),
    script:
        "../scripts/token_table.py"
