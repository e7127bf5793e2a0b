// Starting a generation from the page, watching it, and picking images from what it made.

function randomId() {
    return `task(${crypto.getRandomValues(new Uint32Array(3)).join("-")})`;
}

function gallery_thumbnails() {
    const tab = get_uiCurrentTabContent();
    return tab ? [...tab.querySelectorAll("div[id$=_gallery] .thumbnails > .thumbnail-item")] : [];
}

function selected_gallery_index() {
    return gallery_thumbnails().findIndex(item => item.classList.contains("selected"));
}

function extract_image_from_gallery(gallery) {
    return [gallery[Math.max(selected_gallery_index(), 0)] ?? gallery[0] ?? null];
}

// Generate stands where Interrupt and Skip stand while something is being made.
function showSubmitButtons(tabname, idle) {
    for (const name of ["interrupt", "skip"]) {
        gradioApp().querySelector(`#${tabname}_${name}`).style.display = idle ? "none" : "block";
    }
    gradioApp().querySelector(`#${tabname}_interrupting`).style.display = "none";
}

function showSubmitInterruptingPlaceholder(tabname) {
    gradioApp().querySelector(`#${tabname}_interrupt`).style.display = "none";
    gradioApp().querySelector(`#${tabname}_interrupting`).style.display = "block";
}

async function postJson(url, data) {
    const response = await fetch(url, {
        method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(data),
    });
    if (!response.ok) throw new Error(`${url}: ${response.status}`);
    return response.json();
}

// Shows a task's progress above `container` and its previews inside `gallery`, until the task is over.
async function requestProgress(id_task, container, gallery, atEnd, onProgress = null, inactivityTimeout = 40) {
    const bar = Object.assign(document.createElement("div"), {className: "progressDiv"});
    const inner = Object.assign(document.createElement("div"), {className: "progress"});
    const preview = Object.assign(document.createElement("img"), {className: "livePreview", alt: ""});
    bar.append(inner);
    container.parentNode.insertBefore(bar, container);

    const started = Date.now();
    let seen = false;
    let previewId = -1;
    try {
        for (;;) {
            const state = await postJson("./internal/progress", {id_task, id_live_preview: previewId, live_preview: !!gallery});
            const waitedLong = Date.now() - started > inactivityTimeout * 1000;
            seen ||= state.active;
            if (state.completed || (seen && !state.active) || (waitedLong && !state.active && !state.queued)) break;

            const percent = Math.round((state.progress ?? 0) * 100);
            inner.style.width = `${percent}%`;
            inner.textContent = [state.textinfo, percent ? `${percent}%` : ""].filter(Boolean).join(" ");
            if (state.live_preview) {
                preview.src = state.live_preview;
                previewId = state.id_live_preview;
                if (!preview.parentNode) gallery.prepend(preview);
            }
            if (onProgress) onProgress(state);
            await new Promise(resolve => setTimeout(resolve, Math.min(opts.live_preview_refresh_period ?? 500, 500)));
        }
    } finally {
        bar.remove();
        preview.remove();
        atEnd();
    }
}

function start_task(tabname, args) {
    const id = randomId();
    const idle = () => {
        showSubmitButtons(tabname, true);
        localRemove(`${tabname}_task_id`);
    };
    showSubmitButtons(tabname, false);
    localSet(`${tabname}_task_id`, id);
    requestProgress(
        id, gradioApp().querySelector(`#${tabname}_gallery_container`), gradioApp().querySelector(`#${tabname}_gallery`), idle,
    ).catch(error => console.warn("progress of a generation was lost:", error.message));
    const result = [...args];
    result[0] = id;
    return result;
}

function submit() {
    return start_task("txt2img", arguments);
}

function submit_img2img() {
    return start_task("img2img", arguments);
}

const onEditTimers = {};

// Calls `func` when nothing has been typed into `element` for `afterMs`.
function onEdit(editId, element, afterMs, func) {
    const edited = () => {
        clearTimeout(onEditTimers[editId]);
        onEditTimers[editId] = setTimeout(func, afterMs);
    };
    element.addEventListener("input", edited);
    return edited;
}

onUiLoaded(() => {
    for (const tabname of ["txt2img", "img2img"]) {
        const prompt = gradioApp().querySelector(`#${tabname}_prompt textarea`);
        // The button is looked for when the time has come: by then, Reload UI may have emptied the page.
        const count = () => gradioApp().querySelector(`#${tabname}_token_button`)?.click();
        onEdit(`${tabname}_tokens`, prompt, 800, () => opts.disable_token_counters || count());
    }
});

// The infotext below the gallery is that of the image which is looked at.
onUiLoaded(() => {
    for (const tabname of ["txt2img", "img2img"]) {
        const show = () => gradioApp().querySelector(`#${tabname}_generation_info_button`).click();
        gradioApp().querySelector(`#${tabname}_gallery`).addEventListener("click", show);
    }
});

function setInput(input, value) {
    if (input) {
        input.value = value;
        updateInput(input);
    }
}

function setRandomSeed(elem_id) {
    setInput(gradioApp().querySelector(`#${elem_id} input`), "-1");
    return [];
}

function switchWidthHeight(tabname) {
    const [width, height] = ["width", "height"].map(side => gradioApp().querySelector(`#${tabname}_${side} input[type=number]`));
    const oldWidth = width.value;
    setInput(width, height.value);
    setInput(height, oldWidth);
    return [];
}

function switch_to_tab(id, values) {
    const label = {txt2img: "txt2img", img2img: "img2img"}[id];
    [...gradioApp().querySelectorAll("#tabs > .tab-nav > button")].find(button => button.textContent.trim() === label)?.click();
    return [...values];
}

function switch_to_txt2img() {
    return switch_to_tab("txt2img", arguments);
}

function switch_to_img2img() {
    return switch_to_tab("img2img", arguments);
}
