"""Measurements against ground truth and against photographs that were kept from training."""


rule evaluate_mesh:
    """Chamfer distance, accuracy, completeness and F-scores of one mesh against the ground truth."""
    input:
        mesh=RUN + "/{kind}.ply",
        scene=DATA + "/scene/scene.json",
        truth=truth_files,
    output:
        facts=RUN + "/evaluate/{kind}.json",
        arrays=RUN + "/evaluate/{kind}.npz",
    log:
        f"{LOGS}/{RUN_LOG}/evaluate_{{kind}}.log",
    benchmark:
        f"{LOGS}/benchmarks/{RUN_LOG}/evaluate_{{kind}}.tsv"
    threads: 4
    resources:
        mem_mb=memory("evaluate_mesh"),
        runtime=minutes("evaluate_mesh"),
    params:
        scene=DATA + "/scene",
        options=options(ground_truth="--ground-truth", gt_cameras="--gt-cameras", protocol="--protocol"),
        settings=settings_of("evaluate"),
        source=source_digest,
        digest=truth_digest,
        code=code_digest("evaluate_mesh"),
    shell:
        "python {workflow.basedir:q}/scripts/evaluate_mesh.py --mesh {input.mesh:q} --scene {params.scene:q}"
        " {params.options} --out {output.facts:q}"
        " --settings {params.settings:q} --threads {threads} --log {log:q}"


rule evaluate_views:
    """PSNR, SSIM and LPIPS of the rendered views against their photographs, depth against the ground truth."""
    input:
        render=RUN + "/render/render.json",
        scene=DATA + "/scene/scene.json",
        truth=truth_files,
    output:
        facts=RUN + "/evaluate/views.json",
    log:
        f"{LOGS}/{RUN_LOG}/evaluate_views.log",
    benchmark:
        f"{LOGS}/benchmarks/{RUN_LOG}/evaluate_views.tsv"
    threads: 4
    resources:
        mem_mb=memory("evaluate_views"),
        runtime=minutes("evaluate_views"),
    params:
        render=RUN + "/render",
        scene=DATA + "/scene",
        options=options(ground_truth="--ground-truth", gt_cameras="--gt-cameras"),
        settings=settings_of("evaluate"),
        source=source_digest,
        digest=truth_digest,
        code=code_digest("evaluate_views"),
    shell:
        "python {workflow.basedir:q}/scripts/evaluate_views.py --render {params.render:q} --scene {params.scene:q}"
        " {params.options} --out {output.facts:q} --settings {params.settings:q} --threads {threads} --log {log:q}"


rule check:
    """Comparison of all results with their golden ranges, after the report; a regression ends the workflow with an error."""
    input:
        summary=f"{REPORT}/summary.tsv",
        results=run_results,
        golden=SETUP.golden or [],
    output:
        table=f"{REPORT}/check.tsv",
    log:
        f"{LOGS}/check.log",
    benchmark:
        f"{LOGS}/benchmarks/check.tsv"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        list=f"{RESULTS}/checked.json",
        runs=json.dumps(list_of_runs()),
        code=code_digest("check"),
    shell:
        "printf '%s' {params.runs:q} > {params.list:q} && "
        "python {workflow.basedir:q}/scripts/check.py --golden {input.golden:q} --runs {params.list:q} --out {output.table:q}"
        " --threads {threads} --log {log:q}"
