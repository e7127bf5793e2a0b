// Curves: "0@0,1@0.5,0@1" or "NONE@0,OUTD@0.5" as points that can be dragged, beside the text that they are in a tag.

const lbwCurve = (() => {
    const TARGETS = [
        ["strength", "Strength"], ["unet", "Strength in the U-Net alone"], ["hr", "Strength in the hires pass"],
        ["lbw", "Block weights"], ["hrlbw", "Block weights in the hires pass"],
    ];
    const OF_BLOCKS = ["lbw", "hrlbw"];
    const UNITS = [["share", "Shares of the pass"], ["step", "Steps"], ["sigma", "Noise levels"]];
    const PRESETS = {
        "Linear": [[0, 0], [1, 1]],
        "Fade in": [[0, 0], [0.3, 1]],
        "Fade out": [[0.7, 1], [1, 0]],
        "Pulse": [[0, 0], [0.5, 1], [1, 0]],
    };
    const BLOCKS = ["NONE", "ALL"];
    const LARGEST_WEIGHT = 10;

    const round = (value, digits) => Number(value.toFixed(digits));
    const clamp = (value, least, most) => Math.min(Math.max(value, least), most);

    // `id` makes an element's id, `steps` are those of the tab, `presets` are [{name, title}]. `read` and `write` are for
    // the tag at the cursor.
    function build({frame, id, steps: stepsOfTab, presets, read, write}) {
        const {element, button} = lbwDom;
        const {SHAPES, MOST_POINTS} = lbwCurves;
        // A curve of weights and one of block weights, of which one is shown. `highest` is the highest noise level that one had.
        const linear = values => ({
            points: PRESETS.Linear.map(([at, value]) => ({at, value: values[value]})), selected: null, unit: "share", highest: 0,
        });
        const curves = {weights: linear([0, 1]), blocks: linear(BLOCKS)};

        const said = lbwDom.said();
        const choice = (label, options) => element("select", {ariaLabel: label},
            ...options.map(([value, text]) => element("option", {value, textContent: text})));
        const field = (label, properties = {}) => element("input", {type: "text", ariaLabel: label, autocomplete: "off", ...properties});
        const labelled = (...parts) => element("label", {className: "lbw-group"}, ...parts);
        const target = choice("What the curve is of", TARGETS);
        const shape = choice("Between the points", SHAPES.map(name => [name, name]));
        const units = choice("What the positions are", UNITS);
        const steps = element("input", {
            type: "number", min: 2, max: 150, value: stepsOfTab(), ariaLabel: "Steps", className: "lbw-amount",
        });
        const [position, weight] = [field("Position"), field("Weight")];
        const suggestions = element("datalist", {id: id("lbw_curve_presets")});
        const blocks = field("Block weights", {className: "lbw-point-blocks", placeholder: "a preset's name, or values"});
        blocks.setAttribute("list", suggestions.id);
        const text = field("Curve", {className: "lbw-curve-text"});
        const [ofSteps, ofWeight, ofBlocks] = [labelled("Steps", steps), labelled("Weight", weight), labelled("Block weights", blocks)];

        const isOfBlocks = () => OF_BLOCKS.includes(target.value);
        const curve = () => (isOfBlocks() ? curves.blocks : curves.weights);
        const written = () => lbwCurves.format(curve().points, curve().unit, stepCount());
        const stepCount = () => clamp(Math.round(Number(steps.value)) || 2, 2, lbwCurves.LARGEST_NUMBER + 1);
        const axis = () => lbwCurves.axisOf(curve().unit, stepCount(), curve().highest);
        const valueOf = given => (isOfBlocks() ? lbwCurves.blocksOf(given) : lbwCurves.weightOf(given));
        const {drawing, draw: drawPoints} = lbwCurveDrawing.build({
            select, move, add, remove, edit: () => (isOfBlocks() ? blocks : weight).focus(),
        });

        // The message of what cannot be read; "" of what can.
        function attempt(action) {
            try {
                action();
                return "";
            } catch (error) {
                if (!(error instanceof lbwBlockWeights.Unreadable)) throw error;
                return error.message;
            }
        }

        function draw() {
            const {points, selected, unit} = curve();
            points.sort(lbwCurves.byTime(unit));
            drawPoints({points, selected, shape: shape.value, axis: axis(), isOfBlocks: isOfBlocks()});
            units.value = unit;
            [ofSteps.hidden, ofWeight.hidden, ofBlocks.hidden] = [unit !== "step", isOfBlocks(), !isOfBlocks()];
            position.value = selected ? axis().textOf(selected.at) : "";
            weight.value = blocks.value = selected ? String(isOfBlocks() ? selected.value : round(selected.value, 4)) : "";
            position.disabled = weight.disabled = blocks.disabled = !selected;
            text.value = written();
        }

        function select(point) {
            if (curve().selected === point) return;
            curve().selected = point;
            draw();
        }

        const limited = value => (isOfBlocks() ? value : clamp(round(value, 4), -LARGEST_WEIGHT, LARGEST_WEIGHT));

        function set(point, at, value) {
            [point.at, point.value] = [at, limited(value)];
            said.textContent = "";
            draw();
        }

        function move(point, at, value) {
            set(point, axis().snapped(at), value);
        }

        function remove(point) {
            const {points} = curve();
            if (points.length === 1) {
                said.textContent = "A curve has at least one point.";
                return;
            }
            const index = points.indexOf(point);
            points.splice(index, 1);
            curve().selected = points[Math.min(index, points.length - 1)];
            draw();
            curve().selected.handle.focus({preventScroll: true});
        }

        // A point that is added has the weight where the pointer is, or the block weights of the one before it.
        function add(at, value) {
            const {points, unit} = curve();
            if (points.length >= MOST_POINTS) {
                said.textContent = `A curve has at most ${MOST_POINTS} points.`;
                return null;
            }
            const isBefore = other => lbwCurves.byTime(unit)(other, {at}) <= 0;
            const point = {at: axis().snapped(at), value: isOfBlocks() ? (points.findLast(isBefore) ?? points[0]).value : value};
            points.push(point);
            curve().selected = point;
            draw();
            return point;
        }

        // The middle of the widest gap, on the line.
        function addInGap() {
            const {points, unit} = curve();
            const {placeOf, atOf} = axis();
            const ends = [0, ...points.map(point => placeOf(point.at)), 1];
            const widths = ends.slice(1).map((end, index) => end - ends[index]);
            const index = widths.indexOf(Math.max(...widths));
            const at = atOf((ends[index] + ends[index + 1]) / 2);
            add(at, isOfBlocks() ? null : round(lbwCurves.valueAt(points, shape.value, unit, at), 4))?.handle.focus();
        }

        function use(points) {
            Object.assign(curve(), {points, selected: null, highest: Math.max(...points.map(point => point.at))});
            draw();
        }

        function usePreset(made) {
            const values = isOfBlocks() ? BLOCKS : [0, 1];
            use(made.map(([share, value]) => ({at: atOfShare(share), value: values[value]})));
        }

        const atOfShare = share => axis().snapped(lbwCurves.converted(share, "share", curve().unit));

        // Returns whether a text was read.
        function take(given, from) {
            let found;
            const names = isOfBlocks() ? presets().map(({name}) => name) : [];
            const fault = attempt(() => { found = lbwCurves.parse(given, stepCount(), valueOf, names); });
            if (fault) {
                said.textContent = `${given}: ${fault}`;
                return false;
            }
            if (found.unit === "step") steps.value = found.steps;
            if (lbwCurves.isCurve(given)) {
                curve().unit = found.unit;
                use(found.points);
            } else {
                use(found.points.map(({at, value}) => ({at: atOfShare(at), value})));
            }
            const isBetween = ({at}) => Math.abs(at - axis().snapped(at)) > 1e-9;
            const isRounded = curve().unit === "step" && found.points.some(isBetween);
            said.textContent = [from, isRounded ? "Positions between two steps are rounded." : ""].join(" ").trim();
            return true;
        }

        function readTag() {
            const found = read(target.value);
            if (!found || found.text === null) {
                said.textContent = found ? `${found.name}: the tag has no block weights.` : "There is no LoRA tag in the prompt.";
                return;
            }
            shape.value = SHAPES.includes(found.shape) ? found.shape : SHAPES[0];
            take(found.text, `Read from ${found.name}.`);
        }

        function writeTag() {
            if (text.value !== written() && !take(text.value, "")) return;
            said.textContent = write({[target.value]: text.value, curve: shape.value === SHAPES[0] ? "" : shape.value});
        }

        // What is typed for the selected point; what cannot be used is told, and is taken back.
        const typed = (input, change) => input.addEventListener("change", () => {
            const {selected} = curve();
            const given = input.value.trim();
            const fault = selected && given ? attempt(() => change(selected, given)) : "";
            draw();
            if (fault) said.textContent = `${given}: ${fault}`;
        });
        typed(position, (point, given) => {
            const at = lbwCurves.positionOf(given, curve().unit, stepCount());
            curve().highest = Math.max(curve().highest, at);
            set(point, at, point.value);
        });
        typed(blocks, (point, given) => set(point, point.at, valueOf(given)));
        typed(weight, (point, given) => {
            if (!lbwBlockWeights.isNumber(given)) throw new lbwBlockWeights.Unreadable("expected a number");
            set(point, point.at, Number(given));
        });
        text.addEventListener("change", () => take(text.value, ""));
        shape.addEventListener("change", draw);
        steps.addEventListener("change", draw);
        units.addEventListener("change", () => {
            const from = curve().unit;
            Object.assign(curve(), {unit: units.value, highest: 0});
            if (units.value === "step") steps.value = stepsOfTab();
            for (const point of curve().points) point.at = axis().snapped(lbwCurves.converted(point.at, from, units.value));
            draw();
            const isByNoise = [from, units.value].includes("sigma");
            said.textContent = isByNoise ? "The points are where a usual schedule has these noise levels; samplers have their own." : "";
        });
        blocks.addEventListener("focus", () => suggestions.replaceChildren(...presets().map(({name, title}) =>
            element("option", {value: name, textContent: title, translate: false}))));
        target.addEventListener("change", () => {
            draw();
            if (isOfBlocks() && !curve().isSeen) readCurve();
        });
        // What a tag has already is what is drawn first.
        function readCurve() {
            curve().isSeen = true;
            if (lbwCurves.isCurve(read(target.value)?.text ?? "")) readTag();
        }

        frame.replaceChildren(
            element("div", {className: "lbw-tools"}, target, shape, units, ofSteps),
            element("div", {className: "lbw-tools"},
                ...Object.entries(PRESETS).map(([name, made]) => button(name, () => usePreset(made))),
                button("Add a point", addInGap), button("Remove the point", () => curve().selected && remove(curve().selected))),
            drawing,
            element("div", {className: "lbw-tools"}, labelled("Position", position), ofWeight, ofBlocks, suggestions),
            element("div", {className: "lbw-tools"}, text, button("Read from the tag", readTag), button("Write into the tag", writeTag)),
            said,
        );
        draw();
        readCurve();
    }

    return {build};
})();
