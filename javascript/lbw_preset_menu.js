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

    const MOVES = {ArrowDown: 1, ArrowUp: -1, PageDown: PAGE, PageUp: -PAGE, Home: -Infinity, End: Infinity};

    // The list of choices at a field, inside `frame`. `presets` are [{name, entry}], `family` is that of the model, or a
    // promise of it, or null; `families` are those of the page. `none` is what no choice is called. `onKnown` is called when
    // the model is known, `onChoose` with the name of a choice that was taken.
    function buildList({id, label, none, presets, family, families, field, frame, onKnown, onChoose}) {
        const {element, setAttributes} = lbwDom;
        let known = null;
        let list = null;
        let active = -1;

        setAttributes(field, {role: "combobox", "aria-haspopup": "listbox", "aria-expanded": "false"});
        const options = () => [...list.children];
        const read = name => reader(presets(), known, families())(name);

        function makeOption(name, index, chosen, readEach) {
            const {strip, words} = name ? readEach(name) : {words: none};
            const text = name ? `${name}: ${words}` : none;
            const made = element("div", {id: `${id}_${index}`, className: "lbw-menu-option", title: words, data: {value: name}},
                element("span", {textContent: name || none, translate: !name}), ...(name ? [strip] : []));
            return setAttributes(made, {role: "option", "aria-label": text, "aria-selected": String(name === chosen)});
        }

        function activate(index) {
            options()[active]?.classList.remove("lbw-active");
            active = index;
            const option = options()[active];
            if (!option) return void field.removeAttribute("aria-activedescendant");
            option.classList.add("lbw-active");
            option.scrollIntoView({block: "nearest"});
            field.setAttribute("aria-activedescendant", option.id);
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
        const moved = new ResizeObserver(place);

        // Those that are offered, of which one may be chosen already.
        function fill(names, chosen) {
            const readEach = reader(presets(), known, families());
            list.replaceChildren(...names.map((name, index) => makeOption(name, index, chosen, readEach)));
            place();
        }

        function open() {
            list = setAttributes(element("div", {id: `${id}_list`, className: "lbw-menu"}),
                {role: "listbox", "aria-label": label, popover: "manual"});
            // So that the field keeps the focus.
            list.addEventListener("mousedown", event => event.preventDefault());
            list.addEventListener("click", event => {
                const found = event.target.closest("[role=option]");
                if (found) onChoose(found.dataset.value);
            });
            list.addEventListener("pointermove", ({target}) => {
                const index = options().indexOf(target.closest("[role=option]"));
                if (index >= 0 && index !== active) activate(index);
            });
            frame.append(list);
            list.showPopover?.();
            setAttributes(field, {"aria-expanded": "true", "aria-controls": list.id});
            addEventListener("scroll", follow, true);
            addEventListener("resize", close);
            // What is said above the field moves it.
            moved.observe(field.closest(".lbw-panel"));
            Promise.resolve(family()).then(found => {
                known = found;
                onKnown();
            });
        }

        function close() {
            if (!list) return;
            removeEventListener("scroll", follow, true);
            removeEventListener("resize", close);
            moved.disconnect();
            list.remove();
            list = null;
            active = -1;
            field.setAttribute("aria-expanded", "false");
            for (const name of ["aria-activedescendant", "aria-controls"]) field.removeAttribute(name);
        }

        field.addEventListener("blur", close);
        field.addEventListener("keydown", event => {
            const {key, ctrlKey, metaKey, isComposing} = event;
            if (key !== "Escape" || !list || ctrlKey || metaKey || isComposing) return;
            event.preventDefault();
            event.stopPropagation(); // the host's own Escape interrupts a generation
            close();
        });

        return {
            read, activate, fill, open, close,
            get isOpen() { return list !== null; },
            get index() { return active; },
            // The name of the choice that Enter takes; undefined for none.
            get active() { return list && options()[active]?.dataset.value; },
            move(by) { activate(Math.min(Math.max(active + by, 0), options().length - 1)); },
        };
    }

    // A field that opens the list, and shows the choice with its strip. `placeholder` is what stands in it without one.
    function build({id, label, none, placeholder = "", presets, family, families, onChoose = () => {}}) {
        const {element, setAttributes} = lbwDom;
        const field = setAttributes(element("div", {className: "lbw-menu-field", tabIndex: 0}), {"aria-label": label});
        const frame = element("div", {className: "lbw-menu-frame"}, field);
        const list = buildList({id, label, none, presets, family, families, field, frame, onKnown: renew, onChoose: choose});
        let value = "";
        let typed = "";
        let timer;

        const names = () => ["", ...presets().map(({name}) => name)];

        function set(name) {
            value = names().includes(name) ? name : "";
            const {strip, words} = value ? list.read(value) : {};
            const text = element("span", {textContent: value || placeholder, translate: !value});
            field.replaceChildren(text, ...(value ? [strip] : []));
            field.title = words ?? "";
        }

        function renew() {
            set(value);
            if (!list.isOpen) return;
            const {index} = list;
            list.fill(names(), value);
            list.activate(Math.min(index, names().length - 1));
        }

        function open() {
            if (list.isOpen) return;
            set(value);
            list.open();
            list.fill(names(), value);
            list.activate(names().indexOf(value));
        }

        function choose(name) {
            list.close();
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
            const inTurn = names().map((_, index) => (list.index + index + (isRepeated ? 1 : 0)) % names().length);
            const found = inTurn.find(index => names()[index].toLowerCase().startsWith(wanted));
            if (found !== undefined) list.activate(found);
        }

        field.addEventListener("keydown", event => {
            const {key, altKey, ctrlKey, metaKey} = event;
            if (ctrlKey || metaKey) return;
            const isAccepted = list.isOpen && (["Enter", " ", "Tab"].includes(key) || (altKey && key === "ArrowUp"));
            if (isAccepted) {
                if (key !== "Tab") event.preventDefault();
                choose(list.active);
            } else if (["Enter", " "].includes(key) || key in MOVES) {
                event.preventDefault();
                if (!list.isOpen) open();
                else list.move(MOVES[key]);
            } else if (key.length === 1 && !altKey) {
                event.preventDefault();
                open();
                type(key);
            }
        });
        field.addEventListener("click", () => (list.isOpen ? list.close() : open()));
        set("");

        return {frame, field, renew, get value() { return value; }};
    }

    // A field that takes any text, and offers the names that begin with it. It tells of a choice as of what is typed.
    function buildTyped({id, label, title, none, presets, family, families}) {
        const {element} = lbwDom;
        const field = element("input", {type: "text", className: "lbw-menu-field", autocomplete: "off", title, ariaLabel: label});
        const frame = element("div", {className: "lbw-menu-frame"}, field);
        const list = buildList({id, label, none, presets, family, families, field, frame, onKnown: renew, onChoose: choose});
        field.setAttribute("aria-autocomplete", "list");
        let sought = "";
        let isChosen = false;

        const names = () => ["", ...presets().map(({name}) => name)].filter(name => name.toLowerCase().startsWith(sought));

        function renew() {
            if (!list.isOpen) return;
            if (!names().length) return list.close();
            const {active} = list;
            list.fill(names(), field.value);
            list.activate(names().indexOf(active));
        }

        // What stands in the field already is no search: somebody who opens the list wants to see what there is.
        function open(text = "") {
            sought = text.trimStart().toLowerCase();
            if (!list.isOpen && names().length) list.open();
            renew();
        }

        function openAll() {
            open();
            list.activate(names().indexOf(field.value));
        }

        function choose(name) {
            list.close();
            field.value = name;
            isChosen = true;
            field.dispatchEvent(new Event("input"));
            isChosen = false;
        }

        field.addEventListener("input", () => isChosen || open(field.value));
        field.addEventListener("click", () => (list.isOpen ? list.close() : openAll()));
        field.addEventListener("keydown", event => {
            const {key, ctrlKey, metaKey, isComposing} = event;
            if (ctrlKey || metaKey || isComposing) return;
            if (key === "Enter" && list.isOpen) {
                event.preventDefault();
                if (list.active === undefined) list.close();
                else choose(list.active);
            } else if (["ArrowDown", "ArrowUp", "PageDown", "PageUp"].includes(key)) {
                event.preventDefault();
                if (list.isOpen) list.move(MOVES[key]);
                else openAll();
            }
        });

        return {frame, field, renew};
    }

    return {build, buildTyped, loadedFamily};
})();
