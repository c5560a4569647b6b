"""Optimisation of the signed distance field."""


rule train:
    """Signed distance and colour of a scene; resumes from its checkpoint, which is no output so that it outlives a killed job."""
    input:
        scene=DATA + "/scene/scene.json",
        points=sparse_points_of_scene,
    output:
        model=RUN + "/model.pt",
        facts=RUN + "/train.json",
        metrics=RUN + "/metrics.jsonl",
    log:
        f"{LOGS}/{RUN_LOG}/train.log",
    benchmark:
        f"{LOGS}/benchmarks/{RUN_LOG}/train.tsv"
    threads: gpu_threads()
    resources:
        gpu=train_gpus,
        mem_mb=memory("train"),
        runtime=minutes("train"),
        device=SETUP.device,
    params:
        scene=DATA + "/scene",
        points=points_option,
        out=RUN,
        settings=settings_of("model", "train"),
        source=source_digest,
        code=code_digest("train"),
    shell:
        "python {workflow.basedir:q}/scripts/train.py --scene {params.scene:q} {params.points} --out {params.out:q}"
        " --device {resources.device}"
        " --settings {params.settings:q} --threads {threads} --log {log:q}"


rule render:
    """Colour, depth and normals of the trained field from the cameras of the views that were kept from training."""
    input:
        model=RUN + "/model.pt",
        scene=DATA + "/scene/scene.json",
    output:
        facts=RUN + "/render/render.json",
    log:
        f"{LOGS}/{RUN_LOG}/render.log",
    benchmark:
        f"{LOGS}/benchmarks/{RUN_LOG}/render.tsv"
    threads: gpu_threads()
    resources:
        gpu=gpus(),
        mem_mb=memory("render"),
        runtime=minutes("render"),
        device=SETUP.device,
    params:
        scene=DATA + "/scene",
        out=RUN + "/render",
        settings=settings_of("render"),
        source=source_digest,
        code=code_digest("render"),
    shell:
        "python {workflow.basedir:q}/scripts/render.py --model {input.model:q} --scene {params.scene:q} --out {params.out:q}"
        " --device {resources.device} --settings {params.settings:q} --threads {threads} --log {log:q}"
