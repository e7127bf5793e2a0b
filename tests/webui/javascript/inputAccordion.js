// An accordion whose title has a checkbox: open means on. The hidden gradio checkbox beside it carries the value.

function inputAccordionChecked(id, checked) {
    const {visibleCheckbox, onVisibleCheckboxChange} = gradioApp().querySelector(`#${id}`);
    visibleCheckbox.checked = checked;
    onVisibleCheckboxChange();
}

// The title line as gradio made it: whether the accordion is open, and a click where that should be otherwise.
function accordionTitle(accordion) {
    const line = accordion.querySelector(".label-wrap");
    const isOpen = () => line.classList.contains("open");
    return {
        line,
        isOpen,
        setOpen: wanted => wanted === isOpen() || line.click(),
        onToggle: react => new MutationObserver(react).observe(line, {attributes: true, attributeFilter: ["class"]}),
    };
}

function addTitleCheckbox(accordion, title, likeness) {
    const box = Object.assign(document.createElement("input"), {
        type: "checkbox",
        id: `${accordion.id}-visible-checkbox`,
        className: `${likeness.className} input-accordion-checkbox`,
        checked: title.isOpen(),
    });
    title.line.querySelector("span").prepend(box);
    return box;
}

function setupAccordion(accordion) {
    const title = accordionTitle(accordion);
    const hidden = gradioApp().querySelector(`#${accordion.id}-checkbox input`);
    const extra = gradioApp().querySelector(`#${accordion.id}-extra`);
    if (extra) title.line.lastElementChild.before(extra);
    const box = addTitleCheckbox(accordion, title, hidden);

    // Whoever ticks the box once wants to look at the settings without switching them on.
    let tickedByHand = false;
    const publish = () => {
        if (!tickedByHand) title.setOpen(box.checked);
        if (hidden.checked !== box.checked) hidden.click();
    };
    box.addEventListener("click", event => {
        tickedByHand = true;
        event.stopPropagation();
    });
    box.addEventListener("input", publish);
    title.onToggle(() => {
        accordion.classList.toggle("input-accordion-open", title.isOpen());
        if (tickedByHand) return;
        box.checked = title.isOpen();
        publish();
    });
    Object.assign(accordion, {visibleCheckbox: box, onVisibleCheckboxChange: publish, onChecked: title.setOpen});
}

onUiLoaded(() => gradioApp().querySelectorAll(".input-accordion").forEach(setupAccordion));
