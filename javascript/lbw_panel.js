// The panel's part in the browser: writing into the prompt, the check while typing, and the status line.

(() => {
    const PREFIX = "LoRA Block Weight: ";
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
            for (const event of ["input", "keyup", "pointerup", "focus"]) prompt.addEventListener(event, () => panels[tabname]?.own.showSoon());
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

    // What of each tab others need once it is set up: its preset files, and the default of the LoRA at the cursor.
    const panels = {};
    // The arguments that gradio holds, see lbw_values.js.
    const values = {};

    const tagTouched = tabname => lbwPrompt.tagAt(promptOf(tabname).value, promptOf(tabname).selectionStart);
    const isOpen = tabname => Boolean(find(tabname, "lbw_panel").offsetParent);

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

    const namesIn = ({content}) => [...content.querySelectorAll("[data-name]")];
    const presetsOf = tabname => namesIn(panels[tabname].presets).map(({dataset}) => dataset);

    // All families of models. They are asked for once, when a panel is first seen.
    let families = [];
    let familiesAsked = null;
    const askFamilies = () => (familiesAsked ??= lbwServer.ask("families").then(({answer, said}) => {
        families = lbwBlockWeights.families(answer ?? []);
        return said ?? "";
    }));

    // What menus of presets follow from.
    const ofPresetMenu = tabname => ({
        presets: () => presetsOf(tabname), family: lbwPresetMenu.loadedFamily, families: () => families,
    });

    function buildInsertRow(tabname, frame) {
        const {presets, elements} = panels[tabname];
        lbwInsert.build({
            frame,
            id: name => idOf(tabname, name),
            lists: {presets: presets.content, ruleSets: elements.content},
            put: (...change) => put(tabname, ...change),
            ofMenu: ofPresetMenu(tabname),
        });
    }

    function buildDefaultPreset(tabname) {
        const menu = lbwPresetMenu.buildTyped({
            id: idOf(tabname, "lbw_default_preset_menu"), label: "Default preset", none: "no preset",
            title: "For every LoRA tag of this tab that has no lbw= of its own; empty: none", ...ofPresetMenu(tabname),
        });
        new MutationObserver(menu.renew).observe(panels[tabname].presets.content, {childList: true, subtree: true});
        values[tabname].bind("default_preset", menu.field);
        const named = lbwDom.named("Default preset", menu, idOf(tabname, "lbw_default_preset"));
        return lbwDom.element("div", {className: "lbw-make"}, named);
    }

    // Names anywhere in the panel go into the prompt.
    function putNames(tabname) {
        find(tabname, "lbw_panel").addEventListener("click", ({target}) => {
            const {key, name} = target.dataset ?? {};
            if (key) put(tabname, {[key]: name});
        });
    }

    async function buildSliders(tabname, frame) {
        const said = await askFamilies();
        if (said) {
            frame.replaceChildren(lbwDom.said(said));
            return;
        }
        const {area, presets} = panels[tabname];
        lbwMakeWeights.build({
            frame,
            id: name => idOf(tabname, name),
            families,
            presets: () => presetsOf(tabname),
            presetText: () => area.value,
            async setPresetText(text, isSaved) {
                write(area, text);
                await presets.run(isSaved ? "save" : "check");
            },
        });
    }

    function buildCurveEditor(tabname, frame) {
        lbwCurve.build({
            frame,
            steps: () => stepsOf(tabname),
            id: name => idOf(tabname, name),
            presets: () => namesIn(panels[tabname].presets).map(({dataset, title}) => ({name: dataset.name, title})),
            read: key => lbwPrompt.getArgument(promptOf(tabname).value, promptOf(tabname).selectionStart, key),
            write: change => setInPrompt(tabname, change),
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

    function buildLive(tabname, frame) {
        if (!jobs[tabname]) return;
        lbwLive.build({
            frame,
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

    const defaultPresetOf = tabname => find(tabname, "lbw_default_preset input").value;
    const textsOf = tabname => ({
        presets: panels[tabname].area.value, elements: panels[tabname].rules.value, default_preset: defaultPresetOf(tabname),
    });

    function buildBake(tabname, frame) {
        const field = selector => gradioApp().querySelector(`#${tabname}_${selector}`)?.value ?? "";
        lbwBake.build({
            frame,
            id: name => idOf(tabname, name),
            theme,
            page: {
                prompt: () => field("prompt textarea"),
                steps: () => stepsOf(tabname),
                order: () => ({
                    // The host draws a seed for -1, which is not known before.
                    seed: Math.max(Number(field("seed input")) || 0, 0),
                    ...textsOf(tabname),
                }),
                // What was baked has its block weights in it, and must not get the default's again.
                newTag: name => `<lora:${name}:1${defaultPresetOf(tabname) ? ":lbw=ALL" : ""}>`,
                replace: (...change) => replaceTags(tabname, ...change),
            },
        });
    }

    function write(area, text) {
        area.value = text;
        updateInput(area);
    }

    const otherTab = tabname => (tabname === "txt2img" ? "img2img" : "txt2img");
    const presetAreaOf = tabname => find(tabname, "lbw_ratiospreset textarea");

    // A file that was saved in one tab is loaded in the other, unless there are edits there that are not saved. A tab that
    // nobody has looked at has none.
    function followSaved(tabname, file, text) {
        const other = otherTab(tabname);
        if (panels[other]) {
            if (panels[other][file].isClean()) panels[other][file].run("reload");
        } else if (values[other]) {
            if (file === "presets") write(presetAreaOf(other), text);
            else values[other].set("elements", text);
        }
    }

    // A page has the texts that the files had when the server made it. Where they are others now, it gets them; asking costs
    // less than an event of gradio's, with which the browser goes through all components of the page.
    async function renewTexts(tabnames) {
        const made = Object.fromEntries(tabnames.map(tabname => [tabname, find(tabname, "lbw_values").textContent.trim()]));
        const {answer} = await lbwServer.ask("texts");
        if (!answer) return;
        for (const tabname of tabnames) {
            const area = presetAreaOf(tabname);
            const panel = panels[tabname];
            if (area.value !== answer.presets) {
                write(area, answer.presets);
                panel?.presets.begin();
            }
            if (made[tabname] === answer.elements_version) continue;
            if (!panel) values[tabname].set("elements", answer.elements);
            else if (panel.rules.value !== answer.elements) {
                write(panel.rules, answer.elements);
                panel.elements.begin();
            }
        }
    }

    // Where the presets are edited is gradio's own text box, which other extensions read.
    function buildPresetFile(tabname) {
        const area = presetAreaOf(tabname);
        const file = lbwTextFile.build({
            file: "presets", area, write: text => write(area, text),
            ids: {content: idOf(tabname, "lbw_ratios"), reload: idOf(tabname, "lbw_reload"), save: idOf(tabname, "lbw_savetext")},
            onSaved: text => followSaved(tabname, "presets", text),
        });
        file.begin();
        return file;
    }

    function buildRulesFile(tabname, area) {
        const file = lbwTextFile.build({
            file: "elements", area, write: text => write(area, text),
            ids: {content: idOf(tabname, "lbw_element_names"), reload: idOf(tabname, "lbw_element_reload"), save: idOf(tabname, "lbw_element_savetext")},
            onSaved: text => followSaved(tabname, "elements", text),
        });
        area.addEventListener("input", () => values[tabname].set("elements", area.value));
        values[tabname].watch("elements", text => {
            if (area.value === text && !file.isNew()) return;
            area.value = text;
            file.begin();
        });
        return file;
    }

    function buildWeightsSetting(tabname, frame) {
        const {presets} = panels[tabname];
        frame.replaceChildren(lbwDom.element("div", {className: "lbw-tools"}, presets.reload, presets.save), find(tabname, "lbw_ratiospreset"), presets.content);
    }

    const RULES_INFO = "NAME:blocks:elements:ratio, separated by empty lines. In a prompt: <lora:name:1:lbwe=NAME>";

    function buildElemental(tabname, frame) {
        const {element, button, labelled, tick} = lbwDom;
        const {elements, rules} = panels[tabname];
        const hits = element("div", {id: idOf(tabname, "lbw_element_hits")});
        const show = button("Show what the rules hit", () => lbwServer.show(hits, "hits", {text: rules.value}));
        show.id = idOf(tabname, "lbw_element_hits_button");
        const text = labelled("Element rules", rules, idOf(tabname, "element"));
        text.firstChild.after(element("small", {textContent: RULES_INFO}));
        text.classList.add("lbw-text");
        const prints = values[tabname].bind("print_changes", element("input", {type: "checkbox"}));
        frame.replaceChildren(
            element("div", {className: "lbw-tools"}, elements.reload, elements.save, show), text, elements.content,
            tick("print change", prints, idOf(tabname, "lbw_print_change")), hits,
        );
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
    function setUpStatus(tabname, target) {
        const source = gradioApp().querySelector(`#html_log_${tabname}`);
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
        copy();
    }

    // The sections, and what stands above the first one of a group; the top of the panel, and those after it, are for the tag.
    // `inside` is the element in a section that it is drawn in, by its id and class.
    const SECTIONS = [
        {name: "curve", title: "Curve", draw: buildCurveEditor, inside: ["lbw_curve_editor", ""]},
        {name: "schedule", title: "Schedule", draw: (tabname, frame) => lbwPictures.buildSchedule({
            frame, id: name => idOf(tabname, name), bind: values[tabname].bind,
            question: () => ({asked: askedFor(tabname), ...textsOf(tabname)}),
        })},
        {name: "live", title: "Live", draw: buildLive, inside: ["lbw_live_loras", "lbw-live"]},
        {heading: "Presets and rules"},
        {name: "weights_setting", title: "Weights setting", draw: buildWeightsSetting},
        {name: "make_weights", title: "Make Weights", draw: buildSliders, inside: ["lbw_sliders", ""]},
        {name: "elemental", title: "Elemental", draw: buildElemental},
        {heading: "Plots"},
        {name: "plots", title: "XYZ plot", className: "lbw-plots", draw: (tabname, frame) => lbwPlots.build({
            frame, id: name => idOf(tabname, name), bind: values[tabname].bind,
        })},
        {heading: "LoRA files"},
        {name: "strength", title: "Strength of a LoRA", draw: (tabname, frame) => lbwPictures.buildStrength({
            frame, id: name => idOf(tabname, name), theme,
        })},
        {name: "bake", title: "Bake", draw: buildBake, inside: ["lbw_bake_form", "lbw-bake"]},
    ];

    function buildSection(tabname, {heading, name, title, className, draw, inside}) {
        const {element, section} = lbwDom;
        if (heading) return element("p", {className: "lbw-group-title", textContent: heading});
        return section(idOf(tabname, `lbw_${name}`), title, frame => {
            if (!inside) return void draw(tabname, frame);
            const [id, insideClass] = inside;
            const made = element("div", {className: `lbw-make ${insideClass}`});
            frame.classList.remove("lbw-make");
            frame.id = idOf(tabname, id);
            frame.append(made);
            draw(tabname, made);
        }, className);
    }

    function onFirstSight(element, callback) {
        const observer = new IntersectionObserver(entries => {
            if (!entries.some(entry => entry.isIntersecting)) return;
            observer.disconnect();
            callback();
        });
        observer.observe(element);
    }

    // What is in the panel is drawn when it is first seen: most pages are loaded without a look at it.
    function setUpPanel(tabname) {
        const {element} = lbwDom;
        const panel = find(tabname, "lbw_panel");
        const rules = element("textarea", {rows: 8, spellcheck: false});
        panels[tabname] = {area: presetAreaOf(tabname), rules};
        Object.assign(panels[tabname], {presets: buildPresetFile(tabname), elements: buildRulesFile(tabname, rules)});
        askFamilies();

        const insert = element("div", {className: "lbw-make lbw-insert"});
        // What was put into the prompt, and what the last generation of this tab did.
        const [said, status] = ["lbw-said", "lbw-status"].map(className => lbwDom.setAttributes(element("div", {className}), {role: "status"}));
        const own = element("div", {id: idOf(tabname, "lbw_own"), className: "lbw-own-frame lbw-away"});
        const ownPart = [...panel.children].find(child => child.matches("[id$=lbw_active], :has([id$=lbw_active])"));
        const first = [element("div", {id: idOf(tabname, "lbw_status")}, insert, said, status), own, buildDefaultPreset(tabname)];
        if (ownPart) ownPart.after(...first);
        else panel.prepend(...first);
        panel.append(
            ...SECTIONS.map(each => buildSection(tabname, each)),
            lbwDom.tick("Debug", values[tabname].bind("debug", element("input", {type: "checkbox"})), idOf(tabname, "lbw_debug")),
        );

        buildInsertRow(tabname, insert);
        putNames(tabname);
        setUpStatus(tabname, status);
        panels[tabname].own = lbwOwnDefault.build({
            frame: own, tag: () => tagTouched(tabname), isSeen: () => isOpen(tabname),
            put: weights => say(tabname, setAnyInPrompt(tabname, lbwPrompt.argumentsOf(weights))),
        });
        lbwWords.follow(panel);
    }

    onUiLoaded(() => {
        const tabnames = ["txt2img", "img2img"].filter(name => find(name, "lbw_panel"));
        for (const tabname of tabnames) {
            values[tabname] = lbwValues.follow(tabname, find(tabname, "lbw_values"));
            unlinkTitle(tabname);
            watchPrompts(tabname);
            followJobs(tabname);
            onFirstSight(find(tabname, "lbw_panel"), () => setUpPanel(tabname));
        }
        if (tabnames.length) renewTexts(tabnames);
    });
})();
