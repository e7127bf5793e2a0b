// What the host offers to every other script of the page: finding things, and being told when something happens.

function gradioApp() {
    const app = document.querySelector("gradio-app");
    return app?.shadowRoot ?? document;
}

function get_uiCurrentTab() {
    return gradioApp().querySelector("#tabs > .tab-nav > button.selected");
}

function get_uiCurrentTabContent() {
    return gradioApp().querySelector('#tabs > .tabitem[id^=tab_]:not([style*="display: none"])');
}

var opts = {};
const uiCallbacks = {update: [], afterUpdate: [], loaded: [], tabChange: [], optionsChanged: [], optionsAvailable: []};

function onUiUpdate(callback) {
    uiCallbacks.update.push(callback);
}

function onAfterUiUpdate(callback) {
    uiCallbacks.afterUpdate.push(callback);
}

function onUiLoaded(callback) {
    uiCallbacks.loaded.push(callback);
}

function onUiTabChange(callback) {
    uiCallbacks.tabChange.push(callback);
}

function onOptionsChanged(callback) {
    uiCallbacks.optionsChanged.push(callback);
}

function onOptionsAvailable(callback) {
    if (Object.keys(opts).length) callback();
    else uiCallbacks.optionsAvailable.push(callback);
}

// One script's mistake must not silence the others.
function executeCallbacks(queue, argument) {
    for (const callback of queue) {
        try {
            callback(argument);
        } catch (error) {
            console.error("callback failed", callback, error);
        }
    }
}

// Gradio listens to events, so a value set by a script goes unnoticed until one is sent.
function updateInput(target) {
    target.dispatchEvent(new Event("input", {bubbles: true}));
}

function uiElementIsVisible(element) {
    return element === document || (getComputedStyle(element).display !== "none" && uiElementIsVisible(element.parentNode));
}

function uiElementInSight(element) {
    const box = element.getBoundingClientRect();
    return box.bottom > 0 && box.top < window.innerHeight;
}

document.addEventListener("DOMContentLoaded", () => {
    let loaded = false;
    let currentTab = null;
    let quiet = null;

    new MutationObserver(records => {
        if (!loaded && gradioApp().querySelector("#txt2img_prompt")) {
            loaded = true;
            executeCallbacks(uiCallbacks.loaded);
        }
        executeCallbacks(uiCallbacks.update, records);
        clearTimeout(quiet);
        quiet = setTimeout(() => executeCallbacks(uiCallbacks.afterUpdate), 200);

        const tab = get_uiCurrentTab();
        if (tab && tab !== currentTab) {
            currentTab = tab;
            executeCallbacks(uiCallbacks.tabChange);
        }
    }).observe(gradioApp(), {childList: true, subtree: true});
});

// Ctrl+Enter generates, Alt+Enter skips, Escape interrupts.
document.addEventListener("keydown", event => {
    const suffix = event.key === "Escape" ? "interrupt"
        : event.key !== "Enter" ? null
        : event.ctrlKey || event.metaKey ? "generate"
        : event.altKey ? "skip" : null;
    const button = suffix && get_uiCurrentTabContent()?.querySelector(`button[id$=_${suffix}]`);
    if (button && button.style.display !== "none") {
        button.click();
        event.preventDefault();
    }
});
