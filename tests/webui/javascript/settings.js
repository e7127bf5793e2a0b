// Tooltips; `opts`, kept equal to the settings on the server, which arrive as JSON in a hidden text box; theme; Reload UI.

function set_theme(theme) {
    if (!window.location.search.includes("__theme=")) {
        const separator = window.location.search ? "&" : "?";
        window.location.replace(`${window.location.href}${separator}__theme=${theme}`);
    }
}

onUiLoaded(() => {
    for (const component of window.gradio_config?.components ?? []) {
        const element = component.props?.webui_tooltip && gradioApp().querySelector(`#${component.props.elem_id || "_"}`);
        if (element) element.title = component.props.webui_tooltip;
    }
});

onAfterUiUpdate(() => {
    const box = gradioApp().querySelector("#settings_json textarea");
    if (!box || Object.keys(opts).length || !box.value) return;

    opts = JSON.parse(box.value);
    executeCallbacks(uiCallbacks.optionsAvailable);
    executeCallbacks(uiCallbacks.optionsChanged);

    // Gradio sets the value without an event, so only the property itself can tell.
    const plain = Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value");
    Object.defineProperty(box, "value", {
        get: () => plain.get.call(box),
        set: text => {
            plain.set.call(box, text);
            if (text) {
                opts = JSON.parse(text);
                executeCallbacks(uiCallbacks.optionsChanged);
            }
        },
    });
});

// Covers the page until the new one answers; the pause lets the old server close first.
function restart_reload() {
    document.body.innerHTML = '<h1 class="reloading">Reloading...</h1>';
    const ping = async() => {
        try {
            if ((await fetch("./internal/ping")).ok) {
                location.reload();
                return;
            }
        } catch {
            // The server is between its two lives.
        }
        setTimeout(ping, 500);
    };
    setTimeout(ping, 2000);
    return [];
}

// The extensions that the user unticked, as JSON, for the button that applies it.
function extensions_apply(_disabled, disableAll) {
    const boxes = [...gradioApp().querySelectorAll('#extensions input[name^="enable_"]')];
    const names = boxes.filter(box => !box.checked).map(box => box.name.substring("enable_".length));
    setTimeout(restart_reload, 100);
    return [JSON.stringify(names), disableAll];
}
