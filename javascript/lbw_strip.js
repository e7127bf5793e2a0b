// Block weights as a strip: a cell for each block, coloured by its weight.

const lbwStrip = (() => {
    const [PITCH, LEAST_PITCH, USUAL_BLOCKS, HEIGHT, BETWEEN] = [7, 3, 26, 12, 2];

    // Blue below 0, grey at 0, orange above; a value that is not known yet (R, U, X) has a colour of its own.
    function colourOf(value) {
        if (!lbwBlockWeights.isNumber(value)) return "var(--lbw-unknown)";
        const share = Math.min(Math.abs(Number(value)), 1) * 100;
        return `color-mix(in srgb, ${Number(value) < 0 ? "var(--lbw-negative)" : "var(--lbw-positive)"} ${share}%, var(--lbw-zero))`;
    }

    // "BASE OUT03-OUT06 1, M00 0.5": the blocks that are not at 0.
    function inWords(family, blocks) {
        const names = [...family.labels, ...family.encoders];
        const values = [...new Set(Object.values(blocks))].filter(value => Number(value) !== 0);
        const on = values.map(value => `${lbwBlockWeights.ranges(names.filter(name => blocks[name] === value), names).join(" ")} ${value}`);
        return on.join(", ") || "all 0";
    }

    // Where the cells begin: a model of many blocks has narrow ones, and those of other letters stand apart.
    function placesOf({labels}) {
        const pitch = Math.max(LEAST_PITCH, Math.min(PITCH, Math.floor(PITCH * USUAL_BLOCKS / labels.length)));
        let x = 0;
        const places = labels.map((label, index) => {
            if (index && lbwBlockWeights.lettersOf(label) !== lbwBlockWeights.lettersOf(labels[index - 1])) x += BETWEEN;
            x += pitch;
            return x - pitch;
        });
        return {places, size: pitch - 1, width: x};
    }

    // Cells of one value are one shape, because a menu may have hundreds of strips.
    function draw(family, blocks) {
        const {svg} = lbwDom;
        const {places, size, width} = placesOf(family);
        const shapes = new Map();
        family.labels.forEach((label, index) => {
            const value = blocks[label];
            shapes.set(value, `${shapes.get(value) ?? ""}M${places[index]} 0h${size}v${HEIGHT}h-${size}z`);
        });
        const drawing = svg("svg", {viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, preserveAspectRatio: "none", class: "lbw-strip", "aria-hidden": "true"});
        for (const [value, d] of shapes) {
            const shape = svg("path", {d, class: Number(value) === 0 ? "lbw-off" : ""});
            shape.style.fill = colourOf(value);
            drawing.append(shape);
        }
        return drawing;
    }

    return {colourOf, inWords, draw};
})();
