// The default of its own that the LoRA at the cursor has: shown, put into its tag, and made of what its tag says.

const lbwOwnDefault = (() => {
    const PAUSE_MS = 250;

    // `tag` is the one at the cursor, {name, weights}; `put` writes block weights into it, `isSeen` is whether anybody looks.
    function build({frame, tag, put, isSeen}) {
        let asked = null;
        let timer;

        const isSame = other => JSON.stringify(other ?? null) === JSON.stringify(asked);
        const rowOf = () => frame.querySelector(".lbw-own");

        // An answer is shown as long as the cursor is where it was asked for.
        function reveal() {
            frame.classList.toggle("lbw-away", !tag() || tag().name !== rowOf()?.dataset.lora);
        }

        async function ask(about, weights = null) {
            asked = about;
            const {answer} = await lbwServer.ask("own", {name: about.name, in_tag: about.weights, weights});
            if (answer && asked === about) frame.innerHTML = answer.html;
            reveal();
        }

        function show() {
            if (!isSeen()) return;
            if (tag() && !isSame(tag())) ask(tag());
            reveal();
        }

        function showSoon() {
            clearTimeout(timer);
            timer = setTimeout(show, PAUSE_MS);
        }

        frame.addEventListener("click", ({target}) => {
            const {own} = target.dataset ?? {};
            if (!own || !tag()) return;
            if (own === "put") {
                put(rowOf().dataset.weights);
                showSoon();
            } else {
                ask(tag(), own === "save" ? tag().weights : "");
            }
        });
        show();
        return {showSoon};
    }

    return {build};
})();
