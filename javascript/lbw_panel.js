// The panel's part in the browser: writing into the prompt, the check while typing, and the status line.

const loraBlockWeight = (() => {
    const PREFIX = "LoRA Block Weight: ";
    const CHECK_AFTER_MS = 400;
    // What the ids of a preset file's buttons begin with, its text box, and what is said of its content.
    const TEXT_FILES = [["lbw", "lbw_ratiospreset", "lbw_ratios"], ["lbw_element", "element", "lbw_element_names"]];
    const USUAL_STEPS = 20;
    const HIRES_PROMPT = "#hires_prompt textarea";

    const idOf = (tabname, name) => (tabname === "txt2img" ? name : `${tabname}_${name}`);
    const find = (tabname, selector) => gradioApp().querySelector(`#${idOf(tabname, selector)}`);

    // The prompt in which the cursor was last; the hires pass has one of its own.
    const lastPrompt = {};

    // What each tab is making, see lbw_live.js.
    const jobs = {};

    function promptOf(tabname) {
        return lastPrompt[tabname] ?? gradioApp().querySelector(`#${tabname}_prompt textarea`);
    }

    function promptsOf(tabname) {
        const selectors = [`#${tabname}_prompt textarea`, ...(tabname === "txt2img" ? [HIRES_PROMPT] : [])];
        return selectors.map(selector => gradioApp().querySelector(selector)).filter(found => found);
    }

    function watchPrompts(tabname) {
        for (const prompt of promptsOf(tabname)) {
            prompt.addEventListener("focus", () => { lastPrompt[tabname] = prompt; });
            for (const event of ["input", "keyup", "pointerup", "focus"]) prompt.addEventListener(event, () => showOwnSoon(tabname));
        }
    }

    // Types the part that differs, so that the browser's undo takes it back.
    function retype(area, text, caret) {
        const old = area.value;
        let head = 0;
        while (head < Math.min(old.length, text.length) && old[head] === text[head]) head++;
        let tail = 0;
        while (tail < Math.min(old.length, text.length) - head && old.at(-1 - tail) === text.at(-1 - tail)) tail++;
        const focused = document.activeElement;
        area.focus({preventScroll: true});
        area.setSelectionRange(head, old.length - tail);
        const part = text.slice(head, text.length - tail);
        if (!document.execCommand(part ? "insertText" : "delete", false, part) || area.value !== text) {
            area.value = text;
            updateInput(area);
        }
        area.setSelectionRange(caret, caret);
        if (focused && focused !== document.body) focused.focus({preventScroll: true});
    }

    const theme = () => (document.body.classList.contains("dark") ? "dark" : "light");

    function say(tabname, message) {
        find(tabname, "lbw_status .lbw-said").textContent = message;
    }

    function put(tabname, values) {
        say(tabname, setInPrompt(tabname, values));
    }

    // Block weights by name have "=" in them.
    const signsAway = key => (["lbw", "hrlbw"].includes(key) ? /[:<>]/ : /[:=<>]/);

    // Sets arguments of LoRA tags, and returns what was done.
    function setInPrompt(tabname, values) {
        const bad = Object.entries(values).find(([key, value]) => signsAway(key).test(value));
        if (bad) return `${bad[0]}=${bad[1]}: a tag's argument has no : = < or > in it; nothing was changed`;
        return setAnyInPrompt(tabname, values);
    }

    function setAnyInPrompt(tabname, values) {
        const area = promptOf(tabname);
        const result = lbwPrompt.setArguments(area.value, area.selectionStart, values);
        if (!result.names.length) return "There is no LoRA tag in the prompt.";
        if (result.text !== area.value) retype(area, result.text, result.caret);
        const what = Object.entries(values).map(([key, value]) => (value ? `${key}=${value}` : `no ${key}=`)).join(", ");
        return `${result.names.join(", ")}: ${what}`;
    }

    // The default that the LoRA at the cursor has of its own. What the server is asked, and what it is to save.
    const PAUSE_MS = 250;
    const ownAsked = {};
    const ownToSave = {};
    const ownTimer = {};
    const tagTouched = tabname => lbwPrompt.tagAt(promptOf(tabname).value, promptOf(tabname).selectionStart);
    const touched = tabname => [ownAsked[tabname].name, ownAsked[tabname].weights];
    const toSave = tabname => [ownAsked[tabname].name, ownToSave[tabname], ownAsked[tabname].weights];
    const isOpen = tabname => Boolean(find(tabname, "lbw_panel").offsetParent);

    function showOwnSoon(tabname) {
        clearTimeout(ownTimer[tabname]);
        ownTimer[tabname] = setTimeout(() => showOwn(tabname), PAUSE_MS);
    }

    function showOwn(tabname) {
        if (!isOpen(tabname)) return;
        const tag = tagTouched(tabname);
        const [before, now] = [ownAsked[tabname], tag].map(each => JSON.stringify(each ?? null));
        if (tag && before !== now) {
            ownAsked[tabname] = tag;
            find(tabname, "lbw_own_ask").click();
        }
        revealOwn(tabname);
    }

    // An answer is shown as long as the cursor is where it was asked for.
    function revealOwn(tabname) {
        const frame = find(tabname, "lbw_own");
        const tag = tagTouched(tabname);
        const {name} = frame.querySelector(".lbw-own")?.dataset ?? {};
        frame.classList.toggle("lbw-away", !tag || tag.name !== name);
    }

    function setUpOwn(tabname) {
        const frame = find(tabname, "lbw_own");
        new MutationObserver(() => revealOwn(tabname)).observe(frame, {childList: true, subtree: true});
        frame.addEventListener("click", ({target}) => {
            const {own} = target.dataset ?? {};
            const tag = tagTouched(tabname);
            if (!own || !tag) return;
            if (own === "put") {
                say(tabname, setAnyInPrompt(tabname, lbwPrompt.argumentsOf(frame.querySelector(".lbw-own").dataset.weights)));
                showOwnSoon(tabname);
            } else {
                [ownAsked[tabname], ownToSave[tabname]] = [tag, own === "save" ? tag.weights : ""];
                find(tabname, "lbw_own_save").click();
            }
        });
        showOwn(tabname);
    }

    const stepsOf = tabname => Number(gradioApp().querySelector(`#${tabname}_steps input[type=number]`)?.value) || USUAL_STEPS;

    const SAME_SAMPLER = "Use same sampler";

    // What the schedule follows from, for the server. A pass from an image has a denoising strength.
    function askedFor(tabname) {
        const field = id => gradioApp().querySelector(`#${id} :is(input[type=number], textarea)`)?.value;
        const sampler = id => gradioApp().querySelector(`#${id} :is(input[type=radio]:checked, input:not([type=radio]))`)?.value ?? "";
        const hiresOf = () => {
            const own = sampler("hr_sampler");
            return {
                prompt: field("hires_prompt") ?? "",
                steps: Number(field("txt2img_hires_steps")) || 0,
                sampler: ["", SAME_SAMPLER].includes(own) ? sampler("txt2img_sampling") : own,
            };
        };
        const hires = tabname === "txt2img" && gradioApp().querySelector("#txt2img_hr-checkbox input, #txt2img_hr-visible-checkbox")?.checked;
        return JSON.stringify({
            prompt: field(`${tabname}_prompt`),
            steps: stepsOf(tabname),
            sampler: sampler(`${tabname}_sampling`),
            denoising: tabname === "img2img" ? Number(field("img2img_denoising_strength") ?? 1) : null,
            hires: hires ? hiresOf() : null,
            theme: theme(),
        });
    }

    const presetsOf = tabname => [...find(tabname, "lbw_ratios").querySelectorAll("[data-name]")].map(({dataset}) => dataset);

    // What menus of presets follow from. The families are read when a menu needs them.
    function ofPresetMenu(tabname) {
        let families;
        return {
            presets: () => presetsOf(tabname),
            family: lbwPresetMenu.loadedFamily,
            families: () => (families ??= lbwBlockWeights.families(JSON.parse(find(tabname, "lbw_sliders .lbw-make").dataset.families))),
        };
    }

    function buildInsertRow(tabname) {
        lbwInsert.build({
            frame: find(tabname, "lbw_status .lbw-insert"),
            id: name => idOf(tabname, name),
            lists: {presets: find(tabname, "lbw_ratios"), ruleSets: find(tabname, "lbw_element_names")},
            put: values => put(tabname, values),
            ofMenu: ofPresetMenu(tabname),
        });
    }

    // Names anywhere in the panel go into the prompt.
    function putNames(tabname) {
        find(tabname, "lbw_panel").addEventListener("click", ({target}) => {
            const {key, name} = target.dataset ?? {};
            if (name) put(tabname, {[key]: name});
        });
    }

    // The vector and its name, for the server.
    const made = tabname => ["lbw_made", "lbw_made_name"].map(name => find(tabname, `${name} :is(textarea, input)`).value);

    function buildSliders(tabname) {
        lbwMakeWeights.build({
            frame: find(tabname, "lbw_sliders .lbw-make"),
            id: name => idOf(tabname, name),
            buttons: ["lbw_add", "lbw_add_save"].map(name => find(tabname, name)),
            notes: find(tabname, "lbw_made_notes"),
            presets: () => presetsOf(tabname),
        });
    }

    function buildCurveEditor(tabname) {
        lbwCurve.build({
            frame: find(tabname, "lbw_curve_editor .lbw-make"),
            steps: () => stepsOf(tabname),
            id: name => idOf(tabname, name),
            presets: () => [...find(tabname, "lbw_ratios").querySelectorAll("[data-name]")].map(({dataset, title}) => ({name: dataset.name, title})),
            read: key => lbwPrompt.getArgument(promptOf(tabname).value, promptOf(tabname).selectionStart, key),
            write: values => setInPrompt(tabname, values),
        });
    }

    // The host keeps the ids of its jobs for itself, under these names.
    function followJobs(tabname) {
        const container = gradioApp().querySelector(`#${tabname}_gallery_container`);
        if (!container) return;
        jobs[tabname] = lbwLive.follow(container, {
            storedId: () => localGet(`${tabname}_task_id`),
            isActive: () => (find(tabname, "lbw_active-checkbox input") ?? find(tabname, "lbw_active input")).checked,
        });
    }

    // A tag may stand in the prompt and in that of the hires pass.
    function replaceTag(tabname, tag, replacement, before) {
        const made = promptsOf(tabname).map(area => [area, lbwPrompt.replaceTag(area.value, tag, replacement, before)]);
        const found = made.filter(([, text]) => text !== null);
        for (const [area, text] of found) {
            if (text !== area.value) retype(area, text, area.selectionStart);
        }
        return found.length > 0;
    }

    function buildLive(tabname) {
        lbwLive.build({
            frame: find(tabname, "lbw_live_loras .lbw-live"),
            jobs: jobs[tabname],
            replace: (...change) => replaceTag(tabname, ...change),
        });
    }

    // Several tags that are one now. They may stand in the prompt and in that of the hires pass.
    function replaceTags(tabname, tags, replacement) {
        const made = promptsOf(tabname).map(area => [area, lbwPrompt.replaceTags(area.value, tags, replacement)]);
        const found = made.filter(([, text]) => text !== null);
        for (const [area, text] of found) retype(area, text, area.selectionStart);
        return found.length > 0;
    }

    function buildBake(tabname) {
        const valueOf = selector => find(tabname, selector)?.value ?? "";
        const field = selector => gradioApp().querySelector(`#${tabname}_${selector}`)?.value ?? "";
        const defaultPreset = () => valueOf("lbw_default_preset input");
        lbwBake.build({
            frame: find(tabname, "lbw_bake_form .lbw-bake"),
            id: name => idOf(tabname, name),
            theme,
            page: {
                prompt: () => field("prompt textarea"),
                steps: () => stepsOf(tabname),
                order: () => ({
                    // The host draws a seed for -1, which is not known before.
                    seed: Math.max(Number(field("seed input")) || 0, 0),
                    presets: valueOf("lbw_ratiospreset textarea"),
                    elements: valueOf("element textarea"),
                    default_preset: defaultPreset(),
                }),
                // What was baked has its block weights in it, and must not get the default's again.
                newTag: name => `<lora:${name}:1${defaultPreset() ? ":lbw=ALL" : ""}>`,
                replace: (...change) => replaceTags(tabname, ...change),
            },
        });
    }

    // Saving and loading check the text too, and a check that came after them would take their message away.
    function pressOnPause(area, button, instead) {
        let timer;
        for (const other of instead) other.addEventListener("click", () => clearTimeout(timer));
        area.addEventListener("input", () => {
            clearTimeout(timer);
            timer = setTimeout(() => button.click(), CHECK_AFTER_MS);
        });
    }

    function goToLine(area, line) {
        const starts = area.value.split("\n").slice(0, line);
        const end = starts.join("\n").length;
        area.focus();
        area.setSelectionRange(end - starts.at(-1).length, end);
        area.scrollTop = (line - 2) * parseFloat(getComputedStyle(area).lineHeight);
    }

    function setUpTextFile(tabname, prefix, areaId, contentId) {
        const area = find(tabname, `${areaId} textarea`);
        const check = find(tabname, `${prefix}_check`);
        pressOnPause(area, check, [find(tabname, `${prefix}_savetext`), find(tabname, `${prefix}_reload`)]);
        check.click();
        find(tabname, contentId).addEventListener("click", ({target}) => {
            const {line} = target.dataset ?? {};
            if (line) goToLine(area, Number(line));
        });
    }

    // A file that was saved in one tab is loaded in the other, unless there are edits there that are not saved.
    function followOtherTab(tabname, prefix, areaId, contentId) {
        const other = tabname === "txt2img" ? "img2img" : "txt2img";
        const area = find(tabname, `${areaId} textarea`);
        const content = find(tabname, contentId);
        const remember = () => { area.inFile = area.value; };
        remember();
        new MutationObserver(() => {
            const state = content.querySelector(".lbw-notes")?.dataset.state;
            if (!state) return;
            // Gradio sets the text box's value in the same turn, before or after the notes.
            setTimeout(() => {
                remember();
                const otherArea = find(other, `${areaId} textarea`);
                const isClean = otherArea && (otherArea.inFile ?? otherArea.value) === otherArea.value;
                if (state === "saved" && isClean && otherArea.value !== area.value) find(other, `${prefix}_reload`).click();
            });
        }).observe(content, {childList: true, subtree: true});
    }

    // The title's checkbox switches the extension on and off, and the accordion only opens and closes: with the two
    // linked, making room on the page would switch off what the prompt's tags ask for. One click on the box unlinks
    // them, as on the host's other accordions; this one is kept from changing anything else.
    function unlinkTitle(tabname) {
        const accordion = find(tabname, "lbw_active.input-accordion");
        if (!accordion?.visibleCheckbox) return;
        const box = accordion.visibleCheckbox;
        box.addEventListener("click", event => event.preventDefault(), {once: true});
        box.click();
        box.setAttribute("aria-label", "LoRA Block Weight: active");
        const title = accordion.querySelector(".label-wrap");
        // Not before gradio 4 has finished making the accordion: it would open it again.
        requestAnimationFrame(() => title.classList.contains("open") && title.click());
    }

    // The host shows what the generation said below the images of the tab that it was started in.
    function setUpStatus(tabname) {
        const source = gradioApp().querySelector(`#html_log_${tabname}`);
        const target = find(tabname, "lbw_status .lbw-status");
        let shown = "";
        const copy = () => {
            const lines = [...source.querySelectorAll(".comments")].flatMap(part => part.innerText.split("\n"));
            const ours = lines.filter(line => line.startsWith(PREFIX)).map(line => line.slice(PREFIX.length));
            if (ours.join("\n") === shown) return;
            shown = ours.join("\n");
            if (shown) say(tabname, ""); // what was put into the prompt is no news any more
            target.replaceChildren(...ours.map(line => Object.assign(document.createElement("p"), {textContent: line})));
        };
        new MutationObserver(copy).observe(source.closest(".block") ?? source, {childList: true, subtree: true, characterData: true});
    }

    // What stands above the first section of a group; the top of the panel, and the sections after it, are for the tag.
    const HEADINGS = {lbw_weights_setting: "Presets and rules", lbw_plots: "Plots", lbw_strength: "LoRA files"};

    function addHeadings(tabname) {
        for (const [section, textContent] of Object.entries(HEADINGS)) {
            find(tabname, section).before(lbwDom.element("p", {className: "lbw-group-title", textContent}));
        }
    }

    function onFirstSight(element, callback) {
        const observer = new IntersectionObserver(entries => {
            if (!entries.some(entry => entry.isIntersecting)) return;
            observer.disconnect();
            callback();
        });
        observer.observe(element);
    }

    // What is in the panel is set up when it is first seen: most pages are loaded without a look at it.
    function setUpPanel(tabname) {
        lbwWords.follow(find(tabname, "lbw_panel"));
        addHeadings(tabname);
        for (const file of TEXT_FILES) {
            setUpTextFile(tabname, ...file);
            followOtherTab(tabname, ...file);
        }
        buildInsertRow(tabname);
        lbwPresetMenu.decorate(find(tabname, "lbw_default_preset"), ofPresetMenu(tabname));
        putNames(tabname);
        setUpOwn(tabname);
        onFirstSight(find(tabname, "lbw_strength_show"), () => find(tabname, "lbw_strength_list").click());
        onFirstSight(find(tabname, "lbw_curve_editor"), () => buildCurveEditor(tabname));
        if (jobs[tabname]) onFirstSight(find(tabname, "lbw_live_loras"), () => buildLive(tabname));
        onFirstSight(find(tabname, "lbw_bake_form"), () => buildBake(tabname));
        onFirstSight(find(tabname, "lbw_sliders"), () => buildSliders(tabname));
    }

    onUiLoaded(() => {
        for (const tabname of ["txt2img", "img2img"].filter(name => find(name, "lbw_panel"))) {
            unlinkTitle(tabname);
            watchPrompts(tabname);
            setUpStatus(tabname);
            followJobs(tabname);
            onFirstSight(find(tabname, "lbw_panel"), () => setUpPanel(tabname));
        }
    });

    return {theme, askedFor, made, touched, toSave};
})();
