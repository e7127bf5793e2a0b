// Curves: "0@0,1@0.5,0@1" as points that can be dragged. Positions are shares of the pass, from 0 to 1.

const lbwCurve = (() => {
    const SHAPES = ["linear", "step", "cosine"];
    const TARGETS = [
        ["strength", "Strength"], ["unet", "Strength in the U-Net alone"], ["hr", "Strength in the hires pass"],
    ];
    const PRESETS = {
        "Linear": [[0, 0], [1, 1]],
        "Fade in": [[0, 0], [0.3, 1]],
        "Fade out": [[0.7, 1], [1, 0]],
        "Pulse": [[0, 0], [0.5, 1], [1, 0]],
    };
    const WEIGHT_STEP = 0.05;
    const SHARE_STEP = 0.01;
    const LARGEST_WEIGHT = 10;
    // The margins leave room for a point between the drawing's edge and the labels.
    const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [420, 176, 36, 14, 14, 24];

    const round = (value, digits) => Number(value.toFixed(digits));
    const isNumber = text => text.trim() !== "" && Number.isFinite(Number(text));
    const clamp = (value, least, most) => Math.min(Math.max(value, least), most);

    // A share is cut and not rounded: a curve of steps must not change one step later than it is drawn.
    const shareText = share => String(Math.floor(round(share, 9) * 10000) / 10000);

    // Steps are numbers above 1, and 0 and 1 beside such; where there are none, the curve has to be one of shares.
    function format(points, steps, inSteps) {
        const places = points.map(point => Math.round(point.share * (steps - 1)));
        const useSteps = inSteps && places.some(place => place > 1);
        return points.map((point, index) => `${round(point.weight, 4)}@${useSteps ? places[index] : shareText(point.share)}`).join(",");
    }

    // The points of a curve, or of a single weight; null for what cannot be drawn.
    function parse(text, steps) {
        const [first, ...rest] = text.split(/[@~]/);
        const pairs = [];
        let weight = first;
        for (const part of rest) {
            const [, position, further] = /^([^,;]*)[,;]?(.*)$/.exec(part);
            pairs.push([weight, position.trim()]);
            weight = further;
        }
        if (weight.trim() !== "") pairs.push([weight, "100%"]);
        if (!rest.length) pairs.unshift([weight, "0"]);
        if (pairs.some(([value, position]) => !isNumber(value) || !isNumber(position.replace(/%$/, "")))) return null;
        const numbers = pairs.filter(([, position]) => !position.endsWith("%")).map(([, position]) => Number(position));
        const inSteps = numbers.some(number => number > 1);
        const last = Math.max(steps - 1, ...(inSteps ? numbers : [1]));
        const shareOf = position => {
            if (position.endsWith("%")) return parseFloat(position) / 100;
            return inSteps ? Number(position) / last : Number(position);
        };
        const points = pairs.map(([value, position]) => ({weight: Number(value), share: shareOf(position)}));
        if (points.some(point => point.share < 0 || point.share > 1)) return null;
        return {points: points.sort((a, b) => a.share - b.share), inSteps, steps: Math.ceil(last) + 1};
    }

    // The line through the points, as [share, weight] pairs, constant before the first and behind the last.
    function line(points, shape) {
        const found = [[0, points[0].weight]];
        points.forEach((point, index) => {
            const before = points[index - 1];
            if (before && shape === "step") found.push([point.share, before.weight]);
            if (before && shape === "cosine") {
                for (let part = 0; part < 1; part += 1 / 16) {
                    const eased = (1 - Math.cos(Math.PI * part)) / 2;
                    found.push([before.share + (point.share - before.share) * part, before.weight + (point.weight - before.weight) * eased]);
                }
            }
            found.push([point.share, point.weight]);
        });
        return [...found, [1, points.at(-1).weight]];
    }

    function build({frame, steps: stepsOfTab, read, write}) {
        const {element, button, svg, setAttributes} = lbwDom;
        let points = [];
        let selected = null;
        let range = [0, 1];

        const said = lbwDom.said();
        const choice = (label, options) => element("select", {ariaLabel: label},
            ...options.map(([value, text]) => element("option", {value, textContent: text})));
        const target = choice("What the curve is of", TARGETS);
        const shape = choice("Between the points", SHAPES.map(name => [name, name]));
        const steps = element("input", {type: "number", min: 2, max: 150, value: stepsOfTab(), ariaLabel: "Steps", className: "lbw-amount"});
        const snap = element("input", {type: "checkbox"});
        const position = element("input", {type: "text", ariaLabel: "Position", autocomplete: "off"});
        const weight = element("input", {type: "text", ariaLabel: "Weight", autocomplete: "off"});
        const text = element("input", {type: "text", ariaLabel: "Curve", autocomplete: "off", className: "lbw-curve-text"});

        const grid = svg("g", {class: "lbw-grid"});
        const path = svg("polyline", {class: "lbw-line"});
        const handles = svg("g");
        const drawing = svg("svg", {viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "lbw-curve-drawing", role: "group", "aria-label": "Points of the curve"}, grid, path, handles);

        const stepCount = () => clamp(Math.round(Number(steps.value)) || 2, 2, 1000);
        const xOf = share => LEFT + share * (WIDTH - LEFT - RIGHT);
        const yOf = value => HEIGHT - BOTTOM - (value - range[0]) / (range[1] - range[0]) * (HEIGHT - TOP - BOTTOM);
        const unit = () => (snap.checked ? 1 / (stepCount() - 1) : SHARE_STEP);
        const snapped = share => clamp(Math.round(share / unit()) * unit(), 0, 1);
        const placeText = point => (snap.checked ? String(Math.round(point.share * (stepCount() - 1))) : shareText(point.share));

        function drawGrid() {
            const ticks = [range[0], (range[0] + range[1]) / 2, range[1]];
            const across = ticks.map(value => svg("line", {x1: LEFT, x2: WIDTH - RIGHT, y1: yOf(value), y2: yOf(value)}));
            const labels = ticks.map(value => svg("text", {x: LEFT - 12, y: yOf(value) + 3, "text-anchor": "end"}, round(value, 2)));
            const count = stepCount();
            const every = snap.checked && count <= 60 ? 1 / (count - 1) : 0.25;
            const down = [];
            for (let share = 0; share <= 1 + 1e-9; share += every) down.push(svg("line", {x1: xOf(share), x2: xOf(share), y1: TOP, y2: HEIGHT - BOTTOM}));
            for (const share of [0, snap.checked ? Math.round((count - 1) / 2) / (count - 1) : 0.5, 1]) {
                const words = snap.checked ? `step ${Math.round(share * (count - 1))}` : `${share * 100} %`;
                labels.push(svg("text", {x: xOf(share), y: HEIGHT - 2, "text-anchor": share === 1 ? "end" : share ? "middle" : "start"}, words));
            }
            grid.replaceChildren(...across, ...down, ...labels);
        }

        function draw() {
            points.sort((a, b) => a.share - b.share);
            const weights = points.map(point => point.weight);
            range = [Math.min(0, ...weights), Math.max(1, ...weights)];
            drawGrid();
            path.setAttribute("points", line(points, shape.value).map(([share, value]) => `${xOf(share)},${yOf(value)}`).join(" "));
            points.forEach((point, index) => {
                point.handle ??= makeHandle(point);
                setAttributes(point.handle, {
                    cx: xOf(point.share), cy: yOf(point.weight), class: point === selected ? "lbw-selected" : "",
                    "aria-label": `Point ${index + 1} of ${points.length}: weight ${round(point.weight, 4)} at ${snap.checked ? "step " : ""}${placeText(point)}`,
                });
            });
            const wanted = points.map(point => point.handle);
            if (wanted.length !== handles.children.length || wanted.some((handle, index) => handle !== handles.children[index])) {
                const focused = document.activeElement;
                handles.replaceChildren(...wanted);
                if (wanted.includes(focused)) focused.focus();
            }
            position.value = selected ? placeText(selected) : "";
            weight.value = selected ? String(round(selected.weight, 4)) : "";
            position.disabled = weight.disabled = !selected;
            text.value = format(points, stepCount(), snap.checked);
        }

        function select(point) {
            if (selected === point) return;
            selected = point;
            draw();
        }

        function makeHandle(point) {
            const handle = svg("circle", {r: 6, tabindex: 0, role: "button"});
            handle.addEventListener("focus", () => select(point));
            handle.addEventListener("keydown", event => onKey(event, point));
            handle.addEventListener("pointerdown", event => {
                event.stopPropagation();
                drag(event, point);
            });
            return handle;
        }

        function move(point, share, value) {
            point.share = snapped(share);
            point.weight = clamp(round(value, 4), -LARGEST_WEIGHT, LARGEST_WEIGHT);
            draw();
        }

        function remove(point) {
            if (points.length === 1) {
                said.textContent = "A curve has at least one point.";
                return;
            }
            const index = points.indexOf(point);
            points.splice(index, 1);
            selected = points[Math.min(index, points.length - 1)];
            draw();
            selected.handle.focus({preventScroll: true});
        }

        function add(share, value) {
            const point = {share: snapped(share), weight: value};
            points.push(point);
            selected = point;
            draw();
            return point;
        }

        function onKey(event, point) {
            const moves = {
                ArrowLeft: [-unit(), 0], ArrowRight: [unit(), 0], ArrowUp: [0, WEIGHT_STEP], ArrowDown: [0, -WEIGHT_STEP],
            };
            if (event.key in moves) {
                const [along, up] = moves[event.key];
                move(point, point.share + along, point.weight + up);
            } else if (event.key === "Delete" || event.key === "Backspace") {
                remove(point);
            } else {
                return;
            }
            event.preventDefault();
        }

        // Where the pointer is, in shares and weights; the range stays what it was when it was pressed.
        function placeOf(event) {
            const box = drawing.getBoundingClientRect();
            const [x, y] = [(event.clientX - box.left) / box.width * WIDTH, (event.clientY - box.top) / box.height * HEIGHT];
            const share = (x - LEFT) / (WIDTH - LEFT - RIGHT);
            const value = range[0] + (HEIGHT - BOTTOM - y) / (HEIGHT - TOP - BOTTOM) * (range[1] - range[0]);
            return [clamp(share, 0, 1), round(clamp(Math.round(value / WEIGHT_STEP) * WEIGHT_STEP, ...range), 4)];
        }

        function drag(event, point) {
            if (event.button !== 0) return;
            event.preventDefault();
            point.handle.focus({preventScroll: true});
            drawing.setPointerCapture(event.pointerId);
            const follow = moved => move(point, ...placeOf(moved));
            drawing.addEventListener("pointermove", follow);
            for (const end of ["pointerup", "pointercancel"]) {
                drawing.addEventListener(end, () => drawing.removeEventListener("pointermove", follow), {once: true});
            }
        }

        drawing.addEventListener("pointerdown", event => {
            if (event.button === 0) drag(event, add(...placeOf(event)));
        });
        // The second press of the two has selected the point; a pointer that is captured clicks on the drawing.
        drawing.addEventListener("dblclick", () => remove(selected));

        // The middle of the widest gap, on the line.
        function addInGap() {
            const ends = [0, ...points.map(point => point.share), 1];
            const widths = ends.slice(1).map((end, index) => end - ends[index]);
            const index = widths.indexOf(Math.max(...widths));
            const [before, after] = [points[index - 1] ?? points[0], points[index] ?? points.at(-1)];
            add((ends[index] + ends[index + 1]) / 2, round((before.weight + after.weight) / 2, 4)).handle.focus();
        }

        function use(made) {
            points = made;
            selected = null;
            draw();
        }

        function take(written, from) {
            const found = parse(written, stepCount());
            if (!found) {
                said.textContent = `${written}: cannot be drawn; expected weight@position pairs such as 0@0,1@0.5,0@1`;
                return;
            }
            steps.value = found.inSteps ? found.steps : steps.value;
            snap.checked = found.inSteps || (snap.checked && !written.includes("@"));
            said.textContent = from;
            use(found.points);
        }

        function readTag() {
            const found = read(target.value);
            if (!found) {
                said.textContent = "There is no LoRA tag in the prompt.";
                return;
            }
            shape.value = SHAPES.includes(found.shape) ? found.shape : SHAPES[0];
            take(found.text, `Read from ${found.name}.`);
        }

        function writeTag() {
            said.textContent = write({[target.value]: text.value, curve: shape.value === SHAPES[0] ? "" : shape.value});
        }

        const selectedIn = (input, change) => input.addEventListener("change", () => {
            if (selected && isNumber(input.value)) change(Number(input.value));
            draw();
        });
        selectedIn(position, value => move(selected, snap.checked ? value / (stepCount() - 1) : value, selected.weight));
        selectedIn(weight, value => move(selected, selected.share, value));
        text.addEventListener("change", () => take(text.value, ""));
        shape.addEventListener("change", draw);
        steps.addEventListener("change", draw);
        snap.addEventListener("change", () => {
            if (snap.checked) steps.value = stepsOfTab();
            points.forEach(point => { point.share = snapped(point.share); });
            draw();
        });

        const labelled = (...parts) => element("label", {className: "lbw-group"}, ...parts);
        frame.replaceChildren(
            element("div", {className: "lbw-tools"}, target, shape, labelled(snap, "Snap to steps"), labelled("Steps", steps)),
            element("div", {className: "lbw-tools"},
                ...Object.entries(PRESETS).map(([name, made]) => button(name, () => use(made.map(([share, value]) => ({share: snapped(share), weight: value}))))),
                button("Add a point", addInGap), button("Remove the point", () => selected && remove(selected))),
            drawing,
            element("div", {className: "lbw-tools"}, labelled("Position", position), labelled("Weight", weight)),
            element("div", {className: "lbw-tools"}, text, button("Read from the tag", readTag), button("Write into the tag", writeTag)),
            said,
        );
        use(PRESETS.Linear.map(([share, value]) => ({share, weight: value})));
        if (read(target.value)?.text.includes("@")) readTag();
    }

    return {build, parse, format};
})();
