// Curves as texts: "0@0,1@50%" -> points, and back; where points are on an axis, and how the line runs between them. It is
// what lbw/tags/curves.py and positions.py make of them. Nothing in this file touches the page.

const lbwCurves = (() => {
    const SHAPES = ["linear", "step", "cosine"];
    const MOST_POINTS = 150;
    const LARGEST_NUMBER = 1e6;
    const LONGEST_POSITION = 46;
    const POSITION = /^(\d+(?:\.\d*)?|\.\d+)\s*(%|sigma)?$/;
    const SHARE_STEP = 0.01;
    // The noise levels of a usual schedule, for whoever knows no sampler yet.
    const [FIRST_LEVEL, LAST_LEVEL, RHO] = [14.6146, 0.0292, 7];
    // Of the axis of noise levels, which is logarithmic down to the last level, and linear from there to 0.
    const LOGARITHMIC = 0.94;
    const LEVEL_TICKS = [1e5, 1e4, 1000, 100, 50, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1];
    // Between two labels of it; the first one begins at its tick, the others have theirs in the middle.
    const [FIRST_GAP, LEAST_GAP] = [0.15, 0.08];
    const PARTS_OF_A_BEND = 48;

    const round = (value, digits) => Number(value.toFixed(digits));
    const significant = (value, digits) => Number(value.toPrecision(digits));
    const clamp = (value, least, most) => Math.min(Math.max(value, least), most);
    const isCurve = text => /[@~]/.test(text);

    const fail = message => { throw new lbwBlockWeights.Unreadable(message); };

    // [value, position] of each keyframe; the position of a last value without one is the end.
    function split(text) {
        const [first, ...rest] = text.split(/[@~]/);
        const pairs = [];
        let value = first;
        for (const part of rest) {
            const [, position, further] = /^([^,;]*)[,;]?([^]*)$/.exec(part);
            pairs.push([value.trim(), position.trim()]);
            value = further;
        }
        if (value.trim()) pairs.push([value.trim(), "100%"]);
        return pairs;
    }

    const MIXED = "noise levels and steps in one curve; expected only noise levels, or none";

    // The number and the sign of a position.
    function signed(text) {
        const [, number, sign = ""] = (text.length <= LONGEST_POSITION && POSITION.exec(text)) || [];
        const isPosition = number !== undefined && Number(number) <= (sign === "%" ? 100 : LARGEST_NUMBER);
        const expected = "expected a share of the pass (0.5 or 50%), a step above 1 (12) or a noise level (2.5sigma)";
        return isPosition ? {text, value: Number(number), sign} : fail(`'${text}' is not a position; ${expected}`);
    }

    // Where the keyframes of one curve are, [{value, unit}]. From 0 to 1 a number is a share of the pass, above 1 a step; in
    // a curve that has steps, 1 is a step, too.
    function places(texts) {
        const found = texts.map(signed);
        const hasSteps = found.some(({value, sign}) => sign === "" && value > 1);
        const isStep = ({text, value}) => value > 1 || (hasSteps && [0, 1].includes(value) && !text.includes("."));
        const made = found.map(each => {
            if (each.sign === "sigma") return {value: each.value, unit: "sigma"};
            if (each.sign === "%") return {value: each.value / 100, unit: "share"};
            return {value: each.value, unit: isStep(each) ? "step" : "share"};
        });
        if (new Set(made.map(({unit}) => unit === "sigma")).size > 1) fail(MIXED);
        return made;
    }

    // A position that is typed for one point of a curve of a unit; a number alone is of the curve's own.
    function positionOf(text, unit, steps) {
        const {value, sign} = signed(text);
        if (sign && (sign === "sigma") !== (unit === "sigma")) fail(MIXED);
        if (unit === "sigma") return value;
        return clamp(sign === "%" ? value / 100 : unit === "step" ? value / (steps - 1) : value, 0, 1);
    }

    function weightOf(text) {
        const expected = "expected weight@position pairs such as 0@0,1@0.5,0@1";
        return lbwBlockWeights.isNumber(text) ? Number(text) : fail(`cannot be drawn; ${expected}`);
    }

    // Block weights as they stand in a tag.
    function blocksOf(text) {
        return text && !/[@~:<>]/.test(text) ? text : fail("block weights have a name or values, and no @ ~ : < or > in them");
    }

    // Noise levels fall with time.
    const byTime = unit => (one, other) => (unit === "sigma" ? other.at - one.at : one.at - other.at);

    // The points of a curve, or of what is the same all the time: {points: [{at, value}], unit, steps}. `at` is a noise
    // level, or else a share of the pass of `steps` steps. `valueOf` makes a value of its text; `names` are values, too,
    // whatever signs they have.
    function parse(text, steps, valueOf, names = []) {
        const pairs = isCurve(text) && !names.includes(text.trim()) ? split(text) : [[text.trim(), "0"], [text.trim(), "100%"]];
        if (pairs.length > MOST_POINTS) fail(`${pairs.length} keyframes; expected at most ${MOST_POINTS}`);
        const values = pairs.map(([value]) => valueOf(value));
        const found = places(pairs.map(([, position]) => position));
        const unit = ["sigma", "step"].find(each => found.some(place => place.unit === each)) ?? "share";
        const last = Math.max(steps - 1, ...found.filter(place => place.unit === "step").map(place => place.value));
        const points = found.map((place, index) => ({at: place.unit === "step" ? place.value / last : place.value, value: values[index]}));
        return {points: points.sort(byTime(unit)), unit, steps: Math.ceil(last) + 1};
    }

    // A share is cut and not rounded: a curve of steps must not change one step later than it is drawn.
    const shareText = share => String(Math.floor(round(share, 9) * 10000) / 10000);
    const levelText = level => `${round(significant(level, 6), 6)}sigma`;
    const valueText = value => (typeof value === "number" ? String(round(value, 4)) : value);

    // Steps are numbers above 1, and 0 and 1 beside such; where there are none, the curve has to be one of shares.
    function format(points, unit, steps) {
        const stepOf = at => Math.round(at * (steps - 1));
        const hasSteps = points.some(({at}) => stepOf(at) > 1);
        const textOf = {
            share: shareText, sigma: levelText, step: at => (hasSteps ? stepOf(at) : shareText(stepOf(at) / (steps - 1))),
        }[unit];
        return points.map(({at, value}) => `${valueText(value)}@${textOf(at)}`).join(",");
    }

    const rooted = level => level ** (1 / RHO);
    const levelAt = share => (rooted(FIRST_LEVEL) + (rooted(LAST_LEVEL) - rooted(FIRST_LEVEL)) * share) ** RHO;
    const shareAt = level => clamp((rooted(level) - rooted(FIRST_LEVEL)) / (rooted(LAST_LEVEL) - rooted(FIRST_LEVEL)), 0, 1);

    // Where a point of one unit is in another one, by the usual schedule.
    function converted(at, from, to) {
        if ((from === "sigma") === (to === "sigma")) return at;
        return to === "sigma" ? levelAt(at) : shareAt(at);
    }

    const evenly = count => Array.from({length: count}, (_, index) => index / (count - 1));

    const shareAxis = () => ({
        placeOf: at => at, atOf: place => place,
        snapped: at => clamp(Math.round(at / SHARE_STEP) * SHARE_STEP, 0, 1),
        moved: (at, by) => at + by * SHARE_STEP,
        textOf: shareText, said: shareText,
        lines: evenly(5), labels: [0, 0.5, 1].map(place => [place, `${place * 100} %`]),
    });

    function stepAxis(steps) {
        const last = steps - 1;
        const textOf = at => String(Math.round(at * last));
        const said = at => `step ${textOf(at)}`;
        const snapped = at => clamp(Math.round(at * last) / last, 0, 1);
        return {
            placeOf: snapped, atOf: place => place,
            snapped,
            moved: (at, by) => at + by / last,
            textOf, said,
            lines: evenly(steps <= 60 ? steps : 5), labels: [0, Math.round(last / 2) / last, 1].map(place => [place, said(place)]),
        };
    }

    function levelAxis(highest) {
        const span = Math.log(highest / LAST_LEVEL);
        function placeOf(level) {
            return level < LAST_LEVEL ? 1 - (1 - LOGARITHMIC) * level / LAST_LEVEL : LOGARITHMIC * Math.log(highest / level) / span;
        }
        function atOf(place) {
            return place > LOGARITHMIC ? LAST_LEVEL * (1 - place) / (1 - LOGARITHMIC) : highest * Math.exp(-span * place / LOGARITHMIC);
        }
        const ticks = [highest];
        for (const level of LEVEL_TICKS) {
            const gap = ticks.length === 1 ? FIRST_GAP : LEAST_GAP;
            if (level < highest && placeOf(level) - placeOf(ticks.at(-1)) > gap) ticks.push(level);
        }
        const labels = [...ticks, LAST_LEVEL, 0].map(level => [placeOf(level), String(significant(level, level === LAST_LEVEL ? 1 : 3))]);
        return {
            placeOf, atOf,
            snapped: level => round(significant(clamp(level, 0, highest), 3), 4),
            moved: (level, by) => atOf(clamp(placeOf(level) + by * SHARE_STEP, 0, 1)),
            textOf: levelText, said: levelText,
            lines: labels.map(([place]) => place), labels,
        };
    }

    // The axis of positions of a unit, along which a `place` is from 0 to 1. `snapped` is the nearest position that the
    // pointer and the keys go to, `moved` the next one; `labels` are [place, text], and `said` is what a position is called.
    function axisOf(unit, steps, highest = FIRST_LEVEL) {
        const axis = {share: shareAxis, step: () => stepAxis(steps), sigma: () => levelAxis(Math.max(highest, FIRST_LEVEL))}[unit]();
        return {...axis, unit};
    }

    // What part of the change is done after a part of the way, below 1.
    const EASE = {linear: part => part, step: () => 0, cosine: part => (1 - Math.cos(Math.PI * part)) / 2};

    // The weight at a position; it is linear in shares and in noise levels.
    function valueAt(points, shape, unit, at) {
        const index = points.findLastIndex(point => byTime(unit)(point, {at}) <= 0);
        const [before, after] = [points[index], points[index + 1]];
        if (!before || !after) return (before ?? after).value;
        return before.value + (after.value - before.value) * EASE[shape]((at - before.at) / (after.at - before.at));
    }

    // How far the change from one point to the next one is at places between them, as [place, part] with parts from 0 to 1.
    function parts(before, after, shape, axis) {
        const [start, end] = [before, after].map(point => axis.placeOf(point.at));
        if (shape === "step" || start === end) return [[start, 0], [end, 0], [end, 1]];
        const isStraight = shape === "linear" && axis.unit !== "sigma";
        const inside = evenly((isStraight ? 0 : PARTS_OF_A_BEND) + 2).slice(1, -1).map(part => {
            const place = start + (end - start) * part;
            return [place, EASE[shape]((axis.atOf(place) - axis.atOf(start)) / (axis.atOf(end) - axis.atOf(start)))];
        });
        return [[start, 0], ...inside, [end, 1]];
    }

    // The line through the points, as [place, value] pairs, constant before the first and behind the last.
    function line(points, shape, axis) {
        const between = points.slice(1).flatMap((after, index) => {
            const before = points[index];
            const change = after.value - before.value;
            return parts(before, after, shape, axis).map(([place, part]) => [place, before.value + change * part]);
        });
        return [[0, points[0].value], [axis.placeOf(points[0].at), points[0].value], ...between, [1, points.at(-1).value]];
    }

    return {
        SHAPES, MOST_POINTS, LARGEST_NUMBER, isCurve, split, places, positionOf, parse, weightOf, blocksOf, format, byTime, converted, axisOf, valueAt,
        parts, line,
    };
})();
