// A preset file in a text box: reload, save, a check while typing, and the list of what is in it.

const lbwTextFile = (() => {
    const CHECK_AFTER_MS = 400;
    const SAVE = "Save Presets";
    const SAVE_OVER = "Save over the changed file";

    function goToLine(area, line) {
        const starts = area.value.split("\n").slice(0, line);
        const end = starts.join("\n").length;
        area.focus();
        area.setSelectionRange(end - starts.at(-1).length, end);
        area.scrollTop = (line - 2) * parseFloat(getComputedStyle(area).lineHeight);
    }

    // `file` is its name to the server, `write` puts a text into the box. `onSaved` is told of a text that is the file's now.
    function build({file, area, write, ids, onSaved}) {
        const {element, button} = lbwDom;
        const content = element("div", {id: ids.content});
        const reload = Object.assign(button("Reload Presets", () => run("reload")), {id: ids.reload});
        const save = Object.assign(button(SAVE, () => run("save")), {id: ids.save});
        save.classList.add("lbw-primary");
        // Of the file that the text was made from, and the text that it had.
        let loaded = null;
        let inFile = null;
        let timer;
        let last = 0;

        // Saving and loading check the text too, and a check that came after them would take their message away.
        async function run(step) {
            clearTimeout(timer);
            const number = ++last;
            const text = area.value;
            const {answer, said} = await lbwServer.ask("file", {file, step, text: step === "reload" ? "" : text, loaded});
            if (step === "check" && number !== last) return;
            if (!answer) {
                content.replaceChildren(lbwDom.said(said));
                return;
            }
            loaded = answer.loaded;
            if (answer.text !== null && answer.text !== area.value) write(answer.text);
            clearTimeout(timer);
            save.textContent = answer.is_changed ? SAVE_OVER : SAVE;
            content.innerHTML = answer.html;
            const {state} = content.querySelector(".lbw-notes").dataset;
            if (!state) return;
            inFile = answer.text ?? text;
            if (state === "saved") onSaved(inFile);
        }

        area.addEventListener("input", () => {
            clearTimeout(timer);
            timer = setTimeout(() => run("check"), CHECK_AFTER_MS);
        });
        content.addEventListener("click", ({target}) => {
            const {line} = target.dataset ?? {};
            if (line) goToLine(area, Number(line));
        });

        return {
            content, reload, save,
            run,
            // What the page was loaded with.
            begin() {
                inFile = area.value;
                loaded = null;
                return run("check");
            },
            isClean: () => area.value === inFile,
            isNew: () => inFile === null,
        };
    }

    return {build};
})();
