// Elements of the page, made in one expression. Whoever uses it does so when the page is there: the files come in any order.

const lbwDom = (() => {
    const SVG = "http://www.w3.org/2000/svg";

    function element(tag, properties = {}, ...children) {
        const {className, data, ...rest} = properties;
        const made = Object.assign(document.createElement(tag), rest);
        if (className) made.className = className;
        Object.assign(made.dataset, data);
        made.append(...children);
        return made;
    }

    function button(text, onClick) {
        const made = element("button", {type: "button", textContent: text, className: "lbw-button"});
        made.addEventListener("click", onClick);
        return made;
    }

    // A field with its name above it. The id is that of both together, as gradio has it.
    const labelled = (text, field, id = "") => element("label", {id, className: "lbw-field"}, element("span", {textContent: text}), field);

    // A field with a list of its own and its name; it is no form's field, so no label leads to it.
    function named(text, {frame, field}, id) {
        const name = element("span", {textContent: text, ariaHidden: "true"});
        name.addEventListener("click", () => field.focus());
        return element("div", {id, className: "lbw-field"}, name, frame);
    }

    function setAttributes(made, attributes) {
        for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
        return made;
    }

    function svg(tag, attributes = {}, ...children) {
        const made = setAttributes(document.createElementNS(SVG, tag), attributes);
        made.append(...children);
        return made;
    }

    // A checkbox with its name beside it.
    const tick = (text, box, id = "") => element("label", {id, className: "lbw-tick"}, box, element("span", {textContent: text}));

    // A part of the panel that opens and closes as gradio's accordions do. `draw` is called when it is first opened, with
    // the element that it is to fill.
    function section(id, title, draw, className = "") {
        const icon = element("span", {className: "icon", textContent: "\u25bc", ariaHidden: "true"});
        const line = setAttributes(element("button", {type: "button", className: "label-wrap"}, element("span", {textContent: title}), icon),
            {"aria-expanded": "false"});
        const frame = element("div", {className: `lbw-section ${className}`, id}, line);
        let content;
        line.addEventListener("click", () => {
            const isOpen = line.classList.toggle("open");
            line.setAttribute("aria-expanded", String(isOpen));
            if (!content) {
                content = element("div", {className: "lbw-make"});
                frame.append(content);
                draw(content);
            }
            content.hidden = !isOpen;
        });
        return frame;
    }

    // Where messages of a section appear; they are read out.
    const said = (message = "") => setAttributes(element("p", {className: "lbw-said", textContent: message}), {role: "status"});

    return {element, button, labelled, named, tick, section, svg, said, setAttributes};
})();
