// Bake: tags of a prompt become a network file. The server makes it as a job, which goes on whatever becomes of the page;
// who has begun a job alone knows its token.

const lbwBake = (() => {
    // Relative, as the host's own questions, because a host may be served below another path.
    const ADDRESS = "./internal/lbw/bake";
    const ASK_EVERY_MS = 500;
    const ASK_SILENT_EVERY_MS = 5000;
    const PRECISIONS = ["fp16", "bf16", "fp32"];
    const HIGHEST_RANK = 1024;
    const FORMS = {kept: "as they are", joined: "with joined ranks", cut: "cut to the rank", full: "as whole differences"};

    const WAITING = "Waiting until other bakings are done.";
    const RUNNING = "Baking.";
    const LOOKED = "This is what would be in the file.";
    const TO_DOWNLOAD = "The file is ready; the server keeps it for ten minutes at most.";
    const CANCELLED = "Cancelled; nothing was written.";
    const REPLACED = "The tag is in the prompt.";
    const NOT_REPLACED = "The prompt does not have all of its tags any more; nothing was changed in it.";
    const LOST = "The server does not know this baking any more; it may have been restarted. Begin it again.";
    const NO_ROUTE = "The server has nothing to bake with; restart it if the extension was updated.";
    const SILENT = "The server does not answer; it will be asked again.";

    const pause = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds));
    const addressOf = (what, values) => `${ADDRESS}${what}?${new URLSearchParams(values)}`;
    const isUnderWay = ({state}) => ["waiting", "running"].includes(state);

    // What the server answers: {answer}, or {said}, and `isSilent` where it is not there.
    async function ask(address, content = null) {
        const {answer, status, detail, isText, said} = await lbwServer.send(address, content);
        if (answer) return {answer};
        if (!status) return {said: SILENT, isSilent: true};
        if (status === 404) return {said: detail === "Not Found" ? NO_ROUTE : LOST};
        return {said: isText && status !== 401 && status < 500 ? `Not baked: ${detail}` : said};
    }

    const percent = share => `${Number(Number((100 * share).toPrecision(3)).toFixed(3))} %`;

    function summaryOf({layers, left_out: leftOut, size, lost_share: lostShare}) {
        const said = [
            ...Object.entries(FORMS).filter(([form]) => layers[form]).map(([form, title]) => `${layers[form]} ${title}`),
            ...(leftOut ? [`${leftOut} left out`] : []),
            ...(layers.cut ? [`${percent(lostShare)} lost`] : []),
            `${Number((size / 1e6).toPrecision(3))} MB`,
        ];
        return `Layers: ${said.join("; ")}`;
    }

    function tableOf(losses) {
        const {element} = lbwDom;
        const heading = text => element("th", {scope: "col", textContent: text});
        const rows = losses.map(({block, parts, lost_share: share}) => element("tr", {},
            element("th", {scope: "row", textContent: block ?? "other", translate: block === null}),
            element("td", {textContent: parts}), element("td", {textContent: percent(share)})));
        const table = element("table", {}, element("thead", {}, element("tr", {}, ...["Block", "Parts cut", "Lost"].map(heading))),
            element("tbody", {}, ...rows));
        return element("details", {className: "lbw-numbers"}, element("summary", {textContent: "What is lost in each block"}),
            element("div", {className: "lbw-scroll"}, table));
    }

    // `page` is what the tab is set to: prompt(), steps(), order() with all else that tags follow from, newTag(name), the tag
    // that means the new file, and replace(tags, tag), which puts it in the place of others and returns whether they were
    // there.
    function build({frame, id, page, theme}) {
        const {element, button, labelled} = lbwDom;
        const text = properties => element("input", {type: "text", autocomplete: "off", ...properties});
        const number = properties => element("input", {type: "number", step: 1, ...properties});
        const tags = text({placeholder: "those of the prompt"});
        const name = text({placeholder: "of the new LoRA"});
        const rank = number({min: 1, max: HIGHEST_RANK, placeholder: "exact"});
        const precision = element("select", {}, ...PRECISIONS.map(each => element("option", {value: each, textContent: each, translate: false})));
        const step = number({min: 0, value: 0, required: true});
        const words = element("input", {type: "checkbox", checked: true});
        const look = button("Look", () => begin("look"));
        const keep = button("Bake into the LoRA folder", () => begin("keep"));
        const download = button("Download", () => begin("download"));
        const cancel = button("Cancel", () => ask(`${ADDRESS}/cancel`, {job}));
        const bar = element("progress", {ariaLabel: "Baking", hidden: true});
        const said = lbwDom.said();
        const result = element("div", {className: "lbw-bake-result"});
        const placeSaid = element("p", {className: "lbw-said"});
        frame.replaceChildren(
            element("div", {className: "lbw-bake-fields"},
                labelled("Tags", tags, id("lbw_bake_tags")), labelled("Name", name, id("lbw_bake_name")),
                labelled("Rank", rank, id("lbw_bake_rank")), labelled("Precision", precision, id("lbw_bake_precision")),
                labelled("Step", step, id("lbw_bake_step"))),
            element("label", {id: id("lbw_bake_words"), className: "lbw-group"}, words,
                element("span", {textContent: "Preview image and trigger words of the source"})),
            element("div", {className: "lbw-tools"}, look, keep, download, cancel, bar),
            placeSaid, said, result,
        );
        let job = null;
        let told = "";

        // Once, because it is read out; what stands there may be its translation.
        function tell(message) {
            if (told !== message) said.textContent = told = message;
        }

        // Whether something is under way, and how far it is.
        function show(progress) {
            look.disabled = keep.disabled = download.disabled = Boolean(progress);
            cancel.hidden = !progress || !job;
            bar.hidden = !progress;
            if (!progress) return;
            bar.max = Math.max(progress.total, 1);
            bar.value = progress.done;
            tell({waiting: WAITING, running: RUNNING}[progress.state] ?? "");
        }

        async function begin(action) {
            step.max = page.steps() - 1;
            if (![rank, step].every(field => field.reportValidity())) return;
            const prompt = tags.value.trim() || page.prompt();
            result.replaceChildren();
            job = null;
            show({done: 0, total: 1}); // what it waits for, the server says
            const {answer, said: refusal} = await ask(ADDRESS, {
                ...page.order(), prompt, name: name.value, rank: rank.value === "" ? null : Number(rank.value), dtype: precision.value,
                step: Number(step.value), steps: page.steps(), action, words: words.checked,
            });
            job = answer?.job ?? null;
            const {ended, said: lost} = answer ? await follow() : {said: refusal};
            show(null);
            if (ended) showEnd(ended, action, lbwPrompt.tagTexts(prompt));
            else tell(lost);
        }

        // Asks until the job is over: {ended}, or {said} why that is not known.
        async function follow() {
            for (;;) {
                const {answer, said: message, isSilent} = await ask(addressOf("", {job}));
                if (answer && !isUnderWay(answer)) return {ended: answer};
                if (answer) show(answer);
                else if (isSilent) tell(message);
                else return {said: message};
                await pause(isSilent ? ASK_SILENT_EVERY_MS : ASK_EVERY_MS);
            }
        }

        function showEnd(ended, action, itsTags) {
            if (ended.state !== "done") {
                tell(ended.state === "cancelled" ? CANCELLED : `Not baked: ${ended.message}`);
                return;
            }
            const parts = [
                element("p", {className: "lbw-said", textContent: summaryOf(ended)}),
                element("div", {className: "lbw-notes"}, element("ul", {}, ...ended.warnings.map(each => element("li", {textContent: each})))),
            ];
            if (action === "look") {
                tell(LOOKED);
                parts.push(element("img", {
                    className: "lbw-plot", src: addressOf("/picture.png", {job, theme: theme()}),
                    alt: "Strength of the new LoRA by block and element",
                }));
            } else if (action === "keep") {
                tell(`Kept as ${ended.file}: ${page.newTag(ended.file)}`);
                parts.unshift(element("div", {className: "lbw-tools"}, button("Put it in the place of its tags", () =>
                    tell(page.replace(itsTags, page.newTag(ended.file)) ? REPLACED : NOT_REPLACED))));
            } else {
                tell(TO_DOWNLOAD);
                const link = element("a", {href: addressOf("/file", {job}), download: "", textContent: "Download it again", className: "lbw-button"});
                parts.unshift(element("div", {className: "lbw-tools"}, link));
                link.click();
            }
            if (ended.losses.length) parts.push(tableOf(ended.losses));
            result.replaceChildren(...parts);
        }

        async function askWhere() {
            const {answer, said: message} = await ask(`${ADDRESS}/place`);
            if (message) tell(message);
            keep.hidden = answer?.may_keep === false;
            placeSaid.textContent = keep.hidden ? `Files can only be downloaded: ${answer.reason}` : "";
        }

        show(null);
        askWhere();
    }

    return {build};
})();
