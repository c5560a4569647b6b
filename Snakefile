"""Photos of objects in; measured meshes and one report over all scenes and methods out.

snakemake --cores 8           run everything that is missing or out of date
snakemake preflight --cores 8 look at the scenes before anything is trained, and say what to change
snakemake -n                  say what would run, and why
snakemake --list-rules        the stages
snakemake ablation            train the variants of config/ablation.yaml over several seeds and compare them
snakemake --report run.zip    what ran, with the report inside, for reading elsewhere
"""

from snakemake.utils import min_version

min_version("9.20")


configfile: "config/config.yaml"


report: "rules/captions/workflow.rst"


include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/preflight.smk"
include: "rules/train.smk"
include: "rules/mesh.smk"
include: "rules/evaluate.smk"
include: "rules/report.smk"
include: "rules/ablation.smk"


localrules:
    all,


rule all:
    """Everything: the report over all scenes and methods, and the check of its numbers."""
    default_target: True
    input:
        final_files(),
        all_results,


onsuccess:
    print_summary()


onerror:
    report_what_there_is()
