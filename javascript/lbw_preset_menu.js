// A menu of presets in which each stands with what it does to the loaded model: its blocks as a strip, coloured by weight.

const lbwPresetMenu = (() => {
    // Relative, as the host's own questions, because a host may be served below another path.
    const ADDRESS = "./internal/lbw/model";
    const NOT_FOR_MODEL = "not for this model";
    const TYPING_MS = 700;
    const PAGE = 10;
    const MARGIN = 8;
    const HIGHEST = 440;

    // The family of the loaded model; null where the server does not say.
    async function loadedFamily() {
        const {answer} = await lbwServer.send(ADDRESS);
        return answer?.family ? lbwBlockWeights.families([answer.family])[0] : null;
    }

    // The name of a preset -> what it does, {strip, words}. For a model that is not known it is drawn as of the first family
    // that has it.
    function reader(presets, family, families) {
        const {Unreadable, read} = lbwBlockWeights;
        const lines = new Map(presets.map(({name, entry}) => [name, entry.split("\n")]));
        return name => {
            for (const each of family ? [family] : families) {
                try {
                    const {blocks} = read(name, each, lines);
                    return {strip: lbwStrip.draw(each, blocks), words: lbwStrip.inWords(each, blocks)};
                } catch (error) {
                    if (!(error instanceof Unreadable)) throw error;
                }
            }
            return {strip: lbwDom.element("span", {className: "lbw-strip", textContent: NOT_FOR_MODEL}), words: NOT_FOR_MODEL};
        };
    }

    // A field that opens the menu. `presets` are [{name, entry}], `family` is that of the model, or a promise of it, or null;
    // `families` are those of the page. `none` is what no choice is called, and what stands in the field then, if anything.
    function build({id, label, none, placeholder = "", presets, family, families, onChoose = () => {}}) {
        const {element, setAttributes} = lbwDom;
        const field = setAttributes(element("div", {className: "lbw-menu-field", tabIndex: 0}),
            {role: "combobox", "aria-haspopup": "listbox", "aria-expanded": "false", "aria-label": label});
        const frame = element("div", {className: "lbw-menu-frame"}, field);
        let value = "";
        let known = null;
        let list = null;
        let active = 0;
        let typed = "";
        let timer;

        const entries = () => [{name: ""}, ...presets()];
        const options = () => [...list.children];
        const readPreset = () => reader(presets(), known, families());

        function set(name) {
            value = entries().some(each => each.name === name) ? name : "";
            const {strip, words} = value ? readPreset()(value) : {};
            const text = element("span", {textContent: value || placeholder, translate: !value});
            field.replaceChildren(text, ...(value ? [strip] : []));
            field.title = words ?? "";
        }

        function makeOption(name, index, read) {
            const {strip, words} = name ? read(name) : {words: none};
            const text = name ? `${name}: ${words}` : none;
            const made = element("div", {id: `${id}_${index}`, className: "lbw-menu-option", title: words, data: {value: name}},
                element("span", {textContent: name || none, translate: !name}), ...(name ? [strip] : []));
            return setAttributes(made, {role: "option", "aria-label": text, "aria-selected": String(name === value)});
        }

        function activate(index) {
            options()[active]?.classList.remove("lbw-active");
            active = Math.min(Math.max(index, 0), options().length - 1);
            options()[active].classList.add("lbw-active");
            options()[active].scrollIntoView({block: "nearest"});
            field.setAttribute("aria-activedescendant", options()[active].id);
        }

        function fill() {
            const read = readPreset();
            list.replaceChildren(...entries().map(({name}, index) => makeOption(name, index, read)));
            place();
            activate(active);
        }

        // Below the field, or above it where there is more room.
        function place() {
            const box = field.getBoundingClientRect();
            const below = innerHeight - box.bottom - MARGIN;
            const isAbove = below < Math.min(list.scrollHeight, HIGHEST) && box.top - MARGIN > below;
            const room = Math.min(isAbove ? box.top - MARGIN : below, HIGHEST);
            Object.assign(list.style, {
                minWidth: `${box.width}px`, maxWidth: `${innerWidth - 2 * MARGIN}px`, maxHeight: `${room}px`,
                top: isAbove ? "auto" : `${box.bottom + 2}px`, bottom: isAbove ? `${innerHeight - box.top + 2}px` : "auto",
            });
            list.style.left = `${Math.max(MARGIN, Math.min(box.left, innerWidth - MARGIN - list.offsetWidth))}px`;
        }

        const follow = ({target}) => target !== list && place();

        function open() {
            if (list) return;
            set(value);
            list = setAttributes(element("div", {id: `${id}_list`, className: "lbw-menu"}),
                {role: "listbox", "aria-label": label, popover: "manual"});
            // So that the field keeps the focus.
            list.addEventListener("mousedown", event => event.preventDefault());
            list.addEventListener("click", event => {
                const found = event.target.closest("[role=option]");
                if (found) choose(found.dataset.value);
            });
            list.addEventListener("pointermove", ({target}) => {
                const index = options().indexOf(target.closest("[role=option]"));
                if (index >= 0 && index !== active) activate(index);
            });
            frame.append(list);
            list.showPopover?.();
            active = Math.max(entries().findIndex(each => each.name === value), 0);
            setAttributes(field, {"aria-expanded": "true", "aria-controls": list.id});
            fill();
            addEventListener("scroll", follow, true);
            addEventListener("resize", close);
            const opened = list;
            Promise.resolve(family()).then(found => {
                known = found;
                set(value);
                if (list === opened) fill();
            });
        }

        function close() {
            if (!list) return;
            removeEventListener("scroll", follow, true);
            removeEventListener("resize", close);
            list.remove();
            list = null;
            field.setAttribute("aria-expanded", "false");
            for (const name of ["aria-activedescendant", "aria-controls"]) field.removeAttribute(name);
        }

        function choose(name) {
            close();
            set(name);
            onChoose(value);
        }

        // What is typed leads to the next name that begins so.
        function type(sign) {
            clearTimeout(timer);
            timer = setTimeout(() => { typed = ""; }, TYPING_MS);
            typed += sign.toLowerCase();
            const isRepeated = [...typed].every(each => each === typed[0]);
            const wanted = isRepeated ? typed[0] : typed;
            const names = entries().map(({name}) => name.toLowerCase());
            const inTurn = names.map((_, index) => (active + index + (isRepeated ? 1 : 0)) % names.length);
            const found = inTurn.find(index => names[index].startsWith(wanted)) ?? -1;
            if (found >= 0) activate(found);
        }

        const moves = {ArrowDown: 1, ArrowUp: -1, PageDown: PAGE, PageUp: -PAGE, Home: -Infinity, End: Infinity};

        field.addEventListener("keydown", event => {
            const {key, altKey, ctrlKey, metaKey} = event;
            if (ctrlKey || metaKey) return;
            const isAccepted = list && (["Enter", " ", "Tab"].includes(key) || (altKey && key === "ArrowUp"));
            if (isAccepted) {
                if (key !== "Tab") event.preventDefault();
                choose(options()[active].dataset.value);
            } else if (key === "Escape" && list) {
                event.preventDefault();
                close();
            } else if (["Enter", " "].includes(key) || key in moves) {
                event.preventDefault();
                if (!list) open();
                else activate(active + moves[key]);
            } else if (key.length === 1 && !altKey) {
                event.preventDefault();
                open();
                type(key);
            }
        });
        field.addEventListener("click", () => (list ? close() : open()));
        field.addEventListener("blur", close);
        set("");

        return {
            frame, field,
            get value() { return value; },
            // The presets are others now.
            renew() {
                set(value);
                if (list) fill();
            },
        };
    }

    // Gives the choices of gradio's own drop-down their strips. It makes them when it is opened, and uses them again for
    // others while somebody types.
    function decorate(dropdown, {presets, family, families}) {
        const items = () => [...dropdown.querySelectorAll("li")];
        const stripOf = item => item.querySelector(".lbw-strip");
        let known = null;

        function renew() {
            if (!items().length) return;
            const names = new Set(presets().map(({name}) => name));
            const read = reader(presets(), known, families());
            for (const item of items()) {
                const name = item.getAttribute("aria-label");
                if (stripOf(item)?.dataset.of === name) continue;
                stripOf(item)?.remove();
                item.removeAttribute("aria-description");
                if (!names.has(name)) continue;
                const {strip, words} = read(name);
                strip.dataset.of = name;
                item.setAttribute("aria-description", window.localization?.[words] ?? words);
                item.append(strip);
            }
        }

        async function renewAll() {
            known = await family();
            items().forEach(item => stripOf(item)?.remove());
            renew();
        }

        const isList = node => node.nodeName === "UL";
        new MutationObserver(records => {
            renew();
            if (records.some(({addedNodes}) => [...addedNodes].some(isList))) renewAll();
        }).observe(dropdown, {childList: true, subtree: true, attributeFilter: ["aria-label"]});
    }

    return {build, decorate, loadedFamily};
})();
