// The panel in the host's language. The host puts translations in the place of texts that are equal to a key of its table.
// This does it for what the host leaves out: names that are only read out, titles and placeholders of what is inside of
// something that is added, and messages with something of their own in them; their keys have {words} in its place.

const lbwWords = (() => {
    const MESSAGES = ".lbw-said, .lbw-notes, .lbw-status, .lbw-own, .lbw-band summary, .lbw-hits, .lbw-curve-drawing";
    const READ_OUT = "aria-label";
    const WHOLE = ["title", "placeholder"];
    const HAS_WHOLE = "[title], [placeholder]";
    const WORD = /\{(\w+)\}/;

    // What a word may be: {N} and others of one letter are numbers, so that nothing before them is taken for a part of them.
    const anyOf = word => (word.length === 1 ? "(\\d+)" : "([^]*?)");
    const literal = text => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

    // Keys with words in them, {pattern, words, translation}. Messages of several clauses first, then the two keys that
    // take clauses apart, "{subject}: {said}" and "{first}; {second}", then single clauses; the longest of each first.
    function patternsOf(table) {
        const keys = Object.keys(table).filter(key => WORD.test(key)).map(key => ({key, parts: key.split(WORD)}));
        const lengthOf = ({parts}) => parts.filter((_, index) => index % 2 === 0).join("").trim().length;
        const rankOf = made => (lengthOf(made) === 1 ? 1 : /[:;] /.test(made.key) ? 0 : 2);
        keys.sort((a, b) => rankOf(a) - rankOf(b) || lengthOf(b) - lengthOf(a));
        return keys.map(({key, parts}) => ({
            pattern: new RegExp(`^${parts.map((part, index) => (index % 2 ? anyOf(part) : literal(part))).join("")}$`),
            words: parts.filter((_, index) => index % 2),
            translation: table[key],
        }));
    }

    // What is in the place of a word may be a message itself.
    function translated(text, table, patterns) {
        if (Object.hasOwn(table, text)) return table[text];
        for (const {pattern, words, translation} of patterns) {
            const found = pattern.exec(text);
            if (!found) continue;
            const values = Object.fromEntries(words.map((word, index) => [word, translated(found[index + 1], table, patterns)]));
            return words.reduce((made, word) => made.replace(`{${word}}`, () => values[word]), translation);
        }
        return text;
    }

    // Translates what is in a part of the page, and what comes into it.
    function follow(root) {
        const table = window.localization ?? {};
        if (!Object.keys(table).length) return;
        const patterns = patternsOf(table);

        function translateText(node) {
            const text = node.textContent.trim();
            const translation = text && translated(text, table, patterns);
            if (translation && translation !== text) node.textContent = translation;
        }

        function translateTexts(element) {
            const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
            const texts = [];
            while (walker.nextNode()) texts.push(walker.currentNode);
            texts.filter(node => !node.parentElement.closest("[translate=no]")).forEach(translateText);
        }

        function translateReadOut(element) {
            const text = element.getAttribute(READ_OUT);
            const translation = translated(text, table, patterns);
            if (translation !== text) element.setAttribute(READ_OUT, translation);
        }

        function translateWhole(element) {
            for (const name of WHOLE.filter(each => Object.hasOwn(table, element.getAttribute(each) ?? ""))) {
                element.setAttribute(name, table[element.getAttribute(name)]);
            }
        }

        function translateAll(node) {
            const element = node.nodeType === Node.ELEMENT_NODE ? node : node.parentElement;
            if (!element) return;
            if (element.closest(MESSAGES)) translateTexts(element);
            else element.querySelectorAll(MESSAGES).forEach(translateTexts);
            [element, ...element.querySelectorAll(`[${READ_OUT}]`)].filter(each => each.hasAttribute(READ_OUT)).forEach(translateReadOut);
            [element, ...element.querySelectorAll(HAS_WHOLE)].forEach(translateWhole);
        }

        new MutationObserver(records => {
            for (const {type, target, addedNodes} of records) {
                if (type === "attributes") translateReadOut(target);
                else if (type === "characterData") translateAll(target);
                else addedNodes.forEach(translateAll);
            }
        }).observe(root, {childList: true, subtree: true, characterData: true, attributeFilter: [READ_OUT]});
        translateAll(root);
    }

    return {follow, translated: (text, table) => translated(text, table, patternsOf(table))};
})();
