// Block weights as texts: "1,0,0.5,..." by number, "NONE,OUT03-OUT06=1" by name -> the value of each block, and back. It is
// what lbw/tags/weights.py and named_weights.py make of them.

const lbwBlockWeights = (() => {
    const STARTS = new Map([["ALL", "1"], ["NONE", "0"]]);
    const LARGEST_NUMBER = 1e6;

    class Unreadable extends Error {}

    const isNumber = text => /^\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*$/i.test(text) && Math.abs(Number(text)) <= LARGEST_NUMBER;
    const isValue = text => isNumber(text) || ["R", "U", "X"].includes(text) || (/^X[+-]/.test(text) && isNumber(text.slice(2)));
    const isForAll = text => STARTS.has(text) || isValue(text);
    const isSame = (one, other) => one === other || (isNumber(one) && isNumber(other) && Number(one) === Number(other));
    const isByName = text => text.includes("=") || isForAll(text.trim());
    const split = text => text.trim().split(/\s*,\s*|\s+/);
    const lettersOf = label => label.replace(/\d+$/, "");

    // "BASE IN00-IN02" -> ["BASE", "IN00", "IN01", "IN02"].
    function spelled(ranges) {
        return ranges.split(" ").filter(range => range).flatMap(range => {
            const [first, last = first] = range.split("-");
            if (first === last) return [first];
            const letters = lettersOf(first);
            const [from, to] = [first, last].map(label => Number(label.slice(letters.length)));
            return Array.from({length: to - from + 1}, (_, index) => `${letters}${String(from + index).padStart(2, "0")}`);
        });
    }

    // ["BASE", "IN00", "IN01", "IN02"] -> ["BASE", "IN00-IN02"], where the labels are neighbours in `order`.
    function ranges(labels, order) {
        const runs = [];
        order.forEach((label, index) => {
            if (!labels.includes(label)) return;
            const before = order[index - 1];
            if (labels.includes(before) && lettersOf(before) === lettersOf(label)) runs.at(-1).push(label);
            else runs.push([label]);
        });
        return runs.map(run => (run.length === 1 ? run[0] : `${run[0]}-${run.at(-1)}`));
    }

    const mapped = (texts, change) => Object.fromEntries(Object.entries(texts).map(([name, text]) => [name, change(text)]));

    // The families as the page brings them, with lists of labels instead of ranges.
    const families = data => data.map(family => ({
        ...family,
        labels: spelled(family.labels),
        vocabulary: spelled(family.vocabulary),
        groups: mapped(family.groups, spelled),
        modules: mapped(family.modules, spelled),
        layouts: family.layouts.map(({names, fill}) => ({names: spelled(names), fill})),
    }));

    const membersOf = (family, name) => family.groups[name] ?? [name];
    const layoutOf = (family, length) => family.layouts.find(layout => layout.names.length === length);
    const largestLayout = family => family.layouts.reduce((most, layout) => (layout.names.length > most.names.length ? layout : most));
    const lengthsOf = family => family.layouts.map(layout => layout.names.length).join(", ");

    // The values of a layout -> {label: value} for all labels of the family.
    function spread(family, layout, values) {
        const known = Object.fromEntries(layout.names.flatMap((name, index) => membersOf(family, name).map(label => [label, values[index]])));
        return Object.fromEntries(family.labels.map(label => [label, known[label] ?? layout.fill]));
    }

    const gathered = (family, layout, blocks) => layout.names.map(name => blocks[membersOf(family, name)[0]]);

    // The labels whose values a layout cannot say, because it has none for them, or one for several.
    function unsaid(family, layout, blocks) {
        const said = spread(family, layout, gathered(family, layout, blocks));
        return Object.keys(blocks).filter(name => !(name in said) || !isSame(blocks[name], said[name]));
    }

    function byNumber(family, layout, blocks) {
        return unsaid(family, layout, blocks).length ? null : gathered(family, layout, blocks).join(",");
    }

    // It begins with the value that most labels have.
    function byName(family, blocks) {
        const {labels} = family;
        const withValue = value => labels.filter(label => blocks[label] === value);
        const values = [...new Set(labels.map(label => blocks[label]))];
        const start = values.reduce((most, value) => (withValue(value).length > withValue(most).length ? value : most));
        const items = values.filter(value => value !== start).map(value => `${ranges(withValue(value), labels).join(" ")}=${value}`);
        items.push(...Object.keys(blocks).filter(name => family.encoders.includes(name)).map(name => `${name}=${blocks[name]}`));
        if (!items.length) return start;
        return [{0: "NONE", 1: "ALL"}[start] ?? start, ...items].join(",");
    }

    // The names that a word means, also those that only other models of the family have.
    function find(family, text) {
        const word = text.trim().toUpperCase();
        if (Object.hasOwn(family.groups, word)) return family.groups[word];
        if ([...family.vocabulary, ...family.encoders, family.only_encoder, ...family.absent].includes(word)) return word ? [word] : [];
        const [, letters, digits] = /^([A-Z_]+?)[._]?(\d{1,3})$/.exec(word) ?? [];
        if (!letters) return [];
        if (Object.hasOwn(family.modules, letters)) return family.modules[letters].slice(Number(digits), Number(digits) + 1);
        const label = `${letters}${String(Number(digits)).padStart(2, "0")}`;
        return family.vocabulary.includes(label) ? [label] : [];
    }

    function blockRange(family, word) {
        const [, first, last] = /^([^-]*)(?:-(.*))?$/s.exec(word);
        const ends = last === undefined ? [first] : [first, last];
        const found = ends.map(end => find(family, end));
        if (found.some(names => !names.length)) {
            const unknown = !found[0].length && first ? first : ends.at(-1);
            const groups = Object.keys(family.groups).filter(name => family.groups[name].every(label => family.labels.includes(label)));
            const expected = [...ranges(family.labels, family.labels), ...family.encoders, ...groups];
            throw new Unreadable(`'${unknown || word}' is not a block of this ${family.title} model; expected ${expected.join(", ")}`);
        }
        if (ends.length === 1) return found[0];
        const places = found.flat().map(name => family.vocabulary.indexOf(name));
        if (places.includes(-1)) throw new Unreadable(`the range '${word}' has a text encoder at one end; expected blocks, or BASE`);
        return family.vocabulary.slice(Math.min(...places), Math.max(...places) + 1);
    }

    // "OUT03-OUT06 M00", "NOT BASE" -> labels and encoders, and the words for what the model does not have.
    function select(family, text) {
        const words = text.trim().split(/\s+/).filter(word => word);
        const isInverted = words[0]?.toUpperCase() === "NOT";
        const has = name => family.labels.includes(name) || family.encoders.includes(name);
        const found = new Set();
        const meant = name => (name === family.only_encoder ? "BASE" : name);
        const missing = [];
        for (const word of words.slice(isInverted ? 1 : 0)) {
            const names = blockRange(family, word).map(meant).filter(has);
            names.forEach(name => found.add(name));
            if (!names.length) missing.push(word);
        }
        if (!isInverted) return {names: [...family.labels, ...family.encoders].filter(name => found.has(name)), missing};
        const rest = family.labels.filter(label => !found.has(label));
        if (!rest.includes("BASE") || !family.encoders.some(name => found.has(name))) return {names: rest, missing};
        const others = family.encoders.filter(name => !found.has(name));
        return {names: [...rest.filter(label => label !== "BASE"), ...others], missing};
    }

    // Gives names a value. What is for all encoders takes away what one of them has of its own.
    function assign(family, blocks, names, value) {
        if (names.includes("BASE")) family.encoders.forEach(name => delete blocks[name]);
        for (const name of names) blocks[name] = value;
    }

    const notAValue = text => `'${text}' is not a value; expected a number, R, U, X, X+n or X-n`;

    function checkValue(text, where) {
        if (!isValue(text)) throw new Unreadable(`${where}: ${notAValue(text)}`);
    }

    function readByName(text, family, presets, within) {
        const items = text.split(",").map(item => item.trim());
        let blocks = Object.fromEntries(family.labels.map(label => [label, "1"]));
        const missing = [];
        if (!items[0].includes("=")) {
            const start = items.shift();
            if (isForAll(start)) assign(family, blocks, family.labels, STARTS.get(start) ?? start);
            else blocks = readPreset(start, family, presets, within).blocks;
        }
        for (const item of items) {
            const [, words, value] = /^([^=]*)=(.*)$/s.exec(item)?.map(part => part.trim()) ?? [];
            if (!words) throw new Unreadable(`'${item}' is not blocks=value, as OUT03-OUT06=1`);
            checkValue(value, words);
            const selected = select(family, words);
            missing.push(...selected.missing);
            assign(family, blocks, selected.names, value);
        }
        return {blocks, missing};
    }

    function readByNumber(text, family) {
        const items = split(text);
        if (!isValue(items[0]) && !text.includes(",")) throw new Unreadable(`'${text.trim()}' is neither a value nor a preset's name`);
        const layout = layoutOf(family, items.length);
        if (!layout) throw new Unreadable(`${items.length} values; expected ${lengthsOf(family)} on this ${family.title} model`);
        items.forEach((item, index) => checkValue(item, `value ${index + 1} of ${items.length}`));
        return {blocks: spread(family, layout, items), missing: [], layout};
    }

    // Of several lines of a preset the last one that is for the family counts.
    function readLines(lines, family, presets, within) {
        let failure;
        for (const line of lines.toReversed()) {
            try {
                return readLine(line, family, presets, within);
            } catch (error) {
                if (!(error instanceof Unreadable)) throw error;
                failure ??= error;
            }
        }
        throw failure;
    }

    function readPreset(name, family, presets, within) {
        if (!presets.has(name)) throw new Unreadable(`'${name}' is neither a value nor a preset's name`);
        if (within.includes(name)) throw new Unreadable(`${name}: a preset that begins with itself`);
        try {
            return readLines(presets.get(name), family, presets, [...within, name]);
        } catch (error) {
            if (!(error instanceof Unreadable)) throw error;
            if (STARTS.has(name)) return readByName(name, family, presets, within);
            throw new Unreadable(`${name}: ${error.message}`);
        }
    }

    const readLine = (text, family, presets, within) =>
        (isByName(text) ? readByName(text, family, presets, within) : readByNumber(text, family));

    // What a text means on models of a family: {blocks, missing, layout}, where the layout is that of a vector by number.
    // `presets` are the lines of each, by name.
    function read(text, family, presets) {
        const name = text.trim();
        return presets.has(name) ? readPreset(name, family, presets, []) : readLine(text, family, presets, []);
    }

    return {
        Unreadable, families, isNumber, isValue, notAValue, isByName, split, lettersOf, ranges, membersOf, layoutOf, largestLayout,
        spread, gathered, unsaid, byNumber, byName, select, read,
    };
})();
