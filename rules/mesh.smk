"""Surfaces out of a trained field, in world units, or in real units where `mesh.metric` says how."""

# Settings of the mesh that the TSDF route uses, too.
CLEANING = [
    f"mesh.{name}"
    for name in [
        *["rendered", "components", "component_share", "min_views", "mask_dilation", "box", "triangles", "max_error", "holes"],
        "metric",
    ]
]


rule mesh:
    """Zero level set as a triangle mesh by marching cubes, culled, cleaned and coloured."""
    input:
        model=RUN + "/model.pt",
        scene=DATA + "/scene/scene.json",
    output:
        mesh=RUN + "/mesh.ply",
        facts=RUN + "/mesh.json",
    log:
        f"{LOGS}/{RUN_LOG}/mesh.log",
    benchmark:
        f"{LOGS}/benchmarks/{RUN_LOG}/mesh.tsv"
    threads: gpu_threads()
    resources:
        gpu=gpus(),
        mem_mb=memory("mesh"),
        runtime=minutes("mesh"),
        device=SETUP.device,
    params:
        scene=DATA + "/scene",
        settings=settings_of("mesh"),
        metric=metric_digest,
        source=source_digest,
        code=code_digest("mesh"),
    shell:
        "python {workflow.basedir:q}/scripts/mesh.py --model {input.model:q} --scene {params.scene:q} --out {output.mesh:q}"
        " --device {resources.device} --settings {params.settings:q} --threads {threads} --log {log:q}"


rule tsdf:
    """A second mesh, fused from rendered depth, cleaned like the first."""
    input:
        model=RUN + "/model.pt",
        scene=DATA + "/scene/scene.json",
    output:
        mesh=RUN + "/tsdf.ply",
        facts=RUN + "/tsdf.json",
    log:
        f"{LOGS}/{RUN_LOG}/tsdf.log",
    benchmark:
        f"{LOGS}/benchmarks/{RUN_LOG}/tsdf.tsv"
    threads: gpu_threads()
    resources:
        gpu=gpus(),
        mem_mb=memory("tsdf"),
        runtime=minutes("tsdf"),
        device=SETUP.device,
    params:
        scene=DATA + "/scene",
        settings=settings_of("tsdf", *CLEANING),
        metric=metric_digest,
        source=source_digest,
        code=code_digest("tsdf"),
    shell:
        "python {workflow.basedir:q}/scripts/tsdf.py --model {input.model:q} --scene {params.scene:q} --out {output.mesh:q}"
        " --device {resources.device} --settings {params.settings:q} --threads {threads} --log {log:q}"


rule texture:
    """A texture from the photographs: GLB, OBJ with material and image, PLY with vertex colours."""
    input:
        mesh=RUN + "/mesh.ply",
        scene=DATA + "/scene/scene.json",
    output:
        glb=RUN + "/texture/textured.glb",
        obj=RUN + "/texture/textured.obj",
        material=RUN + "/texture/textured.mtl",
        image=RUN + "/texture/textured.jpg",
        coloured=RUN + "/texture/textured.ply",
        facts=RUN + "/texture/texture.json",
    log:
        f"{LOGS}/{RUN_LOG}/texture.log",
    benchmark:
        f"{LOGS}/benchmarks/{RUN_LOG}/texture.tsv"
    threads: 8
    resources:
        mem_mb=memory("texture"),
        runtime=minutes("texture"),
    params:
        scene=DATA + "/scene",
        out=RUN + "/texture",
        settings=settings_of("texture"),
        source=source_digest,
        code=code_digest("texture"),
    shell:
        "python {workflow.basedir:q}/scripts/texture.py --mesh {input.mesh:q} --scene {params.scene:q} --out {params.out:q}"
        " --settings {params.settings:q} --threads {threads} --log {log:q}"
