"""From a source to a prepared scene."""

SFM_FILES = ["sfm.json", "sparse/0/cameras.bin", "sparse/0/images.bin", "sparse/0/points3D.bin"]


rule sfm:
    """Camera poses and sparse points from photographs (pycolmap), with a health gate."""
    input:
        photos=photos,
    output:
        health=DATA + "/sfm/sfm.json",
        cameras=DATA + "/sfm/sparse/0/cameras.bin",
        images=DATA + "/sfm/sparse/0/images.bin",
        points=DATA + "/sfm/sparse/0/points3D.bin",
    log:
        f"{LOGS}/{DATA_LOG}/sfm.log",
    benchmark:
        f"{LOGS}/benchmarks/{DATA_LOG}/sfm.tsv"
    threads: 8
    resources:
        mem_mb=memory("sfm"),
        runtime=minutes("sfm"),
    params:
        source=column("source"),
        out=DATA + "/sfm",
        settings=settings_of("sfm", "train.seed"),
        digest=photos_digest,
        code=code_digest("sfm"),
    shell:
        "python {workflow.basedir:q}/scripts/sfm.py --photos {params.source:q} --out {params.out:q}"
        " --settings {params.settings:q} --threads {threads} --log {log:q}"


rule prepare:
    """One scene format from every source: undistorted images, masks, cameras, split, region of interest."""
    input:
        source=source_files,
        model=model_of_scene,
    output:
        scene=DATA + "/scene/scene.json",
    log:
        f"{LOGS}/{DATA_LOG}/prepare.log",
    benchmark:
        f"{LOGS}/benchmarks/{DATA_LOG}/prepare.tsv"
    threads: 4
    resources:
        mem_mb=memory("prepare"),
        runtime=minutes("prepare"),
    params:
        source=column("source"),
        format=column("format"),
        model=model_option,
        options=options(masks="--masks", region="--region"),
        out=DATA + "/scene",
        settings=settings_of("prepare"),
        digest=source_digest,
        code=code_digest("prepare"),
    shell:
        "python {workflow.basedir:q}/scripts/prepare.py --format {params.format:q} --source {params.source:q}"
        " {params.model} {params.options}"
        " --name {wildcards.dataset:q}/{wildcards.scene:q} --out {params.out:q}"
        " --settings {params.settings:q} --threads {threads} --log {log:q}"


rule triangulate:
    """Sparse points of the surface for methods that train with them: the scene's own, or triangulated with its cameras."""
    input:
        scene=DATA + "/scene/scene.json",
    output:
        points=DATA + "/points/points.npz",
        facts=DATA + "/points/points.json",
    log:
        f"{LOGS}/{DATA_LOG}/triangulate.log",
    benchmark:
        f"{LOGS}/benchmarks/{DATA_LOG}/triangulate.tsv"
    threads: 8
    resources:
        mem_mb=memory("triangulate"),
        runtime=minutes("triangulate"),
    params:
        scene=DATA + "/scene",
        out=DATA + "/points",
        settings=settings_of("triangulate", "train.seed"),
        source=source_digest,
        code=code_digest("triangulate"),
    shell:
        "python {workflow.basedir:q}/scripts/triangulate.py --scene {params.scene:q} --out {params.out:q}"
        " --settings {params.settings:q} --threads {threads} --log {log:q}"
