// Make Weights: one slider a block, a picture of the model coloured by weight, and a text box that holds the vector.

const lbwMakeWeights = (() => {
    const LOWEST = -1;
    const HIGHEST = 1.5;

    const isNumber = text => text.trim() !== "" && Number.isFinite(Number(text));

    // Blue below 0, grey at 0, orange above; a value that is not known yet (R, U, X) has a colour of its own.
    function colourOf(value) {
        if (!isNumber(value)) return "var(--lbw-unknown)";
        const share = Math.min(Math.abs(Number(value)), 1) * 100;
        return `color-mix(in srgb, ${Number(value) < 0 ? "var(--lbw-negative)" : "var(--lbw-positive)"} ${share}%, var(--lbw-zero))`;
    }

    // Where a block stands: the U of the U-Net, two blocks a level, or rows of twelve for Flux.
    function positions(labels) {
        if (!labels.includes("M00")) return labels.map((label, index) => ({label, column: index % 12, row: Math.floor(index / 12)}));
        const depth = labels.filter(label => label.startsWith("IN")).length;
        const levels = Math.ceil(depth / 2);
        return labels.map(label => {
            const number = Number(label.slice(-2));
            if (label === "BASE") return {label, column: levels, row: 0};
            if (label === "M00") return {label, column: levels, row: depth - 1};
            if (label.startsWith("IN")) return {label, column: Math.floor(number / 2), row: number};
            return {label, column: levels * 2 - Math.floor((depth - 1 - number) / 2), row: depth - 1 - number};
        });
    }

    // `all` are the model's blocks; those that the vector has no value for are drawn as outlines.
    function picture(all, labels, onPick) {
        const {svg} = lbwDom;
        const places = positions(all);
        const [width, height] = [34, 15];
        const columns = Math.max(...places.map(place => place.column)) + 1;
        const rows = Math.max(...places.map(place => place.row)) + 1;
        const drawing = svg("svg", {viewBox: `0 0 ${columns * width} ${rows * height}`, class: "lbw-picture", role: "img"});
        const shapes = {};
        for (const {label, column, row} of places) {
            const box = svg("rect", {x: 1, y: 1, width: width - 2, height: height - 2, rx: 2});
            const text = svg("text", {x: width / 2, y: height / 2 + 0.5}, label);
            const title = svg("title", {}, `${label} 0`);
            const group = svg("g", {transform: `translate(${column * width} ${row * height})`}, box, text, title);
            if (labels.includes(label)) group.addEventListener("click", () => onPick(label));
            else group.setAttribute("class", "lbw-missing");
            drawing.append(group);
            shapes[label] = {box, title, text};
        }
        return {drawing, paint(values) {
            for (const [label, value] of Object.entries(values)) {
                shapes[label].box.style.fill = colourOf(value);
                shapes[label].text.classList.toggle("lbw-strong", Math.abs(Number(value)) > 0.5);
                shapes[label].title.textContent = `${label} ${value}`;
            }
            const on = Object.entries(values).filter(([, value]) => Number(value) !== 0).map(([label, value]) => `${label} ${value}`);
            drawing.setAttribute("aria-label", `Blocks by weight: ${on.join(", ") || "all 0"}`);
        }};
    }

    // One block's name, slider and number. The text is what counts: it may also be R, U or X+0.2.
    function blockRow(label, onChange) {
        const {element} = lbwDom;
        const slider = element("input", {type: "range", min: LOWEST, max: HIGHEST, step: 0.05, value: 0, ariaLabel: label});
        const text = element("input", {type: "text", value: "0", ariaLabel: `${label} value`, autocomplete: "off"});
        const show = value => {
            text.value = value;
            slider.value = isNumber(value) ? value : 0;
            slider.disabled = !isNumber(value);
        };
        slider.addEventListener("input", () => {
            text.value = String(Number(slider.value));
            onChange();
        });
        text.addEventListener("change", () => {
            show(text.value.trim());
            onChange();
        });
        const row = element("div", {className: "lbw-block"}, element("span", {textContent: label, ariaHidden: "true"}), slider, text);
        return {row, slider, show, value: () => text.value.trim() || "0"};
    }

    // "IN04-OUT05 M00" -> the labels of the layout that it names; null for one that it does not have.
    function labelsIn(text, labels, order) {
        const found = [];
        for (const word of text.trim().split(/[\s,]+/)) {
            const [first, last = first] = word.toUpperCase().split("-");
            const [from, to] = [order.indexOf(first), order.indexOf(last)];
            if (from < 0 || to < from) return null;
            found.push(...order.slice(from, to + 1));
        }
        return labels.filter(label => found.includes(label));
    }

    // `id` makes an element's id. `buttons` and `notes` are gradio's, and are given places in the frame.
    function build({frame, id, buttons, notes, presets}) {
        const {element, button, labelled} = lbwDom;
        const layouts = JSON.parse(frame.dataset.layouts);
        // Ranges count through the blocks that a short layout leaves out; 12 and 20 values are for SDXL.
        const MODEL = {12: 20, 17: 26};
        const labelsOf = length => layouts.find(item => item.labels.length === length).labels;
        const modelOf = labels => labelsOf(MODEL[labels.length] ?? labels.length);
        let layout;
        let blocks = {};
        let shown;

        const vector = element("textarea", {
            rows: 2, placeholder: "the sliders' values; a vector typed or pasted here moves the sliders", spellcheck: false,
        });
        const name = element("input", {type: "text", autocomplete: "off"});
        const said = lbwDom.said();
        const rows = element("div", {className: "lbw-blocks"});
        const frameOfDrawing = element("div", {className: "lbw-drawing"});
        const select = element("select", {ariaLabel: "Weights type"},
            ...layouts.map(item => element("option", {value: String(item.labels.length), textContent: item.name})));
        const copy = element("select", {ariaLabel: "Copy from preset"});
        const amount = element("input", {type: "number", value: "1", step: "0.05", ariaLabel: "Value", className: "lbw-amount"});
        const range = element("input", {type: "text", placeholder: "IN04-OUT05", ariaLabel: "Range of blocks", autocomplete: "off"});

        const current = () => Object.fromEntries(layout.labels.map(label => [label, blocks[label].value()]));
        const publish = () => {
            shown.paint(current());
            vector.value = Object.values(current()).join(",");
        };
        const fill = values => {
            for (const [label, value] of Object.entries(values)) blocks[label].show(value);
            shown.paint(current());
        };
        const useLayout = length => {
            const before = layout ? current() : {};
            layout = layouts.find(item => item.labels.length === length);
            select.value = String(length);
            blocks = Object.fromEntries(layout.labels.map(label => [label, blockRow(label, publish)]));
            rows.replaceChildren(...layout.labels.map(label => blocks[label].row));
            shown = picture(modelOf(layout.labels), layout.labels, label => blocks[label].slider.focus());
            frameOfDrawing.replaceChildren(shown.drawing);
            fill(Object.fromEntries(layout.labels.map(label => [label, before[label] ?? "0"])));
        };
        const take = text => {
            const items = text.split(",").map(item => item.trim());
            if (!layouts.some(item => item.labels.length === items.length)) {
                said.textContent = text.trim() ? `${items.length} values; expected ${layouts.map(item => item.labels.length).join(", ")}` : "";
                return false;
            }
            said.textContent = "";
            if (items.length !== layout.labels.length) useLayout(items.length);
            fill(Object.fromEntries(layout.labels.map((label, index) => [label, items[index]])));
            return true;
        };
        const setAll = (labels, value) => {
            fill(Object.fromEntries(labels.map(label => [label, value])));
            publish();
        };
        const listPresets = () => {
            const chosen = copy.value;
            copy.replaceChildren(element("option", {value: "", textContent: "Copy from preset"}),
                ...presets().map(({name, entry}) => element("option", {value: entry, textContent: name})));
            copy.value = chosen;
        };
        copy.addEventListener("focus", listPresets);
        copy.addEventListener("pointerdown", listPresets);
        copy.addEventListener("change", () => copy.value && take(copy.value) && publish());
        select.addEventListener("change", () => {
            useLayout(Number(select.value));
            publish();
        });
        const setRange = () => {
            const labels = labelsIn(range.value, layout.labels, modelOf(layout.labels));
            said.textContent = labels ? "" : `${range.value}: expected blocks of this layout, such as ${layout.labels[1]}-${layout.labels.at(-1)}`;
            if (labels) setAll(labels, amount.value || "0");
        };
        range.addEventListener("keydown", event => event.key === "Enter" && setRange());

        vector.addEventListener("input", () => take(vector.value));

        frame.replaceChildren(
            labelled("Weights", vector, id("lbw_made")),
            element("div", {className: "lbw-tools lbw-name-row"}, labelled("Identifier", name, id("lbw_made_name")), ...buttons),
            notes,
            element("div", {className: "lbw-tools"}, select, copy),
            element("div", {className: "lbw-tools"},
                button("Set all 0", () => setAll(layout.labels, "0")), button("Set all 1", () => setAll(layout.labels, "1")),
                element("span", {className: "lbw-group"}, amount, button("Set all", () => setAll(layout.labels, amount.value || "0")),
                    range, button("Set range", setRange))),
            said, frameOfDrawing, rows,
        );
        useLayout(17);
        listPresets();
    }

    return {build};
})();
