# The page: a file for each study, and the start page. Pictures are linked where they lie.


rule page:
    input:
        all_pages(),
    localrule: True


rule page_style:
    output:
        PAGE_STYLE,
    log:
        "results/logs/page/style.log",
    localrule: True
    params:
        code=[code("page_style.py"), file_digest(*(TEMPLATES / name for name in STYLE))],
    script:
        "../scripts/page_style.py"


for study in studies_shown(studies):

    rule:
        name:
            rule_name("page", study)
        input:
            **page_inputs(study),
        output:
            f"{PAGES}/{study}.html",
        log:
            f"results/logs/page/studies/{study}.log",
        localrule: True
        resources:
            # No param: files of another name with the same config make no page stale.
            command=lambda wildcards: PAGE_COMMAND,
        params:
            study=study,
            about=digest(study_page(studies, study)),
            code=page_code(study),
        script:
            "../scripts/page.py"


for study in studies_profiled(studies):

    rule:
        name:
            rule_name("profile", study)
        input:
            profile_inputs(study),
        output:
            svg=f"{PAGES}/profiles/{study}.svg",
            png=f"{PAGES}/profiles/{study}.png",
        log:
            f"results/logs/page/profiles/{study}.log",
        localrule: True
        params:
            **profile_params(study),
            n_layers={m: config["models"][m]["n_layers"] for m in studies.study(study).models},
            style=dict(sorted(config["style"].items())),
            code=PROFILE_CODE,
        script:
            "../scripts/profile.py"


rule start_page:
    input:
        **start_page_inputs(),
    output:
        f"{PAGES}/index.html",
    log:
        "results/logs/page/index.log",
    localrule: True
    params:
        about=digest(start_page(studies)),
        code=[code("start_page.py"), templates("index.html")],
    script:
        "../scripts/start_page.py"
