// Puts translations in the place of texts, titles and placeholders that are equal to a key of `localization`.

const NO_TEXT_IN = new Set(["SCRIPT", "STYLE", "TEXTAREA"]);

function translationOf(text) {
    return Object.hasOwn(localization, text.trim()) ? localization[text.trim()] : undefined;
}

function translateText(node) {
    if (!node.parentElement || NO_TEXT_IN.has(node.parentElement.nodeName)) return;
    const translation = translationOf(node.textContent);
    if (translation !== undefined) node.textContent = translation;
}

function translateAttributes(element) {
    for (const name of ["title", "placeholder"]) {
        const translation = element[name] && translationOf(element[name]);
        if (translation) element[name] = translation;
    }
}

// As on the real host, attributes are looked at in the node itself and text in everything below it.
function translateNode(node) {
    if (node.nodeType === Node.TEXT_NODE) {
        translateText(node);
        return;
    }
    translateAttributes(node);
    const walker = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
    const texts = [];
    while (walker.nextNode()) texts.push(walker.currentNode);
    texts.forEach(translateText);
}

// Titles and placeholders that components were made with.
function translateComponents() {
    for (const component of window.gradio_config?.components ?? []) {
        const element = document.getElementById(component.props?.elem_id || `component-${component.id}`);
        if (element) [element, ...element.querySelectorAll("[placeholder]")].forEach(translateAttributes);
    }
}

document.addEventListener("DOMContentLoaded", () => {
    if (!Object.keys(window.localization ?? {}).length) return;
    onUiUpdate(records => records.forEach(record => record.addedNodes.forEach(translateNode)));
    onUiLoaded(translateComponents);
    translateNode(gradioApp());
});
