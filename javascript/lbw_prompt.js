// LoRA tags in a prompt: the text after an argument of a tag was set. Nothing in this file touches the page.

const lbwPrompt = (() => {
    const TAG = /<(lora|lyco):([^>]+)>/g;

    const isNumber = text => text.trim() !== "" && Number.isFinite(Number(text));

    // As the host reads it: an item with exactly one "=" is named, any other is positional.
    function keyOf(item) {
        const parts = item.split("=");
        return parts.length === 2 ? parts[0] : null;
    }

    // A preset may also stand without a key, behind the numbers.
    function isItemOf(key, item, index) {
        const found = keyOf(item);
        if (key !== "lbw") return found === key;
        return found === "lbw" || found === "w" || (found === null && index > 0 && !isNumber(item));
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

    function setInTag(body, values) {
        let items = body.split(":");
        if ("start" in values || "stop" in values) items = withoutStepRange(items);
        for (const [key, value] of Object.entries(values)) items = withArgument(items, key, value);
        return items.join(":");
    }

    // Sets arguments, {key: value}, in the tag that the caret is in, or in all tags if it is in none; "" takes one out.
    // Returns the new text, where the caret belongs in it, and the names of the tags.
    function setArguments(text, caret, values) {
        const tags = [...text.matchAll(TAG)].map(match => ({
            start: match.index, end: match.index + match[0].length, kind: match[1], body: match[2],
        }));
        const atCaret = tags.filter(tag => tag.start < caret && caret < tag.end);
        const chosen = atCaret.length ? atCaret : tags;
        let result = "";
        let done = 0;
        let newCaret = caret;
        for (const tag of chosen) {
            const replacement = `<${tag.kind}:${setInTag(tag.body, values)}>`;
            result += text.slice(done, tag.start) + replacement;
            done = tag.end;
            if (atCaret.length) newCaret = result.length - 1;
            else if (tag.end <= caret) newCaret += replacement.length - (tag.end - tag.start);
        }
        return {text: result + text.slice(done), caret: newCaret, names: chosen.map(tag => tag.body.split(":")[0])};
    }

    return {setArguments};
})();
