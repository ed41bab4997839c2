# Token tables. Their rows are those of every activation array of a model and stimulus set.

import json


rule token_table:
    input:
        manifest="results/models/{model}/manifest.json",
        checkpoint=ancient("results/models/{model}/checkpoint"),
        stimuli=lambda wildcards: studies.stimulus_file(wildcards.stimuli),
    output:
        "results/tokens/{model}/{stimuli}.h5",
    log:
        "results/logs/token_table/{model}/{stimuli}.log",
    localrule: True
    resources:
        judged=lambda wildcards: json.dumps(studies.judged(wildcards.model, wildcards.stimuli)),
    params:
        # Not of the script: what it judges beside the table changes nothing in it.
        code=code_digest(
            [
                (ROOT / "microtome" / "texts" / "stimuli.py", "read_stimuli"),
                (ROOT / "microtome" / "texts" / "tokens.py", "token_table"),
            ],
            ROOT,
        ),
        tokens=lambda wildcards: studies.tokens_kept(wildcards.stimuli),
    script:
        "../scripts/token_table.py"
