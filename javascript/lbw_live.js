// Live: while an image is made, the strength of each of its LoRAs, and a slider that changes it from the next step on.

const lbwLive = (() => {
    // Relative, as the host's own questions, because a host may be served below another path.
    const ADDRESS = "./internal/lbw/live";
    const PROGRESS = "./internal/progress";
    const ASK_EVERY_MS = 500;
    const MOVE_EVERY_MS = 200;
    const STEP = 0.05;
    const [LEAST, MOST] = [-1, 2];
    const PASSES = {first: "First pass", hires: "Hires pass"};
    const [WIDTH, HEIGHT, MARGIN] = [200, 36, 3];

    const IDLE = "While an image is made, each of its LoRAs has a slider here.";
    const WAITING = "Waiting for the first step.";
    const OFF = "The extension is switched off for this image.";
    const NO_TAGS = "This image has no LoRA.";
    const UNKNOWN = "The server knows of no LoRA that can be moved in this image.";
    const NO_ID = "The browser keeps nothing for this page, so that its images cannot be told from those of others.";
    const OVER = "The generation is over.";
    const TOO_LONG = "What was played has more changes than a tag has room for.";
    const NO_ROUTE = "The server has nothing to move LoRAs with; restart it if the extension was updated.";
    const SILENT = "The server does not answer.";

    const round = value => Number(value.toFixed(4));
    const setText = (shown, text) => { shown.told !== text && (shown.textContent = shown.told = text); };
    const pause = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds));

    // The jobs of a tab of this page. The host stores a job's id and shows its progress bar above the images, in one go,
    // and takes the bar away at its end. Pages of one browser share what is stored: the id that is there when a bar
    // appears is that of this page's job. Jobs run in the order in which they were begun.
    function follow(container, {storedId, isActive}) {
        const jobs = new Map();
        const watchers = [];
        const isBar = node => node.classList?.contains("progressDiv");
        const found = {
            running: () => jobs.values().next().value ?? null,
            last: null,
            watch: watcher => watchers.push(watcher),
        };
        new MutationObserver(records => {
            for (const {addedNodes, removedNodes} of records) {
                for (const bar of [...addedNodes].filter(isBar)) jobs.set(bar, {id: storedId(), isActive: isActive()});
                for (const bar of [...removedNodes].filter(each => jobs.has(each))) {
                    found.last = jobs.get(bar);
                    jobs.delete(bar);
                }
            }
            watchers.forEach(watcher => watcher());
        }).observe(container.parentNode, {childList: true});
        return found;
    }

    // Whether a job's turn has come. Before, the server knows of nothing that could be moved in it.
    async function isInTurn(id) {
        const {answer} = await lbwServer.send(PROGRESS, {id_task: id, live_preview: false});
        return !answer || answer.active;
    }

    // What the server answers: {state} or {said}; neither where it does not know the job.
    async function ask(id, moves) {
        const {answer, status, detail, said = SILENT} = moves ? await lbwServer.send(ADDRESS, {id_task: id, moves})
            : await lbwServer.send(`${ADDRESS}?id_task=${encodeURIComponent(id)}`);
        if (answer) return Array.isArray(answer.loras) ? {state: answer} : {said: SILENT};
        if (status === 404) return detail === "Not Found" ? {said: NO_ROUTE, isFinal: true} : {};
        return {said};
    }

    // The strengths so far, each over the width of its step.
    function drawCourse(drawing, course, steps) {
        const [low, high] = [Math.min(0, ...course), Math.max(1, ...course)];
        const xOf = step => round(step / Math.max(steps, course.length, 1) * WIDTH);
        const yOf = value => round(HEIGHT - MARGIN - (value - low) / (high - low) * (HEIGHT - 2 * MARGIN));
        const {svg} = lbwDom;
        const points = course.flatMap((value, step) => [`${xOf(step)},${yOf(value)}`, `${xOf(step + 1)},${yOf(value)}`]);
        drawing.replaceChildren(
            svg("line", {x1: 0, x2: WIDTH, y1: yOf(0), y2: yOf(0)}),
            svg("polyline", {points: points.join(" ")}),
        );
    }

    // One LoRA. `onMove` is told of each new value, `onWrite` of a click on the button.
    function makeRow({name}, onMove, onWrite) {
        const {element, button, svg} = lbwDom;
        const now = element("span", {className: "lbw-said lbw-live-now"});
        const drawing = svg("svg", {viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", class: "lbw-live-course", role: "img", "aria-label": "Strength in each step so far"});
        const slider = element("input", {type: "range", min: LEAST, max: MOST, step: STEP, ariaLabel: `Strength of ${name}`});
        const number = element("input", {type: "number", step: STEP, className: "lbw-amount", ariaLabel: `Strength of ${name} as a number`});
        const write = button("Write into the tag", () => onWrite(row));
        const said = lbwDom.said();
        const copied = element("input", {type: "text", readOnly: true, ariaLabel: "The tag as it was played"});
        const copy = element("div", {className: "lbw-tools", hidden: true}, copied, button("Copy", () => {
            copied.select();
            say(document.execCommand("copy") ? "Copied." : "Press Ctrl+C to copy.");
        }));
        const shown = element("div", {className: "lbw-live-lora"},
            element("b", {textContent: name, title: name, translate: false}), now, drawing, slider, number, write, said, copy);

        // `wanted` is what the server has not been told yet, `written` the text that has taken the tag's place.
        const row = {shown, wanted: null, written: null, lora: null};
        let isHeld = false;
        let isTyping = false;
        const say = message => setText(said, message);

        function put(value) {
            slider.min = Math.min(LEAST, Math.floor(value));
            slider.max = Math.max(MOST, Math.ceil(value));
            slider.value = value;
            if (!isTyping) number.value = round(value);
        }

        function move(value) {
            row.wanted = value;
            tell();
            onMove(row, value);
        }

        function tell() {
            const {strength, in_prompt: isInPrompt} = row.lora;
            const following = row.wanted ?? row.lora.next;
            setText(now, following !== null ? `${round(following)} from the next step on`
                : isInPrompt ? `now ${round(strength)}` : "off by the prompt");
        }

        slider.addEventListener("input", () => {
            number.value = slider.value;
            move(Number(slider.value));
        });
        slider.addEventListener("pointerdown", () => { isHeld = true; });
        for (const end of ["pointerup", "pointercancel", "change"]) slider.addEventListener(end, () => { isHeld = false; });
        number.addEventListener("input", () => { isTyping = true; });
        number.addEventListener("blur", () => { isTyping = false; });
        number.addEventListener("change", () => {
            isTyping = false;
            if (number.value === "") return;
            put(Number(number.value));
            move(Number(number.value));
        });

        row.show = (lora, {running: isRunning, steps}) => {
            row.lora = isRunning ? lora : {...lora, next: null};
            if (!isRunning) {
                row.wanted = null;
                isHeld = false;
            }
            if (row.wanted === null && !isHeld) put(row.lora.next ?? lora.strength);
            slider.disabled = number.disabled = !isRunning;
            write.hidden = !lora.played_tag;
            if (lora.played && !lora.played_tag) say(TOO_LONG);
            else if (said.told === TOO_LONG) say("");
            tell();
            drawCourse(drawing, lora.course, steps);
        };
        row.tell = (message, textToCopy = null) => {
            say(message);
            copy.hidden = textToCopy === null;
            copied.value = textToCopy ?? "";
        };
        return row;
    }

    // `replace` puts a text in the place of a tag of the prompts, the one with so many of the same before it; it returns
    // whether there is one.
    function build({frame, jobs, replace}) {
        const {element} = lbwDom;
        const passSaid = element("p", {className: "lbw-said", textContent: IDLE});
        const list = element("div", {className: "lbw-live-loras"});
        const said = lbwDom.said();
        frame.replaceChildren(passSaid, list, said);

        let rows = [];
        let shownId = null;
        let current = null;
        let over = null;
        let isSeen = false;
        let isAsking = false;
        let isSending = false;
        let lastState = null;
        let refusal = "";
        let lastAsked = Promise.resolve();
        const toSend = new Map();

        const tellPass = text => setText(passSaid, text);

        function passOf({running, pass_title: pass, step, steps, batch, batches}) {
            if (!running) return OVER;
            if (!steps) return WAITING;
            const text = `${PASSES[pass]}, step ${step + 1} of ${steps}`;
            return batches > 1 ? `${text}, batch ${batch + 1} of ${batches}` : text;
        }

        function renewRows(loras) {
            const keyOf = ({index, tag}) => `${index} ${tag}`;
            if (loras.map(keyOf).join("\n") === rows.map(row => keyOf(row.lora)).join("\n")) return;
            rows = loras.map(lora => Object.assign(makeRow(lora, move, write), {lora}));
            list.replaceChildren(...rows.map(row => row.shown));
        }

        function show(id, state) {
            if (id !== shownId) rows.forEach(row => { row.written = row.wanted = null; row.tell(""); });
            shownId = id;
            lastState = state;
            tellPass(state.steps && !state.loras.length ? NO_TAGS : passOf(state));
            renewRows(state.loras);
            state.loras.forEach((lora, index) => rows[index].show(lora, state));
        }

        function clear(text) {
            tellPass(text);
            rows = [];
            list.replaceChildren();
        }

        // One question at a time, so that no answer is older than what is shown.
        function update(id, moves = null) {
            lastAsked = lastAsked.catch(() => {}).then(async() => {
                const answer = await ask(id, moves);
                for (const row of moves ? rows : []) {
                    if (!toSend.has(row.lora.index)) row.wanted = null;
                }
                if (moves) refusal = answer.said ?? "";
                setText(said, answer.said ?? refusal);
                if (answer.state) show(id, answer.state);
                else if (!answer.said && id !== shownId) clear(UNKNOWN);
                else if (moves) show(id, lastState);
                return answer;
            });
            return lastAsked;
        }

        function move(row, value) {
            toSend.set(row.lora.index, value);
            send();
        }

        // The last value of each counts, and not every one on the way to it.
        async function send() {
            if (isSending) return;
            isSending = true;
            try {
                while (toSend.size) {
                    const moves = [...toSend].map(([index, strength]) => ({index, strength}));
                    toSend.clear();
                    if (jobs.running()?.id === shownId) await update(shownId, moves);
                    await pause(MOVE_EVERY_MS);
                }
            } finally {
                isSending = false;
            }
        }

        const obstacleOf = job => (job.isActive ? job.id ? "" : NO_ID : OFF);

        // What is shown is no state of a job under way any more.
        function showOver() {
            if (rows.length) show(shownId, {...lastState, running: false});
        }

        function begin(job) {
            current = job;
            refusal = "";
            if (job.id !== shownId) {
                toSend.clear();
                showOver();
            }
            if (job === jobs.running()) tellPass(WAITING);
        }

        // Asks as long as somebody looks on and an image is made, and once more when it is over.
        async function watch() {
            if (isAsking) return;
            isAsking = true;
            try {
                while (isSeen && !document.hidden) {
                    const running = jobs.running();
                    const job = running ?? jobs.last;
                    if (!job || job === over) break;
                    const obstacle = obstacleOf(job);
                    if (obstacle) {
                        clear(obstacle);
                        break;
                    }
                    if (job !== current) begin(job);
                    if (!running || job.id === shownId || await isInTurn(job.id)) {
                        const {state, isFinal} = await update(job.id);
                        if (isFinal) break;
                        if (!running) over = job;
                        if (!running && !state) showOver();
                    }
                    await pause(ASK_EVERY_MS);
                }
            } finally {
                isAsking = false;
            }
        }

        function write(row) {
            const {tag, played_tag: played} = row.lora;
            const before = rows.slice(0, rows.indexOf(row));
            const isDone = [row.written, tag].filter(text => text).some(text =>
                replace(text, played, before.filter(each => (each.written ?? each.lora.tag) === text).length));
            if (isDone) row.written = played;
            if (isDone) row.tell("Written into the prompt.");
            else row.tell("Its tag is not in the prompt any more; this is what was played:", played);
        }

        jobs.watch(watch);
        document.addEventListener("visibilitychange", watch);
        new IntersectionObserver(entries => {
            isSeen = entries.at(-1).isIntersecting;
            watch();
        }).observe(frame);
    }

    return {follow, build};
})();
