// The arguments that gradio holds and draws no field for. A button that is nowhere to be seen has an event that runs in the
// browser alone: it gets all of their values, and gives back those that are to be others. Its text changes when the host has
// changed them, with an infotext that was pasted.

const lbwValues = (() => {
    const SAME = {__type__: "update"};
    const tabs = {};

    // `toSet` is what gradio is to be told, `told` what it was told and may not have taken in yet, which it does with the
    // next frame. `shows` are functions that show a value, by argument.
    const stateOf = tabname => (tabs[tabname] ??= {toSet: new Map(), told: new Map(), shows: new Map(), isAsked: false});

    function exchange(tabname, names, values) {
        const {toSet, told, shows} = stateOf(tabname);
        names.forEach((name, index) => told.has(name) || shows.get(name)?.(values[index]));
        const changed = names.map(name => (toSet.has(name) ? toSet.get(name) : SAME));
        toSet.clear();
        return changed;
    }

    function set(tabname, button, name, value) {
        const {toSet, told} = stateOf(tabname);
        const change = {value};
        toSet.set(name, value);
        told.set(name, change);
        button.click();
        requestAnimationFrame(() => requestAnimationFrame(() => {
            if (told.get(name) === change) told.delete(name);
        }));
    }

    // How the value of a field is shown and read; that of a group is the one of its radio buttons that is on.
    function accessOf(field) {
        if (field.type === "checkbox") return [value => { field.checked = value; }, () => field.checked];
        if (field.type === "number") return [value => { field.value = value; }, () => (field.value === "" ? null : Number(field.value))];
        if ("value" in field) return [value => { field.value = value; }, () => field.value];
        const radios = [...field.querySelectorAll("input[type=radio]")];
        return [
            value => radios.forEach(radio => { radio.checked = radio.value === value; }),
            () => radios.find(radio => radio.checked).value,
        ];
    }

    // The arguments of a tab, whose button that is.
    function follow(tabname, button) {
        const state = stateOf(tabname);

        function askSoon() {
            if (state.isAsked || !state.shows.size) return;
            state.isAsked = true;
            queueMicrotask(() => {
                state.isAsked = false;
                button.click();
            });
        }

        new MutationObserver(askSoon).observe(button, {childList: true, subtree: true, characterData: true});
        // Calls `show` with an argument's value, now and when the host has changed it.
        function watch(name, show) {
            state.shows.set(name, show);
            askSoon();
        }

        const setHere = (name, value) => set(tabname, button, name, value);

        // Joins a field to an argument, and returns it.
        function bind(name, field) {
            const [show, read] = accessOf(field);
            field.addEventListener("input", () => setHere(name, read()));
            watch(name, show);
            return field;
        }

        return {set: setHere, watch, bind};
    }

    return {exchange, follow};
})();
