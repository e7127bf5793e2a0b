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
    const labelled = (text, field, id) => element("label", {id, className: "lbw-field"}, element("span", {textContent: text}), field);

    function setAttributes(made, attributes) {
        for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
        return made;
    }

    function svg(tag, attributes = {}, ...children) {
        const made = setAttributes(document.createElementNS(SVG, tag), attributes);
        made.append(...children);
        return made;
    }

    // Where messages of a section appear; they are read out.
    const said = () => setAttributes(element("p", {className: "lbw-said"}), {role: "status"});

    return {element, button, labelled, svg, said, setAttributes};
})();
