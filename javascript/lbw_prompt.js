// LoRA tags in a prompt: the text after an argument of a tag was set. Nothing in this file touches the page.

const lbwPrompt = (() => {
    const TAG = /<(lora|lyco|loractl):([^>]+)>/g;

    const isNumber = text => text.trim() !== "" && Number.isFinite(Number(text));

    // A number, or a curve of them: weight@position pairs.
    const isStrength = text => isNumber(text.split(/[@~]/)[0]);

    // Arguments are read as the server reads them, see lbw/tags/slips.py; tests hold both to the same words.
    const WEIGHTS_KEYS = ["lbw", "w", "hrlbw"];
    const KEYS = [
        ...WEIGHTS_KEYS, "te", "unet", "lbwe", "x", "start", "stop", "step", "curve", "dyn", "in", "mid", "out",
        "hr", "hrte", "hrunet", "hrstart", "hrstop", "hrstep", "strength",
    ];
    const STRENGTHS = ["te", "unet", "hr", "hrte", "hrunet", "strength"];
    const SYNONYMS = {
        end: "stop", to: "stop", until: "stop", stopstep: "stop", endstep: "stop", stepend: "stop",
        begin: "start", from: "start", startstep: "start", stepstart: "start", beginstep: "start",
        steps: "step", range: "step", weight: "strength", multiplier: "strength", str: "strength",
        preset: "lbw", weights: "lbw", blocks: "lbw", blockweights: "lbw", elements: "lbwe",
        textencoder: "te", clip: "te", model: "unet",
    };
    const ALSO_BLOCKS = ["in", "mid", "out", "clip"];
    const BEFORE_KEY = new RegExp(
        `(?:\\s*[,;|]\\s*|\\s+)(?=(?:${[...KEYS, ...Object.keys(SYNONYMS)].filter(key => !ALSO_BLOCKS.includes(key)).join("|")})\\s*=)`, "i");
    const BLOCKS = /^(?:NOT|BASE|CLIP(?:_[LG])?|T5|LLM|IN|MID|OUT|FIRST|LAST|[BCDLMNS]|[A-Z]{1,5}\d{1,3})?$/;
    const DECIMAL_COMMA = /^[+-]?\d{1,2},\d+$/;

    // Full-width signs, which Japanese and Chinese keyboards make.
    const narrow = text => text.replace(/[\uff01-\uff5e]/g, sign => String.fromCharCode(sign.charCodeAt(0) - 0xfee0))
        .replaceAll("\u3000", " ").replace(/[\u3001\uff64]/g, ",");

    function known(text) {
        const key = text.toLowerCase().replace(/[\s_-]/g, "");
        return KEYS.includes(key) ? key : Object.hasOwn(SYNONYMS, key) ? SYNONYMS[key] : null;
    }

    // An item with exactly one "=" is named, any other is positional; block weights by name, as OUT03-OUT06=1, stand
    // behind a key or alone. Steps, as 5-15, need no key.
    function keyOf(item) {
        const [text, ...rest] = item.split("=");
        if (!rest.length) return /^\s*\d[^,@~]*-/.test(text) && !isNumber(text) ? "step" : null;
        const key = known(text);
        const isOfBlocks = text.includes(",") || (text !== text.toLowerCase() && BLOCKS.test(text.trim().split(/[- ]/).at(-1)));
        if (WEIGHTS_KEYS.includes(key)) return key;
        return rest.length > 1 || isOfBlocks ? null : key ?? text.trim();
    }

    const valueOf = item => item.slice(item.indexOf("=") + 1).trim();

    function withoutDecimalComma(item) {
        const key = keyOf(item);
        const isOfBlocks = WEIGHTS_KEYS.includes(key) || (key === null && item.includes("="));
        return !isOfBlocks && DECIMAL_COMMA.test(valueOf(item)) ? item.replace(",", ".") : item;
    }

    // The arguments of a tag, in the signs of an ordinary keyboard: another sign in the place of a colon, "=" or a decimal
    // point is mended, and rules in lbwe=, which have colons, are one argument.
    function itemsOf(body) {
        const [name, ...parts] = body.split(/[:\uff1a]/);
        const rest = parts.flatMap(part => narrow(part).trim().split(BEFORE_KEY)).filter(item => item.trim());
        const items = [name];
        while (rest.length) {
            let item = rest.shift();
            const isRule = keyOf(item) === "lbwe" && valueOf(item).split(/[\s-]+/).every(word => BLOCKS.test(word));
            while (isRule && rest.length > 1 && /^\s*[+-]?[\d.]+\s*(,|$)/.test(rest[1])) item += `:${rest.shift()}:${rest.shift()}`;
            const key = item.trim().length > 1 && !item.includes("=") && rest.length ? known(item) : null;
            const isValue = key && !rest[0].includes("=") && (WEIGHTS_KEYS.includes(key) || /^\s*[+-]?[\d.]/.test(rest[0]));
            items.push(isValue ? `${key}=${rest.shift().trim()}` : item);
        }
        return items.map((item, index) => (index ? withoutDecimalComma(item) : item));
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
        const said = items.filter(item => keyOf(item) === "step").map(valueOf).at(-1) ?? "";
        const ends = said.split("-").map(text => text.trim());
        const isSingle = ends.length === 1 && /^\d+$/.test(said);
        const [start, stop] = ends.length === 2 ? ends : isSingle ? [said, String(Number(said) + 1)] : ["", ""];
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
        const kept = items.filter(item => !["te", "unet", "strength"].includes(keyOf(item)));
        const [first, second] = places(kept);
        if (first === undefined) kept.splice(1, 0, value);
        else kept[first] = value;
        if (second !== undefined) kept[second] = value;
        return kept;
    }

    function setInTag(body, values) {
        let items = itemsOf(body);
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

    // What the tag at the caret, or else the first one, says of a strength (`strength`, `unet` or `hr`) or of block weights
    // (`lbw` or `hrlbw`), and of its curve: {name, text, shape}, where text is null if it has no block weights; null where
    // there is no tag.
    function getArgument(text, caret, key) {
        const tags = tagsIn(text);
        const tag = touched(tags, caret)[0] ?? tags[0];
        if (!tag) return null;
        const items = itemsOf(tag.body);
        const named = Object.fromEntries(items.filter(item => keyOf(item) !== null).map(item => [keyOf(item), valueOf(item)]));
        const [te, unet = te] = [named.strength, ...places(items).map(index => items[index])].filter(text => text !== undefined);
        const both = named.unet ?? unet ?? named.te ?? "1";
        const weights = named.lbw ?? named.w ?? items.find((item, index) => index > 0 && keyOf(item) === null && !isStrength(item))?.trim() ?? null;
        const found = {strength: both, unet: both, hr: named.hr ?? both, lbw: weights, hrlbw: named.hrlbw ?? weights};
        return {name: items[0], text: found[key], shape: named.curve ?? ""};
    }

    // The tag that the caret touches, {name, weights}: what stands behind its "lbw=", and all further arguments that are no
    // strengths; null where there is no tag.
    function tagAt(text, caret) {
        const tag = touched(tagsIn(text), caret)[0];
        if (!tag) return null;
        const [name, ...items] = itemsOf(tag.body);
        const weights = items.filter((item, index) => isItemOf("lbw", item, index + 1))
            .map(item => (keyOf(item) ? valueOf(item) : item.trim()));
        const others = items.filter(item => ![null, "lbw", "w", ...STRENGTHS].includes(keyOf(item)))
            .map(item => `${keyOf(item)}=${valueOf(item)}`);
        return {name: name.trim(), weights: weights.length ? [weights[0], ...others].join(":") : ""};
    }

    // Such weights as arguments to set.
    function argumentsOf(weights) {
        const items = itemsOf(`:${keyOf(weights.split(":")[0]) ? "" : "lbw="}${weights}`).slice(1);
        return Object.fromEntries(items.filter(item => keyOf(item)).map(item => [keyOf(item), valueOf(item)]));
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

    // The text with something else in the place of a tag, of which there are so many of the same before it; null where
    // there is no such tag.
    function replaceTag(text, tag, replacement, before) {
        let place = text.indexOf(tag);
        for (let count = 0; count < before && place >= 0; count++) place = text.indexOf(tag, place + tag.length);
        return place < 0 ? null : text.slice(0, place) + replacement + text.slice(place + tag.length);
    }

    const tagTexts = text => tagsIn(text).map(({start, end}) => text.slice(start, end));

    // Without what stands from `start` to `end`, and without the blanks and the comma that would stand twice then.
    function without(text, {start, end}) {
        const tail = text.slice(end);
        let head = text.slice(0, start);
        if (/^(\s|,|$)/.test(tail)) head = head.replace(/ +$/, "");
        if (/^\s*(,|$)/.test(tail)) head = head.replace(/,$/, "");
        return head + tail;
    }

    // Whether a place is within square brackets; one that a backslash stands before is a sign like others.
    const isInBrackets = (text, place) =>
        [...text.slice(0, place).replace(/\\./gs, "")].reduce((depth, sign) => depth + (sign === "[") - (sign === "]"), 0) > 0;

    // The text with something else in the place of the first of several tags, and without the others; null where one of
    // them is not in it.
    function replaceTags(text, tags, replacement) {
        const left = [...tags];
        const found = tagsIn(text).filter(({start, end}) => {
            const index = left.indexOf(text.slice(start, end));
            if (index >= 0) left.splice(index, 1);
            return index >= 0;
        });
        if (!found.length || left.length) return null;
        // In brackets they may count in some steps only, which their successor must not.
        if (found.some(({start}) => isInBrackets(text, start))) return `${found.reverse().reduce(without, text)} ${replacement}`;
        const [first, ...others] = found;
        const alone = others.reverse().reduce(without, text);
        return alone.slice(0, first.start) + replacement + alone.slice(first.end);
    }

    return {setArguments, getArgument, tagAt, argumentsOf, replaceTag, tagTexts, replaceTags};
})();
