// The row that writes a preset, rules or steps into the prompt's LoRA tags.

const lbwInsert = (() => {
    const SYMBOL = "\u21b5";
    const WHERE = "into the LoRA tag at the cursor, or into all LoRA tags if the cursor is in none";

    // `id` makes an element's id. `lists` are the elements that list the names of presets and rule sets; `put` sets
    // arguments. `ofMenu` is what the menu of presets follows from.
    function build({frame, id, lists, put, ofMenu}) {
        const {element, button, labelled, named} = lbwDom;

        // The title is what is read out, because the host translates titles.
        function putButton(name, what, values) {
            const made = Object.assign(button("", () => put(values())), {id: id(`lbw_put_${name}`), title: `Put ${what} ${WHERE}`});
            made.append(element("span", {textContent: SYMBOL, ariaHidden: "true"}));
            return made;
        }

        // The names with what they do, which follow what is in the file's text box.
        function choices(list) {
            const select = element("select");
            const renew = () => {
                const chosen = select.value;
                const named = [...list.querySelectorAll("[data-name]")];
                select.replaceChildren(element("option", {value: "", textContent: ""}), ...named.map(({dataset, title}) =>
                    element("option", {value: dataset.name, translate: false, textContent: `${dataset.name}: ${title}`})));
                select.value = chosen;
                if (select.selectedIndex < 0) select.value = "";
                showWhole();
            };
            // The whole of a choice that is wider than the field.
            const showWhole = () => { select.title = select.selectedOptions[0].textContent; };
            select.addEventListener("change", showWhole);
            new MutationObserver(renew).observe(list, {childList: true, subtree: true});
            renew();
            return select;
        }

        const step = () => element("input", {type: "text", placeholder: "step", autocomplete: "off"});
        const [rules, start, stop] = [choices(lists.ruleSets), step(), step()];
        const preset = lbwPresetMenu.build({id: id("lbw_insert_preset_menu"), label: "Preset", none: "no preset", ...ofMenu});
        new MutationObserver(preset.renew).observe(lists.presets, {childList: true, subtree: true});

        const group = (...parts) => element("div", {className: "lbw-insert-group"}, ...parts);
        frame.replaceChildren(
            group(named("Preset", preset, id("lbw_insert_preset")), putButton("lbw", ":lbw=PRESET", () => ({lbw: preset.value}))),
            group(labelled("Element rules", rules, id("lbw_insert_rules")), putButton("lbwe", ":lbwe=RULES", () => ({lbwe: rules.value}))),
            group(labelled("Start", start, id("lbw_insert_start")), labelled("Stop", stop, id("lbw_insert_stop")),
                putButton("steps", ":start= and :stop=", () => ({start: start.value.trim(), stop: stop.value.trim()}))),
        );
    }

    return {build};
})();
