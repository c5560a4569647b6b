// The 3D viewer. One WebGL context serves all scenes of the page: it moves to the viewer that was scrolled to or used last,
// and leaves a still behind. Nothing is drawn unless something changed.
"use strict";

(() => {
  const LOOKS = { texture: "Texture", colours: "Colours", shape: "Shape", normals: "Normals", error: "Error" };
  const TRAINED = 0x3d82d6;
  const HELD_OUT = 0xe0762b;
  const FIELD_OF_VIEW = 32; // degrees, upright

  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };

  let renderer = null;
  let active = null;

  const sharedRenderer = () => {
    if (!renderer) {
      renderer = new THREE.WebGLRenderer({ antialias: true, alpha: true, preserveDrawingBuffer: true });
      renderer.setPixelRatio(Math.min(2, window.devicePixelRatio || 1));
      renderer.domElement.tabIndex = 0;
      renderer.domElement.setAttribute("role", "img");
    }
    return renderer;
  };

  const bytesOf = async (id) => {
    const text = document.getElementById(id).textContent;
    const packed = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  };

  const positionOf = (pose) => new THREE.Vector3().setFromMatrixPosition(new THREE.Matrix4().fromArray(pose));

  const colourArray = (stops) => stops.map((hex) => new THREE.Color(hex)); // linear, as the GPU wants them

  // Colours of a judged surface: pale to dark along the scale, grey where nothing was judged.
  const errorColours = (errors, facts, end) => {
    const stops = colourArray(facts.stops);
    const grey = new THREE.Color().setRGB(...facts.uncounted, THREE.SRGBColorSpace);
    const colours = new Float32Array(3 * errors.count);
    const mixed = new THREE.Color();
    for (let i = 0; i < errors.count; i++) {
      const value = errors.getX(i);
      const place = Math.min(1, Math.max(0, value / end)) * (stops.length - 1);
      const below = Math.min(stops.length - 2, Math.floor(place));
      if (value < 0) mixed.copy(grey);
      else mixed.copy(stops[below]).lerp(stops[below + 1], place - below);
      mixed.toArray(colours, 3 * i);
    }
    return new THREE.BufferAttribute(colours, 3);
  };

  // glTF's vertex colours are linear by definition, ours are what the photographs have.
  const linearColours = (attribute) => {
    const colours = new Float32Array(3 * attribute.count);
    const colour = new THREE.Color();
    for (let i = 0; i < attribute.count; i++) {
      colour.setRGB(attribute.getX(i), attribute.getY(i), attribute.getZ(i), THREE.SRGBColorSpace).toArray(colours, 3 * i);
    }
    return new THREE.BufferAttribute(colours, 3);
  };

  class Viewer {
    constructor(root) {
      this.root = root;
      this.screen = root.querySelector(".screen");
      this.message = root.querySelector(".message");
      this.facts = JSON.parse(document.getElementById(root.dataset.facts).textContent);
      this.loaded = new Map();
      this.camera = new THREE.PerspectiveCamera(FIELD_OF_VIEW, 1, 0.01, 200);
      this.camera.up.set(...this.facts.up);
      this.scene = new THREE.Scene();
      this.scene.add(this.camera);
      const head = new THREE.DirectionalLight(0xffffff, 2.4);
      head.position.set(0.3, 0.4, 1);
      this.camera.add(head);
      this.scene.add(new THREE.HemisphereLight(0xffffff, 0x8a8a90, 0.9));
      this.surface = new THREE.Group();
      this.frusta = this.makeFrusta();
      this.scene.add(this.surface, this.frusta);
      this.makeControls();
      this.message.textContent = "Loading the 3D view";
      this.placeCamera();
    }

    makeControls() {
      const find = (selector) => this.root.querySelector(selector);
      this.select = find("select.surface");
      this.select.append(...this.facts.surfaces.map((s, value) => make("option", { value, textContent: s.label })));
      this.look = find("fieldset.look");
      this.legend = find(".legend");
      this.from = find("select.from");
      this.from.append(make("option", { value: "", textContent: "free view" }));
      const nameOf = (camera) => `${camera.name}${camera.heldOut ? " (held out)" : ""}`;
      this.from.append(...this.facts.cameras.map((c, value) => make("option", { value, textContent: nameOf(c) })));
      this.showCameras = find("input.cameras");
      this.select.addEventListener("change", () => this.use(() => this.showSurface()));
      this.from.addEventListener("change", () => this.use(() => this.lookFrom(this.from.value)));
      this.showCameras.addEventListener("change", () => this.use(() => this.placeCamera()));
      find("button.reset").addEventListener("click", () => this.use(() => this.placeCamera()));
      find(".controls").hidden = false;
      for (const button of this.root.closest("section").querySelectorAll("button[data-camera]")) {
        button.disabled = false;
        button.title = `Look at the surface from camera ${this.facts.cameras[button.dataset.camera].name}`;
        button.addEventListener("click", () => {
          this.root.scrollIntoView({ block: "nearest" });
          this.use(() => this.lookFrom(button.dataset.camera));
        });
      }
    }

    makeFrusta() {
      const points = { true: [], false: [] };
      for (const { pose, fov, aspect, heldOut } of this.facts.cameras) {
        const matrix = new THREE.Matrix4().fromArray(pose);
        const depth = 0.09 * positionOf(pose).length();
        const y = depth * Math.tan((fov * Math.PI) / 360);
        const x = y * aspect;
        const tip = new THREE.Vector3(0, 0, 0).applyMatrix4(matrix);
        const corners = [[-x, -y], [x, -y], [x, y], [-x, y]].map(([a, b]) => new THREE.Vector3(a, b, -depth).applyMatrix4(matrix));
        const roof = new THREE.Vector3(0, 1.35 * y, -depth).applyMatrix4(matrix);
        corners.forEach((corner, i) => points[heldOut].push(tip, corner, corner, corners[(i + 1) % 4]));
        points[heldOut].push(corners[3], roof, roof, corners[2]);
      }
      const group = new THREE.Group();
      for (const heldOut of [false, true]) {
        const geometry = new THREE.BufferGeometry().setFromPoints(points[heldOut]);
        group.add(new THREE.LineSegments(geometry, new THREE.LineBasicMaterial({ color: heldOut ? HELD_OUT : TRAINED })));
      }
      return group;
    }

    // A sphere around what is to be seen: the surface, or all cameras and the surface.
    subject() {
      const centre = this.centre || new THREE.Vector3();
      const radius = this.radius || 1;
      if (!this.showCameras.checked) return { centre, radius };
      const points = [centre, ...this.facts.cameras.map(({ pose }) => positionOf(pose))];
      const middle = points.reduce((low, point) => low.min(point), points[0].clone());
      middle.add(points.reduce((high, point) => high.max(point), points[0].clone())).multiplyScalar(0.5);
      return { centre: middle, radius: Math.max(radius, ...points.map((point) => point.distanceTo(middle))) };
    }

    // Towards the subject from the middle camera's side, as near as it fits into the picture.
    placeCamera() {
      const { cameras } = this.facts;
      const { centre, radius } = this.subject();
      const direction = positionOf(cameras[Math.floor(cameras.length / 2)].pose).sub(this.centre || new THREE.Vector3());
      if (direction.lengthSq() < 1e-9) direction.set(1, 1, 1);
      const distance = (1.02 * radius) / Math.sin((FIELD_OF_VIEW * Math.PI) / 360);
      this.camera.position.copy(centre).addScaledVector(direction.normalize(), distance);
      this.camera.fov = FIELD_OF_VIEW;
      this.camera.lookAt(centre);
      if (this.controls) this.controls.target.copy(centre);
      this.from.value = "";
      this.draw();
    }

    lookFrom(index) {
      if (index === "") {
        this.placeCamera();
        return;
      }
      const { pose, fov } = this.facts.cameras[index];
      const matrix = new THREE.Matrix4().fromArray(pose);
      const forward = new THREE.Vector3(0, 0, -1).transformDirection(matrix);
      this.camera.position.setFromMatrixPosition(matrix);
      const depth = Math.max(0.1, forward.dot((this.centre || new THREE.Vector3()).clone().sub(this.camera.position)));
      this.camera.fov = fov;
      this.controls.target.copy(this.camera.position).addScaledVector(forward, depth);
      this.camera.lookAt(this.controls.target);
      this.from.value = String(index);
      this.draw();
    }

    async use(action) {
      await this.activate();
      await action();
    }

    async activate() {
      if (active === this) return;
      const canvas = sharedRenderer().domElement;
      if (active) active.leave();
      active = this;
      this.screen.querySelector(".still")?.remove();
      this.screen.append(canvas);
      canvas.setAttribute("aria-label", `${this.root.getAttribute("aria-label")}; drag to turn, scroll to zoom, arrow keys move`);
      this.controls = new THREE.OrbitControls(this.camera, canvas);
      this.controls.target.copy(this.target || this.centre || new THREE.Vector3());
      this.controls.listenToKeyEvents(canvas);
      this.controls.addEventListener("change", () => this.draw());
      this.controls.addEventListener("start", () => (this.from.value = ""));
      this.watcher = new ResizeObserver(() => this.resize());
      this.watcher.observe(this.screen);
      this.resize();
      await this.showSurface();
    }

    leave() {
      this.target = this.controls.target.clone();
      this.controls.dispose();
      this.watcher.disconnect();
      this.screen.append(make("img", { className: "still", alt: "", src: renderer.domElement.toDataURL() }));
    }

    resize() {
      const { clientWidth, clientHeight } = this.screen;
      if (!clientWidth || !clientHeight) return;
      renderer.setSize(clientWidth, clientHeight, false);
      this.camera.aspect = clientWidth / clientHeight;
      this.draw();
    }

    async load(facts) {
      if (!this.loaded.has(facts.id)) {
        const { scene } = await new THREE.GLTFLoader().parseAsync(await bytesOf(facts.id), "");
        let mesh = null;
        scene.traverse((object) => (mesh = object.isMesh ? object : mesh));
        const { geometry, material } = mesh;
        const found = { geometry, map: material.map, facts };
        if (geometry.attributes.color) found.colours = linearColours(geometry.attributes.color);
        if (geometry.attributes._error) found.errors = errorColours(geometry.attributes._error, this.facts, facts.end);
        geometry.computeBoundingSphere();
        this.loaded.set(facts.id, found);
      }
      return this.loaded.get(facts.id);
    }

    async showSurface() {
      const facts = this.facts.surfaces[this.select.value || 0];
      const found = await this.load(facts);
      const first = !this.radius;
      const sphere = found.geometry.boundingSphere;
      this.centre = sphere.center.clone();
      this.radius = sphere.radius;
      const looks = [facts.look, ...["shape", "normals"].filter((name) => name !== facts.look), ...(facts.judged ? ["error"] : [])];
      const chosen = this.look.querySelector(":checked")?.value;
      this.look.replaceChildren(this.look.querySelector("legend"));
      for (const name of looks) {
        const input = make("input", { type: "radio", name: `${this.facts.anchor}-look`, value: name });
        input.checked = name === (looks.includes(chosen) ? chosen : looks[0]);
        input.addEventListener("change", () => this.use(() => this.paint(found)));
        this.look.append(make("label", {}, input, LOOKS[name]));
      }
      this.paint(found);
      this.message.hidden = true;
      if (first) this.placeCamera();
      this.root.dataset.state = "ready";
    }

    paint(found) {
      const look = this.look.querySelector(":checked").value;
      const srgb = (rgb) => new THREE.Color().setRGB(...rgb, THREE.SRGBColorSpace);
      const plain = (options) => new THREE.MeshStandardMaterial({ roughness: 0.95, metalness: 0, ...options });
      const { geometry } = found;
      const colours = look === "error" ? found.errors : look === "colours" ? found.colours : null;
      if (colours) geometry.setAttribute("color", colours);
      else geometry.deleteAttribute("color");
      const front = {
        texture: () => new THREE.MeshBasicMaterial({ map: found.map }),
        colours: () => new THREE.MeshBasicMaterial({ vertexColors: true }),
        shape: () => plain({ color: srgb(this.facts.front) }),
        normals: () => new THREE.MeshNormalMaterial(),
        error: () => plain({ vertexColors: true }),
      }[look]();
      // Seams of a decimated texture do not close to the last hair: inner sides like outer ones there, so that none shows.
      const back = found.map ? front.clone() : plain({ color: srgb(this.facts.back) });
      back.side = THREE.BackSide;
      this.surface.children.forEach((mesh) => mesh.material.dispose());
      this.surface.clear();
      this.surface.add(new THREE.Mesh(geometry, front), new THREE.Mesh(geometry, back));
      this.legend.hidden = look !== "error";
      const bar = make("i");
      bar.style.background = `linear-gradient(to right, ${this.facts.stops.join(", ")})`;
      const { end, unit } = found.facts;
      this.legend.replaceChildren("0", bar, `≥ ${end} ${unit === "%" ? "% of the object radius" : unit}; grey: not evaluated`);
      this.root.dataset.look = look;
      this.draw();
    }

    draw() {
      if (active !== this || this.waiting) return;
      this.waiting = true;
      requestAnimationFrame(() => {
        this.waiting = false;
        if (active !== this) return;
        this.frusta.visible = this.showCameras.checked && this.from.value === "";
        this.camera.updateProjectionMatrix();
        renderer.render(this.scene, this.camera);
      });
    }
  }

  const start = (root) => {
    try {
      const viewer = new Viewer(root);
      const fail = (error) => {
        viewer.message.hidden = false;
        viewer.message.textContent = `No 3D view: ${error.message}. Pictures of the surface are below.`;
        root.dataset.state = "failed";
      };
      const activate = () => viewer.activate().catch(fail);
      new IntersectionObserver((entries) => entries.some((e) => e.isIntersecting) && activate(), { threshold: 0.5 }).observe(root);
      viewer.screen.addEventListener("pointerdown", activate);
    } catch (error) {
      root.querySelector(".message").textContent = `No 3D view: ${error.message}. Pictures of the surface are below.`;
      root.dataset.state = "failed";
    }
  };

  document.querySelectorAll(".viewer").forEach(start);
})();
