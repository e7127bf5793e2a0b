// XYZ plot and Effective Block Analyzer: what is to be varied. The mode says which of them is made, and the style sheet hides
// the part that it is not for.

const lbwPlots = (() => {
    const MODES = ["Disable", "XYZ plot", "Effective Block Analyzer"];
    const [VARIED, INVERSE] = ["XYZ", "ZYX"];
    const HOW = `The plot varies the LoRA tags with lbw=${VARIED}; lbw=${INVERSE} gets 1 minus their weights. Values stand between commas.`;
    const ANALYZER = "Changes the weight of one block at a time, and measures how much of the image differs.";

    // What varies along an axis, and what its values are. A text that is one by itself is one that the host can translate.
    const TYPES = {
        none: "",
        "Block ID": "IN05-OUT05, BASE M00, NOT IN05-OUT05",
        values: "0,0.5,1, for those blocks",
        "Original Weights": "presets to begin with, two axes add up",
        elements: `rules or their names, for lbwe=${VARIED}`,
        seed: "-1 is a random one",
        start: "5, 50%",
        stop: "5, 50%",
        strength: "instead of the tag's",
    };

    // `bind` joins a field to an argument; `id` makes an element's id.
    function build({frame, id, bind}) {
        const {element, labelled} = lbwDom;

        function choice(name, choices) {
            const group = element("div", {className: "lbw-choice"}, ...choices.map(value => {
                const input = element("input", {type: "radio", name: id(`lbw_${name}`), value});
                return element("label", {}, input, element("span", {textContent: value}));
            }));
            return bind(name, group);
        }

        function field(name, title, elementId, about = "") {
            const input = bind(name, element("input", {type: "text", autocomplete: "off"}));
            const made = labelled(title, input, id(elementId));
            if (about) made.firstChild.after(element("small", {textContent: about}));
            return made;
        }

        const type = (name, title, elementId) => labelled(title,
            bind(name, element("select", {}, ...Object.keys(TYPES).map(value => element("option", {value, textContent: value, translate: false})))), id(elementId));

        const fieldset = (title, group, className = "lbw-field") =>
            element("fieldset", {className}, element("legend", {textContent: title}), group);
        const mode = fieldset("What a generation makes", choice("mode", MODES), "lbw-field lbw-mode");
        mode.id = id("lbw_mode");
        const count = bind("seed_count", element("input", {type: "number", step: 1}));
        const hints = Object.entries(TYPES).filter(([, text]) => text).flatMap(([name, text], index) => [
            ...(index ? [" \u00b7 "] : []), element("b", {textContent: name, translate: false}), " ", element("span", {textContent: text}),
        ]);
        frame.replaceChildren(
            mode,
            element("div", {className: "lbw-fields lbw-axes"},
                type("x_type", "X Types", "lbw_xtype"), field("x_values", "X Values", "lbw_xmen"),
                type("y_type", "Y Types", "lbw_ytype"), field("y_values", "Y Values", "lbw_ymen"),
                type("z_type", "Z type", "lbw_ztype"), field("z_values", "Z values", "lbw_zmen")),
            element("div", {className: "lbw-fields lbw-analyzer"},
                field("analyzer_range", "Range", "lbw_exmen", "of the block, of all others"),
                field("analyzer_blocks", "Blocks (12ALL,17ALL,20ALL,26ALL also can be used)", "lbw_eymen", "as in Block ID; 61ALL for Flux"),
                fieldset("diff image color", choice("difference_colour", ["black", "white"])),
                field("threshold", "difference threshold", "diff_thr", "0 to 255; more counts as different"),
                labelled("number of seed", count),
                lbwDom.tick("change X-Y", bind("swap_xy", element("input", {type: "checkbox"})), id("lbw_changexy"))),
            element("div", {className: "lbw-hint"},
                element("p", {className: "lbw-axes"}, ...hints),
                element("p", {className: "lbw-analyzer", textContent: ANALYZER}), element("p", {textContent: HOW}),
                element("button", {
                    type: "button", className: "lbw-button", id: id("lbw_put_varied"), data: {key: "lbw", name: VARIED},
                    textContent: `Put :lbw=${VARIED} into the tag`,
                })),
        );
    }

    return {build};
})();
