// Live: while an image is made, the strength of each of its LoRAs, and a slider that changes it from the next step on.

const lbwLive = (() => {
    // Relative, as the host's own questions, because a host may be served below another path.
    const ADDRESS = "./lbw/v1/live";
    const ASK_EVERY_MS = 500;
    const MOVE_EVERY_MS = 200;
    const STEP = 0.05;
    const [LEAST, MOST] = [-1, 2];
    const PASSES = {first: "First pass", hires: "Hires pass"};
    const [WIDTH, HEIGHT, MARGIN] = [200, 36, 3];

    const IDLE = "While an image is made, each of its LoRAs has a slider here.";
    const WAITING = "The image has not been begun.";
    const OFF = "The extension is switched off for this image.";
    const NO_TAGS = "This image has no LoRA.";
    const UNKNOWN = "The server knows of no LoRA that can be moved in this image.";
    const NO_ID = "The browser keeps nothing for this page, so that its images cannot be told from those of others.";
    const OVER = "The image is made.";
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

    // What the server answers: {state} or {said}; neither where it does not know the job.
    async function ask(id, moves) {
        const sent = moves && {
            method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({id_task: id, moves}),
        };
        try {
            const answer = await fetch(sent ? ADDRESS : `${ADDRESS}?id_task=${encodeURIComponent(id)}`, {credentials: "same-origin", ...sent});
            const content = await answer.json().catch(() => ({}));
            if (answer.ok) return {state: content};
            if (answer.status === 404) return content.detail === "Not Found" ? {said: NO_ROUTE, isFinal: true} : {};
            const detail = Array.isArray(content.detail) ? content.detail[0]?.msg : content.detail;
            return {said: `The server answered ${answer.status}: ${detail ?? answer.statusText}`};
        } catch {
            return {said: SILENT};
        }
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
            element("b", {textContent: name, translate: false}), drawing, slider, number, now, write, copy, said);

        const row = {shown, wanted: null, moveSeenAt: null, written: null, lora: null};
        let isHeld = false;
        let isTyping = false;
        const say = message => { said.textContent = message; };

        function put(value) {
            slider.min = Math.min(LEAST, Math.floor(value));
            slider.max = Math.max(MOST, Math.ceil(value));
            slider.value = value;
            if (!isTyping) number.value = round(value);
        }

        function move(value) {
            row.wanted = value;
            row.moveSeenAt = null;
            tell();
            onMove(row, value);
        }

        function tell() {
            const {strength, in_prompt: isInPrompt} = row.lora;
            setText(now, row.wanted !== null ? `${round(row.wanted)} from the next step on`
                : isInPrompt ? `now ${round(strength)}` : "off in this step by the prompt");
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

        // What was wanted is in force once the server is beyond the step in which it took the move.
        row.show = (lora, state, place) => {
            row.lora = lora;
            if (row.moveSeenAt !== null && row.moveSeenAt !== place) row.wanted = row.moveSeenAt = null;
            if (!state.running) {
                row.wanted = null;
                isHeld = false;
            }
            if (row.wanted === null && !isHeld) put(lora.strength);
            slider.disabled = number.disabled = !state.running;
            write.hidden = !lora.played || !lora.played_tag;
            tell();
            drawCourse(drawing, lora.course, state.steps);
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
        let overId = null;
        let isSeen = false;
        let isAsking = false;
        let isSending = false;
        let lastState = null;
        let lastAsked = 0;
        let lastShown = 0;
        const toSend = new Map();

        const tellPass = text => setText(passSaid, text);
        const placeIn = state => [state.batch, state.pass_title, state.step].join();

        function passOf({running, pass_title: pass, step, steps, batch, batches}) {
            if (!running) return OVER;
            const text = `${PASSES[pass]}, step ${step} of ${steps}`;
            return batches > 1 ? `${text}, batch ${batch} of ${batches}` : text;
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
            tellPass(state.loras.length ? passOf(state) : NO_TAGS);
            renewRows(state.loras);
            state.loras.forEach((lora, index) => rows[index].show(lora, state, placeIn(state)));
        }

        function clear(text) {
            tellPass(text);
            rows = [];
            list.replaceChildren();
        }

        // Answers may come in another order than they were asked for.
        async function update(id, moves = null) {
            const number = ++lastAsked;
            const answer = await ask(id, moves);
            if (answer.state && moves) {
                for (const row of rows.filter(each => moves.some(({index}) => index === each.lora.index) && !toSend.has(each.lora.index))) {
                    row.moveSeenAt = placeIn(answer.state);
                }
            }
            if (number < lastShown) return answer;
            lastShown = number;
            setText(said, answer.said ?? "");
            if (answer.state) show(id, answer.state);
            else if (!answer.said && id !== shownId) clear(UNKNOWN);
            return answer;
        }

        function move(row, value) {
            toSend.set(row.lora.index, value);
            send();
        }

        // The last value of each counts, and not every one on the way to it.
        async function send() {
            if (isSending) return;
            isSending = true;
            while (toSend.size) {
                const moves = [...toSend].map(([index, strength]) => ({index, strength}));
                toSend.clear();
                const job = jobs.running();
                if (job) await update(job.id, moves);
                await pause(MOVE_EVERY_MS);
            }
            isSending = false;
        }

        const obstacleOf = job => (job.isActive ? job.id ? "" : NO_ID : OFF);

        // Asks as long as somebody looks on and an image is made, and once more when it is over.
        async function watch() {
            if (isAsking) return;
            isAsking = true;
            while (isSeen && !document.hidden) {
                const running = jobs.running();
                const job = running ?? jobs.last;
                if (!job || (!running && job === overId)) break;
                overId = running ? null : job;
                const obstacle = obstacleOf(job);
                if (obstacle) {
                    clear(obstacle);
                    break;
                }
                if (running && job.id !== shownId && !rows.length) tellPass(WAITING);
                const {state, isFinal} = await update(job.id);
                if (!running && !state && job.id === shownId) show(job.id, {...lastState, running: false});
                if (isFinal) break;
                await pause(ASK_EVERY_MS);
            }
            isAsking = false;
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
