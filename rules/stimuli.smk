# Token tables, whose rows are those of every activation array of a model and stimulus set, and the
# texts that stimulus sets name by their address.


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


if SEQUENCES is None:

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
        threads: tokens_threads
        resources:
            judged=judged,
        params:
            code=tokens_code(),
            tokens=lambda wildcards: studies.tokens_kept(wildcards.stimuli),
            sequences_per_job=SEQUENCES,
        script:
            "../scripts/token_table.py"

else:

    # How many shards there are is known only when they are made. They are no outputs, which
    # Snakemake would delete before the job: the file that reads as all of them is.
    checkpoint token_table:
        input:
            unpack(texts_and_like),
            manifest="results/models/{model}/manifest.json",
            checkpoint=ancient("results/models/{model}/checkpoint"),
            stimuli=sharded_stimuli,
        output:
            "results/tokens/{model}/{stimuli}.h5",
        log:
            "results/logs/token_table/{model}/{stimuli}.log",
        localrule: True
        threads: tokens_threads
        resources:
            judged=judged,
        params:
            code=tokens_code(),
            tokens=lambda wildcards: studies.tokens_kept(wildcards.stimuli),
            sequences_per_job=SEQUENCES,
        script:
            "../scripts/token_table.py"
