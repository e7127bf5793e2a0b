// LoRA tags in a prompt: the text after an argument of a tag was set. Nothing in this file touches the page.

const lbwPrompt = (() => {
    const TAG = /<(lora|lyco|loractl):([^>]+)>/g;

    const isNumber = text => text.trim() !== "" && Number.isFinite(Number(text));

    // A number, or a curve of them: weight@position pairs.
    const isStrength = text => isNumber(text.split(/[@~]/)[0]);

    const KEYS = ["te", "unet", "lbwe", "x", "start", "stop", "step", "curve", "dyn", "hr", "hrte", "hrunet", "hrstart", "hrstop", "hrstep", "end", "begin"];
    const SYNONYMS = {end: "stop", begin: "start"};

    // As the server reads it: an item with exactly one "=" is named, any other is positional; block weights by name, as
    // OUT03-OUT06=1, stand behind a key or alone.
    function keyOf(item) {
        const [text, ...rest] = item.split("=");
        const key = text.trim().toLowerCase();
        if (rest.length && ["lbw", "w", "hrlbw"].includes(key)) return key;
        if (rest.length === 1 && KEYS.includes(key)) return SYNONYMS[key] ?? key;
        return rest.length === 1 && !/[,A-Z]/.test(text) ? key : null;
    }

    // A preset may also stand without a key, behind the numbers.
    function isItemOf(key, item, index) {
        const found = keyOf(item);
        if (key !== "lbw") return found === key;
        return found === "lbw" || found === "w" || (found === null && index > 0 && !isStrength(item));
    }

    function withArgument(items, key, value) {
        const place = items.findIndex((item, index) => isItemOf(key, item, index));
        const kept = items.filter((item, index) => !isItemOf(key, item, index));
        if (value !== "") kept.splice(place < 0 ? kept.length : place, 0, `${key}=${value}`);
        return kept;
    }

    // step=a-b says start and stop at once; setting one of them has to keep the other.
    function withoutStepRange(items) {
        const range = items.map(item => /^step=\s*([^-]*?)\s*-\s*([^-]*?)\s*$/.exec(item)).find(match => match);
        const single = items.map(item => /^step=\s*(\d+)\s*$/.exec(item)).find(match => match);
        const [start, stop] = range ? [range[1], range[2]] : single ? [single[1], String(Number(single[1]) + 1)] : ["", ""];
        let result = items.filter(item => keyOf(item) !== "step");
        for (const [key, value] of [["start", start], ["stop", stop]]) {
            if (value !== "" && !result.some(item => keyOf(item) === key)) result = withArgument(result, key, value);
        }
        return result;
    }

    // The strengths that stand behind the name: of the text encoder, of the U-Net, and the rank.
    const places = items => items.map((item, index) => index).filter(index => index > 0 && keyOf(items[index]) === null && isStrength(items[index]));

    // One strength for text encoder and U-Net, in the place of all that the tag says of them.
    function withStrength(items, value) {
        const kept = items.filter(item => !["te", "unet"].includes(keyOf(item)));
        const [first, second] = places(kept);
        if (first === undefined) kept.splice(1, 0, value);
        else kept[first] = value;
        if (second !== undefined) kept[second] = value;
        return kept;
    }

    function setInTag(body, values) {
        let items = body.split(":");
        if ("start" in values || "stop" in values) items = withoutStepRange(items);
        for (const [key, value] of Object.entries(values)) {
            items = key === "strength" ? withStrength(items, value) : withArgument(items, key, value);
        }
        return items.join(":");
    }

    function tagsIn(text) {
        return [...text.matchAll(TAG)].map(match => ({
            start: match.index, end: match.index + match[0].length, kind: match[1], body: match[2],
        }));
    }

    // The tags that the caret is in, or else the one that it touches, first the one before it.
    function touched(tags, caret) {
        const inside = tags.filter(tag => tag.start < caret && caret < tag.end);
        const beside = tags.find(tag => tag.end === caret) ?? tags.find(tag => tag.start === caret);
        return inside.length || !beside ? inside : [beside];
    }

    // What the tag at the caret, or else the first one, says of a strength (`strength`, `unet` or `hr`), and of its curve:
    // {name, text, shape}; null where there is no tag.
    function getStrength(text, caret, key) {
        const tags = tagsIn(text);
        const tag = touched(tags, caret)[0] ?? tags[0];
        if (!tag) return null;
        const items = tag.body.split(":");
        const named = Object.fromEntries(items.filter(item => keyOf(item) !== null).map(item => item.split("=", 2)));
        const [te, unet = te] = places(items).map(index => items[index]);
        const both = named.unet ?? unet ?? named.te ?? "1";
        return {name: items[0], text: key === "hr" ? named.hr ?? both : both, shape: named.curve ?? ""};
    }

    // Sets arguments, {key: value}, in the tag that the caret is in, or in all tags if it is in none; "" takes one out.
    // `strength` is what stands behind the name without a key. Returns the new text, where the caret belongs in it, and
    // the names of the tags.
    function setArguments(text, caret, values) {
        const tags = tagsIn(text);
        const atCaret = touched(tags, caret);
        const chosen = atCaret.length ? atCaret : tags;
        let result = "";
        let done = 0;
        let newCaret = caret;
        for (const tag of chosen) {
            const replacement = `<${tag.kind}:${setInTag(tag.body, values)}>`;
            result += text.slice(done, tag.start) + replacement;
            done = tag.end;
            if (atCaret.length) newCaret = result.length - (caret < tag.end ? 1 : 0);
            else if (tag.end <= caret) newCaret += replacement.length - (tag.end - tag.start);
        }
        return {text: result + text.slice(done), caret: newCaret, names: chosen.map(tag => tag.body.split(":")[0])};
    }

    return {setArguments, getStrength};
})();
