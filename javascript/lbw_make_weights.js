// Make Weights: a slider for each block, a picture of the model coloured by weight, and a text box that holds the weights.

const lbwMakeWeights = (() => {
    const LOWEST = -1;
    const HIGHEST = 1.5;
    const FORMS = {shorter: "shorter of both", number: "by number", name: "by name"};
    const [WIDTH, HEIGHT, GUTTER, GAP] = [34, 15, 38, 5];

    const isUnet = family => family.labels.includes("M00");

    // Neighbours that are of one row of a transformer, D00 to D18, or of none: [{letters, labels}].
    function partsOf(family, labels) {
        const parts = [];
        for (const label of labels) {
            const letters = lbwBlockWeights.lettersOf(label);
            const row = letters !== label && letters in family.groups ? letters : "";
            if (parts.at(-1)?.letters !== row) parts.push({letters: row, labels: []});
            parts.at(-1).labels.push(label);
        }
        return parts;
    }

    function exampleOf(family) {
        if (family.labels.includes("IN04")) return "IN04-OUT05";
        const {labels} = partsOf(family, family.labels).reduce((most, part) => (part.labels.length > most.labels.length ? part : most));
        return `${labels[4]}-${labels[9]}`;
    }

    // The U of the U-Net, two blocks a level.
    function placesInUnet({labels}) {
        const depth = labels.filter(label => label.startsWith("IN")).length;
        const levels = Math.ceil(depth / 2);
        const places = labels.map(label => {
            const number = Number(label.slice(-2));
            if (label === "BASE") return {label, x: levels, y: 0};
            if (label === "M00") return {label, x: levels, y: depth - 1};
            if (label.startsWith("IN")) return {label, x: Math.floor(number / 2), y: number};
            return {label, x: levels * 2 - Math.floor((depth - 1 - number) / 2), y: depth - 1 - number};
        }).map(({label, x, y}) => ({label, x: x * WIDTH, y: y * HEIGHT}));
        return {places, headings: [], width: (levels * 2 + 1) * WIDTH, height: depth * HEIGHT};
    }

    // A band for each row, with ten blocks a line, so that the column is the last digit.
    function placesInBands(family) {
        const places = [];
        const headings = [];
        let y = 0;
        for (const {letters, labels} of partsOf(family, family.labels)) {
            const [first, last] = [labels[0], labels.at(-1)].map(label => label.slice(letters.length));
            if (letters) headings.push({text: `${letters} ${first}-${last}`, y});
            labels.forEach((label, index) => places.push({label, x: GUTTER + index % 10 * WIDTH, y: y + Math.floor(index / 10) * HEIGHT}));
            y += Math.ceil(labels.length / 10) * HEIGHT + GAP;
        }
        return {places, headings, width: GUTTER + 10 * WIDTH, height: y - GAP};
    }

    // Blocks that no field has the value of are drawn as outlines.
    function picture(family, hasField, onPick) {
        const {svg} = lbwDom;
        const {places, headings, width, height} = isUnet(family) ? placesInUnet(family) : placesInBands(family);
        const drawing = svg("svg", {viewBox: `0 0 ${width} ${height}`, class: "lbw-picture", role: "img", translate: "no"});
        drawing.append(...headings.map(({text, y}) => svg("text", {x: 1, y: y + HEIGHT / 2 + 0.5, class: "lbw-heading"}, text)));
        const shapes = {};
        for (const {label, x, y} of places) {
            const box = svg("rect", {x: 1, y: 1, width: WIDTH - 2, height: HEIGHT - 2, rx: 2});
            const text = svg("text", {x: WIDTH / 2, y: HEIGHT / 2 + 0.5}, label);
            const title = svg("title");
            const group = svg("g", {transform: `translate(${x} ${y})`}, box, text, title);
            if (hasField(label)) group.addEventListener("click", () => onPick(label));
            else group.setAttribute("class", "lbw-missing");
            drawing.append(group);
            shapes[label] = {box, title, text};
        }
        return {drawing, paint(blocks) {
            for (const [label, {box, title, text}] of Object.entries(shapes)) {
                box.style.fill = hasField(label) ? lbwStrip.colourOf(blocks[label]) : "";
                text.classList.toggle("lbw-strong", hasField(label) && Math.abs(Number(blocks[label])) > 0.5);
                title.textContent = `${label} ${blocks[label]}`;
            }
            drawing.setAttribute("aria-label", `Blocks by weight: ${lbwStrip.inWords(family, blocks)}`);
        }};
    }

    // A text that takes a value, and nothing else; it may also be R, U or X+0.2.
    function valueText(properties, ifEmpty, show, onChange) {
        const {isValue, notAValue} = lbwBlockWeights;
        const text = lbwDom.element("input", {type: "text", value: ifEmpty, autocomplete: "off", ...properties});
        let last = ifEmpty;
        const set = value => {
            last = text.value = value;
            show(value);
        };
        text.addEventListener("change", () => {
            const typed = text.value.trim() || ifEmpty;
            const isGood = typed === ifEmpty || isValue(typed);
            set(isGood ? typed : last);
            onChange(isGood ? "" : notAValue(typed));
        });
        return {text, set, value: () => last};
    }

    // One block's name, slider and number.
    function blockField(label, onChange) {
        const {element} = lbwDom;
        const {isNumber} = lbwBlockWeights;
        const slider = element("input", {type: "range", min: LOWEST, max: HIGHEST, step: 0.05, value: 0, ariaLabel: label});
        const {text, set, value} = valueText({ariaLabel: `${label} value`}, "0", shown => {
            slider.value = isNumber(shown) ? shown : 0;
            slider.disabled = !isNumber(shown);
        }, onChange);
        slider.addEventListener("input", () => {
            set(String(Number(slider.value)));
            onChange();
        });
        const row = element("div", {className: "lbw-block"}, element("span", {textContent: label, translate: false, ariaHidden: "true"}), slider, text);
        return {row, set, value, focus: () => (slider.disabled ? text : slider).focus()};
    }

    // What vectors have no value for: it is as `otherwise` says where the field is empty.
    function extraField(name, otherwise, onChange) {
        const {text, set, value} = valueText({placeholder: otherwise, className: "lbw-amount"}, "", () => {}, onChange);
        return {row: lbwDom.element("label", {className: "lbw-group"}, name, text), set, value, focus: () => text.focus()};
    }

    // The sliders of one row of a transformer, which fold away.
    function band(labels, rows, onSet) {
        const {element, button} = lbwDom;
        const title = labels.length > 1 ? `${labels[0]}-${labels.at(-1)}` : labels[0];
        const summary = element("summary");
        const amount = element("input", {type: "number", value: "1", step: "0.05", ariaLabel: `Value of ${title}`, className: "lbw-amount"});
        const set = Object.assign(button("Set all", () => onSet(labels, amount.value || "0")), {ariaLabel: `Set all of ${title}`});
        const details = element("details", {}, summary, element("div", {className: "lbw-blocks"}, ...rows));
        return {
            details, frame: element("div", {className: "lbw-band"}, element("span", {className: "lbw-group"}, amount, set), details),
            describe(blocks) {
                const values = new Set(labels.map(label => blocks[label]));
                summary.textContent = `${title}: ${values.size > 1 ? "mixed" : [...values][0]}`;
            },
        };
    }

    // `id` makes an element's id. `presets` lists those of `presetText`, which `setPresetText` puts others in the place of.
    function build({frame, id, families, presets, presetText, setPresetText}) {
        const {element, button, labelled} = lbwDom;
        const {
            Unreadable, isByName, split, membersOf, layoutOf, largestLayout, spread, gathered, unsaid, byNumber, byName, select, read,
        } = lbwBlockWeights;
        let family;
        let layout;
        let extras;
        let fields = {};
        let bands = [];
        let shown;

        const weights = element("textarea", {
            rows: 2, placeholder: "the sliders' values; weights typed or pasted here move the sliders", spellcheck: false,
        });
        const name = element("input", {type: "text", autocomplete: "off"});
        const said = lbwDom.said();
        const added = Object.assign(lbwDom.said(), {id: id("lbw_made_notes")});
        const rows = element("div");
        const frameOfDrawing = element("div", {className: "lbw-drawing"});
        const valueOf = (each, {names}) => `${each.title} ${names.length}`;
        const type = element("select", {ariaLabel: "Weights type"}, ...families.map(each => element("optgroup", {label: each.title, translate: false},
            ...each.layouts.map(item => element("option", {value: valueOf(each, item), textContent: `${item.names.length} (${each.title})`})))));
        const form = element("select", {ariaLabel: "How the weights are written", title: "How the weights are written"},
            ...Object.entries(FORMS).map(([value, textContent]) => element("option", {value, textContent})));
        const copy = lbwPresetMenu.build({
            id: id("lbw_copy"), label: "Copy from preset", none: "Copy from preset", placeholder: "Copy from preset",
            presets, family: () => family, families: () => families, onChoose: onCopy,
        });
        const amount = element("input", {type: "number", value: "1", step: "0.05", ariaLabel: "Value", className: "lbw-amount"});
        const range = element("input", {type: "text", ariaLabel: "Range of blocks", autocomplete: "off"});

        const has = (item, each, label) => item.names.some(part => membersOf(each, part).includes(label));
        const extrasOf = each => [
            ...each.encoders, ...each.labels.filter(label => !each.layouts.some(item => has(item, each, label))),
        ];

        // The value of each label, and of encoders that have one of their own.
        const current = () => {
            const blocks = spread(family, layout, layout.names.map(part => fields[part].value()));
            for (const extra of extras.filter(each => fields[each].value())) blocks[extra] = fields[extra].value();
            return blocks;
        };
        const paint = () => {
            const blocks = current();
            shown.paint(blocks);
            bands.forEach(each => each.describe(blocks));
        };
        const publish = (message = "") => {
            const [number, named] = [byNumber(family, layout, current()), byName(family, current())];
            const shorter = number !== null && number.length <= named.length ? number : named;
            weights.value = {number: number ?? named, name: named, shorter}[form.value];
            const isRefused = form.value === "number" && number === null;
            said.textContent = message || (isRefused ? `${unsaid(family, layout, current()).join(" ")}: by name only` : "");
            paint();
        };
        const openAround = part => {
            const details = fields[part].row.closest("details");
            if (details) details.open = true;
        };
        const show = blocks => {
            gathered(family, layout, blocks).forEach((value, index) => fields[layout.names[index]].set(value));
            const own = unsaid(family, layout, blocks);
            for (const extra of extras) fields[extra].set(own.includes(extra) ? blocks[extra] : "");
            if (extras.some(extra => own.includes(extra))) openAround(extras[0]);
            paint();
        };
        const setAll = (names, value) => {
            for (const each of names) fields[each].set(value);
            if (names.includes("BASE")) family.encoders.filter(each => !names.includes(each)).forEach(each => fields[each].set(""));
            publish();
        };
        const pick = label => {
            const part = label in fields ? label : layout.names.find(each => membersOf(family, each).includes(label));
            openAround(part);
            fields[part].focus();
        };

        function drawRows() {
            const parts = isUnet(family) ? [{letters: "", labels: layout.names}] : partsOf(family, layout.names);
            bands = [];
            rows.replaceChildren(...parts.map(({letters, labels}) => {
                const made = labels.map(label => fields[label].row);
                if (!letters) return element("div", {className: "lbw-blocks"}, ...made);
                bands.push(band(labels, made, setAll));
                return bands.at(-1).frame;
            }));
            if (bands.length) bands[0].details.open = true;
            if (extras.length) {
                const summary = element("summary", {}, element("span", {textContent: "By name only:"}), ` ${extras.join(" ")}`);
                const made = element("div", {className: "lbw-tools"}, ...extras.map(each => fields[each].row));
                rows.append(element("details", {className: "lbw-extras"}, summary, made));
            }
        }

        function use(newFamily, newLayout) {
            const before = family ? current() : {};
            const isOther = newFamily !== family;
            [family, layout, extras] = [newFamily, newLayout, extrasOf(newFamily)];
            type.value = valueOf(family, layout);
            range.placeholder = exampleOf(family);
            fields = Object.fromEntries([
                ...layout.names.map(part => [part, blockField(part, publish)]),
                ...extras.map(each => [each, extraField(each, family.encoders.includes(each) ? "BASE" : layout.fill, publish)]),
            ]);
            drawRows();
            shown = picture(family, label => label in fields || has(layout, family, label), pick);
            frameOfDrawing.replaceChildren(shown.drawing);
            const kept = spread(family, layout, layout.names.map(part => before[membersOf(family, part)[0]] ?? "0"));
            if (!isOther) for (const extra of extras.filter(each => each in before)) kept[extra] = before[extra];
            show(kept);
        }

        // A text that was read moves the sliders. One by name keeps their layout, if that can say it.
        function take(meant, {blocks, missing, layout: given}) {
            const fits = meant === family && unsaid(family, layout, blocks).every(each => extras.includes(each));
            const wanted = given ?? (fits ? layout : largestLayout(meant));
            if (meant !== family || wanted !== layout) use(meant, wanted);
            show(blocks);
            return missing.length ? `${missing.join(" ")}: left out, which this ${family.title} model does not have` : "";
        }

        function attempt(action) {
            try {
                return action();
            } catch (error) {
                if (!(error instanceof Unreadable)) throw error;
                return {failure: error.message};
            }
        }

        // Lines of equal names belong together.
        const lines = () => new Map(presets().map(({name: each, entry}) => [each, entry.split("\n")]));
        const others = () => families.filter(each => each !== family);

        function onTyped() {
            const text = weights.value;
            said.textContent = "";
            if (!text.trim()) return;
            const known = lines();
            const isVector = !isByName(text) && !known.has(text.trim());
            const ofLength = isVector && [family, ...others()].find(each => layoutOf(each, split(text).length));
            const meant = ofLength || family;
            const found = attempt(() => read(text, meant, known));
            if (found.failure) {
                const other = others().find(each => !attempt(() => read(text, each, known)).failure);
                said.textContent = `${found.failure}${other ? `; ${other.title} models have it` : ""}`;
            } else {
                said.textContent = take(meant, found);
            }
        }

        function onCopy() {
            const known = lines();
            const texts = known.get(copy.value);
            if (!texts) return;
            const pairs = [
                [copy.value, family], ...texts.toReversed().flatMap(text => [family, ...others()].map(each => [text, each])),
            ];
            const tried = pairs.map(([text, each]) => [each, attempt(() => read(text, each, known))]);
            const good = tried.find(([, found]) => !found.failure);
            if (good) publish(take(...good));
            else said.textContent = `${copy.value}: ${tried[0][1].failure}`;
        }

        function setRange() {
            const found = attempt(() => {
                const {names} = select(family, range.value);
                const meant = [...layout.names, ...extras].filter(each => membersOf(family, each).every(label => names.includes(label)));
                if (!meant.length) throw new Unreadable(`${range.value || "no block"}: expected blocks of this layout, such as ${range.placeholder}`);
                return meant;
            });
            if (found.failure) said.textContent = found.failure;
            else setAll(found, amount.value || "0");
        }

        async function add(isSaved) {
            const {answer, said: failure} = await lbwServer.ask("add", {text: presetText(), weights: weights.value, name: name.value});
            if (answer?.text) await setPresetText(answer.text, isSaved);
            added.textContent = failure ?? answer.said;
        }

        function addButton(text, buttonId, isSaved) {
            const made = Object.assign(button(text, () => add(isSaved)), {id: id(buttonId)});
            made.classList.toggle("lbw-primary", isSaved);
            return made;
        }

        form.addEventListener("change", () => publish());
        type.addEventListener("change", () => {
            const chosen = families.find(each => each.layouts.some(item => valueOf(each, item) === type.value));
            use(chosen, chosen.layouts.find(item => valueOf(chosen, item) === type.value));
            publish();
        });
        range.addEventListener("keydown", event => event.key === "Enter" && setRange());
        weights.addEventListener("input", onTyped);

        frame.replaceChildren(
            labelled("Weights", weights, id("lbw_made")),
            element("div", {className: "lbw-tools lbw-name-row"}, labelled("Identifier", name, id("lbw_made_name")),
                addButton("Add to presets", "lbw_add", false), addButton("Add to presets and Save", "lbw_add_save", true)),
            added,
            element("div", {className: "lbw-tools"}, type, form, copy.frame),
            element("div", {className: "lbw-tools"},
                button("Set all 0", () => setAll(layout.names, "0")), button("Set all 1", () => setAll(layout.names, "1")),
                element("span", {className: "lbw-group"}, amount, button("Set all", () => setAll(layout.names, amount.value || "0"))),
                element("span", {className: "lbw-group"}, range, button("Set range", setRange))),
            said, frameOfDrawing, rows,
        );
        use(families[0], layoutOf(families[0], 17));
    }

    return {build};
})();
