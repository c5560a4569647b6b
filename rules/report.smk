"""One table and one page over all scenes and methods."""


rule report:
    """Summary tables, figures and an HTML page over all runs."""
    input:
        run_results,
        compare=ancient([SETUP.compare] if SETUP.compare else []),
    output:
        page=report(f"{REPORT}/index.html", caption="captions/page.rst", category="Result", labels={"what": "page"}),
        summary=report(f"{REPORT}/summary.tsv", caption="captions/table.rst", category="Result", labels={"what": "table, TSV"}),
        markdown=report(
            f"{REPORT}/summary.md", caption="captions/table.rst", category="Result", labels={"what": "table, Markdown"}
        ),
        latex=report(f"{REPORT}/summary.tex", caption="captions/table.rst", category="Result", labels={"what": "table, LaTeX"}),
    log:
        f"{LOGS}/report.log",
    benchmark:
        f"{LOGS}/benchmarks/report.tsv"
    threads: 2
    resources:
        mem_mb=report_memory,
        runtime=report_minutes,
    params:
        results=RESULTS,
        logs=LOGS,
        out=REPORT,
        list=f"{RESULTS}/runs.json",
        runs=json.dumps(list_of_runs()),
        options=report_options(),
        published=published_digest(),
        code=code_digest("report"),
    shell:
        "printf '%s' {params.runs:q} > {params.list:q} && "
        "python {workflow.basedir:q}/scripts/report.py --results {params.results:q} --runs {params.list:q} --logs {params.logs:q}"
        " --published {workflow.basedir:q}/config/published {params.options} --out {params.out:q} --threads {threads} --log {log:q}"
