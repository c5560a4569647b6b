// Sorting and filtering of tables, and the slider that compares two pictures. The page is complete without it.
"use strict";

(() => {
  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };

  // A row and what belongs to it are one <tbody>, so that they move together.
  const keyOf = (body, column) => {
    const cell = body.rows[0].cells[column];
    const data = cell.querySelector("data");
    if (data) return Number(data.value);
    return cell.classList.contains("none") ? NaN : cell.textContent.trim();
  };

  const compareKeys = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), undefined, { numeric: true });
  };

  const sortBy = (table, header) => {
    const column = header.cellIndex;
    const first = header.dataset.better === "1" ? "descending" : "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const order = header.getAttribute("aria-sort") === first ? other : first;
    const sign = order === "ascending" ? 1 : -1;
    const keyed = [...table.tBodies].map((body) => ({ body, key: keyOf(body, column) }));
    const missing = (key) => typeof key === "number" && Number.isNaN(key);
    keyed.sort((a, b) => missing(a.key) - missing(b.key) || sign * compareKeys(a.key, b.key) || 0);
    keyed.forEach(({ body }) => table.insertBefore(body, table.tFoot));
    for (const cell of header.parentNode.cells) cell.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", order);
  };

  const makeSortable = (table) => {
    for (const header of table.tHead.rows[0].cells) {
      const button = make("button", { type: "button", title: "Sort" });
      button.append(...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => sortBy(table, header));
    }
  };

  const addFilter = (table) => {
    if (table.tBodies.length < 7) return;
    const field = make("input", { type: "search" });
    const label = make("label", {}, "Filter rows ", field);
    const holder = make("p", { className: "filter" }, label);
    table.parentNode.before(holder);
    field.addEventListener("input", () => {
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const body of table.tBodies) {
        const text = body.textContent.toLowerCase();
        body.hidden = !words.every((word) => text.includes(word));
      }
    });
  };

  const picturesOf = (view) =>
    [...view.querySelectorAll("figure")].map((figure) => {
      const image = figure.querySelector("img");
      return { image, label: figure.querySelector("figcaption").textContent };
    });

  const fill = (select, labels, chosen) => {
    select.replaceChildren(...labels.map((text, value) => make("option", { value, textContent: text })));
    select.value = String(Math.max(0, Math.min(chosen, labels.length - 1)));
  };

  const startCompare = (box) => {
    const views = [...box.nextElementSibling.querySelectorAll(".view")];
    const find = (selector) => box.querySelector(selector);
    const [stage, range, bar] = [find(".stage"), find("input"), find(".bar")];
    const [view, left, right] = [find("select.view"), find("select.left"), find("select.right")];
    const sides = [
      { select: left, image: find("img.a"), tag: find(".tag.a") },
      { select: right, image: find("img.b"), tag: find(".tag.b") },
    ];

    const split = () => {
      const share = Number(range.value);
      sides[0].image.style.clipPath = `inset(0 ${100 - share}% 0 0)`;
      sides[1].image.style.clipPath = `inset(0 0 0 ${share}%)`;
      bar.style.left = `${share}%`;
    };
    const show = () => {
      const pictures = picturesOf(views[view.value]);
      const first = pictures[0].image;
      stage.style.aspectRatio = `${first.getAttribute("width")} / ${first.getAttribute("height")}`;
      for (const side of sides) {
        const picture = pictures[side.select.value];
        side.image.src = picture.image.src;
        side.image.alt = picture.image.alt;
        side.tag.textContent = picture.label;
      }
      split();
    };
    const open = () => {
      const labels = picturesOf(views[view.value]).map((picture) => picture.label);
      fill(left, labels, Number(left.value || 0));
      fill(right, labels, Number(right.value || 1));
      views.forEach((element, index) => (element.hidden = index !== Number(view.value)));
      show();
    };

    // A picture beside the slider goes to its right side.
    for (const element of views) {
      picturesOf(element).forEach(({ image, label }, index) => {
        const button = make("button", { type: "button", title: `Compare: ${label}` });
        image.replaceWith(button);
        button.append(image);
        button.addEventListener("click", () => {
          right.value = String(index);
          show();
        });
      });
    }
    fill(view, views.map((element) => element.dataset.name), 0);
    view.addEventListener("change", open);
    left.addEventListener("change", show);
    right.addEventListener("change", show);
    range.addEventListener("input", split);
    box.hidden = false;
    open();
  };

  document.querySelectorAll("table[data-sortable]").forEach((table) => {
    makeSortable(table);
    addFilter(table);
  });
  document.querySelectorAll(".compare").forEach(startCompare);
})();
