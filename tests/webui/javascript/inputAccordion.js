// An accordion whose title has a checkbox: open means on. The hidden gradio checkbox beside it carries the value.

function inputAccordionChecked(id, checked) {
    const {visibleCheckbox, onVisibleCheckboxChange} = gradioApp().querySelector(`#${id}`);
    visibleCheckbox.checked = checked;
    onVisibleCheckboxChange();
}

function setupAccordion(accordion) {
    const label = accordion.querySelector(".label-wrap");
    const title = label.querySelector("span");
    const value = gradioApp().querySelector(`#${accordion.id}-checkbox input`);
    const extra = gradioApp().querySelector(`#${accordion.id}-extra`);
    const isOpen = () => label.classList.contains("open");
    let followsAccordion = true;

    if (extra) label.insertBefore(extra, label.lastElementChild);

    const box = document.createElement("input");
    box.type = "checkbox";
    box.id = `${accordion.id}-visible-checkbox`;
    box.className = `${value.className} input-accordion-checkbox`;
    box.checked = isOpen();
    title.prepend(box);

    accordion.visibleCheckbox = box;
    accordion.onVisibleCheckboxChange = () => {
        if (followsAccordion && isOpen() !== box.checked) label.click();
        if (value.checked !== box.checked) value.click();
    };
    accordion.onChecked = checked => {
        if (isOpen() !== checked) label.click();
    };

    // Whoever ticks the box once wants to look at the settings without switching them on.
    box.addEventListener("click", event => {
        followsAccordion = false;
        event.stopPropagation();
    });
    box.addEventListener("input", accordion.onVisibleCheckboxChange);

    new MutationObserver(() => {
        accordion.classList.toggle("input-accordion-open", isOpen());
        if (followsAccordion) {
            box.checked = isOpen();
            accordion.onVisibleCheckboxChange();
        }
    }).observe(label, {attributes: true, attributeFilter: ["class"]});
}

onUiLoaded(() => gradioApp().querySelectorAll(".input-accordion").forEach(setupAccordion));
