// The drawing of a curve, and what mouse and keyboard do in it. Weights are a line; block weights are a track, in which the
// ones of the next point grow from below over those before them.

const lbwCurveDrawing = (() => {
    const WEIGHT_STEP = 0.05;
    // The margins leave room for a point between the drawing's edge and the labels.
    const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [420, 176, 36, 14, 14, 24];
    // Above the track are its names, in rows.
    const [TRACK, NAME_ROWS, NAME_HEIGHT, NAME_GAP, LONGEST_NAME] = [54, 3, 13, 6, 18];
    const COLOURS = 6;
    const OFF = ["NONE", "0"];

    const round = (value, digits) => Number(value.toFixed(digits));
    const clamp = (value, least, most) => Math.min(Math.max(value, least), most);
    const xOf = place => LEFT + place * (WIDTH - LEFT - RIGHT);
    const upTo = count => Array.from({length: count}, (_, index) => index);
    const coordinates = pairs => pairs.map(pair => pair.join(",")).join(" ");

    const shortened = name => (name.length > LONGEST_NAME ? `${name.slice(0, LONGEST_NAME - 1)}\u2026` : name);

    // Where names are written over their points, [{..., x, row}], of which `isFirst` has the first choice; those that there
    // is no room for are left out.
    function placed(names, axis) {
        const found = [];
        for (const name of names.toSorted((one, other) => other.isFirst - one.isFirst)) {
            const half = name.text.getComputedTextLength() / 2;
            const x = clamp(xOf(axis.placeOf(name.point.at)), half, WIDTH - half);
            const meets = other => Math.abs(other.x - x) < other.half + half + NAME_GAP;
            const row = upTo(NAME_ROWS).find(each => !found.some(other => other.row === each && meets(other)));
            if (row !== undefined) found.push({...name, half, x, row});
        }
        return found;
    }

    // `select`, `move`, `add`, `remove` and `edit` are what the user does to points.
    function build({select, move, add, remove, edit}) {
        const {svg, setAttributes} = lbwDom;
        let axis;
        let isOfBlocks;
        let range = [0, 1];
        let colours = new Map();
        let pressed;

        const grid = svg("g", {class: "lbw-grid"});
        const lines = svg("g");
        const handles = svg("g");
        const drawing = svg("svg", {
            viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "lbw-curve-drawing", role: "group", "aria-label": "Points of the curve",
        }, grid, lines, handles);

        const yOf = value => HEIGHT - BOTTOM - (value - range[0]) / (range[1] - range[0]) * (HEIGHT - TOP - BOTTOM);

        function drawGrid() {
            const top = isOfBlocks ? TRACK : TOP;
            const down = axis.lines.map(place => svg("line", {x1: xOf(place), x2: xOf(place), y1: top, y2: HEIGHT - BOTTOM}));
            const below = axis.labels.map(([place, text]) => svg("text", {
                x: xOf(place), y: HEIGHT - 2, "text-anchor": place === 1 ? "end" : place ? "middle" : "start",
            }, text));
            const ticks = isOfBlocks ? [] : [range[0], (range[0] + range[1]) / 2, range[1]];
            const across = ticks.map(value => svg("line", {x1: LEFT, x2: WIDTH - RIGHT, y1: yOf(value), y2: yOf(value)}));
            const beside = ticks.map(value => svg("text", {x: LEFT - 12, y: yOf(value) + 3, "text-anchor": "end"}, round(value, 2)));
            grid.replaceChildren(...across, ...down, ...below, ...beside);
        }

        function drawLine(points, shape) {
            const through = lbwCurves.line(points, shape, axis).map(([place, value]) => [xOf(place), yOf(value)]);
            lines.replaceChildren(svg("polyline", {class: "lbw-line", points: coordinates(through)}));
        }

        // The colour of block weights stays as long as a point has them.
        function colourOf(value) {
            if (OFF.includes(value)) return "lbw-track-off";
            if (!colours.has(value)) {
                const taken = [...colours.values()];
                colours.set(value, upTo(COLOURS).find(each => !taken.includes(each)) ?? colours.size % COLOURS);
            }
            return `lbw-track-${colours.get(value)}`;
        }

        function drawTrack(points, selected, shape) {
            colours = new Map([...colours].filter(([value]) => points.some(point => point.value === value)));
            points.forEach(point => colourOf(point.value));
            const bottom = HEIGHT - BOTTOM;
            const box = (from, to, value) => svg("rect", {
                x: xOf(from), y: TRACK, width: xOf(to) - xOf(from), height: bottom - TRACK, class: colourOf(value),
            });
            const [first, last] = [points[0], points.at(-1)];
            const areas = [box(0, axis.placeOf(first.at), first.value), box(axis.placeOf(last.at), 1, last.value)];
            points.slice(1).forEach((after, index) => {
                const before = points[index];
                const [start, end] = [before, after].map(point => axis.placeOf(point.at));
                areas.push(box(start, end, before.value));
                if (before.value === after.value || start === end) return;
                const rising = lbwCurves.parts(before, after, shape, axis)
                    .map(([place, part]) => [xOf(place), bottom - part * (bottom - TRACK)]);
                areas.push(svg("polygon", {points: coordinates([...rising, [xOf(end), bottom]]), class: colourOf(after.value)}));
            });
            const names = points.map(point => ({
                point, isFirst: point === selected,
                text: svg("text", {"text-anchor": "middle", class: point === selected ? "lbw-selected" : "", translate: "no"}, shortened(point.value)),
            }));
            // Their widths are known when they are on the page.
            lines.replaceChildren(...areas, ...names.map(({text}) => text));
            const shown = placed(names, axis);
            const stems = shown.map(({point, text, x, row}) => {
                const y = TRACK - 6 - row * NAME_HEIGHT;
                const at = xOf(axis.placeOf(point.at));
                setAttributes(text, {x, y});
                return svg("line", {x1: at, x2: at, y1: y + 2, y2: bottom, class: "lbw-stem"});
            });
            lines.replaceChildren(...areas, ...stems, ...shown.map(({text}) => text));
        }

        function draw({points, selected, shape, axis: newAxis, isOfBlocks: hasBlocks}) {
            [axis, isOfBlocks] = [newAxis, hasBlocks];
            if (!isOfBlocks) {
                const weights = points.map(point => point.value);
                range = [Math.min(0, ...weights), Math.max(1, ...weights)];
            }
            drawGrid();
            if (isOfBlocks) drawTrack(points, selected, shape);
            else drawLine(points, shape);
            points.forEach((point, index) => {
                point.handle ??= makeHandle(point);
                const what = isOfBlocks ? `block weights ${point.value}` : `weight ${round(point.value, 4)}`;
                setAttributes(point.handle, {
                    cx: xOf(axis.placeOf(point.at)), cy: isOfBlocks ? (TRACK + HEIGHT - BOTTOM) / 2 : yOf(point.value),
                    class: point === selected ? "lbw-selected" : "",
                    "aria-label": `Point ${index + 1} of ${points.length}: ${what} at ${axis.said(point.at)}`,
                });
            });
            const wanted = points.map(point => point.handle);
            const isOther = (handle, index) => handle !== handles.children[index];
            if (wanted.length !== handles.children.length || wanted.some(isOther)) {
                const focused = document.activeElement;
                handles.replaceChildren(...wanted);
                if (wanted.includes(focused)) focused.focus();
            }
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

        function onKey(event, point) {
            const [along, up] = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]}[event.key] ?? [0, 0];
            if (along) move(point, axis.moved(point.at, along), point.value);
            else if (up && !isOfBlocks) move(point, point.at, point.value + up * WEIGHT_STEP);
            else if (event.key === "Delete" || event.key === "Backspace") remove(point);
            else if (event.key === "Enter") edit();
            else return;
            event.preventDefault();
        }

        // Where the pointer is, and the weight there; the range stays what it was when it was pressed.
        function under(event) {
            const box = drawing.getBoundingClientRect();
            const [x, y] = [(event.clientX - box.left) / box.width * WIDTH, (event.clientY - box.top) / box.height * HEIGHT];
            const at = axis.atOf(clamp((x - LEFT) / (WIDTH - LEFT - RIGHT), 0, 1));
            const value = range[0] + (HEIGHT - BOTTOM - y) / (HEIGHT - TOP - BOTTOM) * (range[1] - range[0]);
            return [at, round(clamp(Math.round(value / WEIGHT_STEP) * WEIGHT_STEP, ...range), 4)];
        }

        function drag(event, point) {
            if (event.button !== 0) return;
            pressed = point;
            event.preventDefault();
            point.handle.focus({preventScroll: true});
            drawing.setPointerCapture(event.pointerId);
            const follow = moved => {
                const [at, weight] = under(moved);
                move(point, at, isOfBlocks ? point.value : weight);
            };
            drawing.addEventListener("pointermove", follow);
            for (const end of ["pointerup", "pointercancel"]) {
                drawing.addEventListener(end, () => drawing.removeEventListener("pointermove", follow), {once: true});
            }
        }

        drawing.addEventListener("pointerdown", event => {
            if (event.button !== 0) return;
            pressed = add(...under(event));
            if (pressed) drag(event, pressed);
        });
        // A pointer that is captured clicks on the drawing.
        drawing.addEventListener("dblclick", () => pressed && remove(pressed));

        return {drawing, draw};
    }

    return {build};
})();
