"""One table and one page over all scenes and methods."""


rule report:
    """Summary table, figures and an HTML page over all runs."""
    input:
        run_results,
    output:
        page=f"{REPORT}/index.html",
        summary=f"{REPORT}/summary.tsv",
    log:
        f"{LOGS}/report.log",
    benchmark:
        f"{LOGS}/benchmarks/report.tsv"
    threads: 2
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        results=RESULTS,
        logs=LOGS,
        out=REPORT,
        list=f"{RESULTS}/runs.json",
        runs=json.dumps(runs()),
        code=code_digest("report"),
    shell:
        "printf '%s' {params.runs:q} > {params.list:q} && "
        "python {workflow.basedir:q}/scripts/report.py --results {params.results:q} --runs {params.list:q} --logs {params.logs:q}"
        " --out {params.out:q} --threads {threads} --log {log:q}"
