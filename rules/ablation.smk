"""Variants of a preset over several seeds: `snakemake ablation`, no part of a normal run."""


rule ablation:
    """Every variant of the ablation file on every scene, mean and spread over the seeds."""
    input:
        ablation_results,
    output:
        table=f"{REPORT}/ablation.tsv",
        markdown=f"{REPORT}/ablation.md",
    log:
        f"{LOGS}/ablation.log",
    benchmark:
        f"{LOGS}/benchmarks/ablation.tsv"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        results=RESULTS,
        out=REPORT,
        list=f"{RESULTS}/ablation.json",
        runs=ablation_list,
        code=code_digest("ablation"),
    shell:
        "printf '%s' {params.runs:q} > {params.list:q} && "
        "python {workflow.basedir:q}/scripts/ablation.py --results {params.results:q} --runs {params.list:q}"
        " --out {params.out:q} --threads {threads} --log {log:q}"
