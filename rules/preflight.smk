"""What can be known before any GPU time is spent: `snakemake preflight`."""


rule preflight_scene:
    """Verdicts on poses, coverage, masks, photographs and region of a scene, and what it will cost."""
    input:
        scene=DATA + "/scene/scene.json",
        sfm=health_of_scene,
    output:
        facts=DATA + "/preflight/preflight.json",
        page=DATA + "/preflight/index.html",
    log:
        f"{LOGS}/{DATA_LOG}/preflight.log",
    benchmark:
        f"{LOGS}/benchmarks/{DATA_LOG}/preflight.tsv"
    threads: 4
    resources:
        mem_mb=memory("preflight"),
        runtime=minutes("preflight"),
    params:
        scene=DATA + "/scene",
        sfm=health_option,
        out=DATA + "/preflight",
        methods=costs_of_methods,
        source=source_digest,
        code=code_digest("preflight"),
    shell:
        "python {workflow.basedir:q}/scripts/preflight.py --scene {params.scene:q} {params.sfm} --methods {params.methods:q}"
        " --out {params.out:q} --threads {threads} --log {log:q}"


rule preflight:
    """The page over all scenes, before anything is trained."""
    input:
        [f"{RESULTS}/{name}/preflight/preflight.json" for name in SCENES],
    output:
        page=f"{REPORT}/preflight.html",
    log:
        f"{LOGS}/preflight.log",
    benchmark:
        f"{LOGS}/benchmarks/preflight.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        list=f"{RESULTS}/scenes.json",
        runs=json.dumps(list_of_runs()),
        code=code_digest("preflight"),
    shell:
        "printf '%s' {params.runs:q} > {params.list:q} && "
        "python {workflow.basedir:q}/scripts/preflight.py --runs {params.list:q} --out {output.page:q} --threads {threads} --log {log:q}"
