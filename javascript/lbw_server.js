// What the sections of the panel ask the server.

const lbwServer = (() => {
    // Relative, as the host's own questions, because a host may be served below another path.
    const ADDRESS = "./internal/lbw/panel";
    const NO_ROUTE = "The server has no answers for this panel; restart it if the extension was updated.";
    const SILENT = "The server does not answer.";

    // {answer}, or {said} where there is none.
    async function request(what, options) {
        try {
            const response = await fetch(`${ADDRESS}/${what}`, {credentials: "same-origin", ...options});
            const answer = await response.json().catch(() => ({}));
            if (response.ok) return {answer};
            if (response.status === 404) return {said: NO_ROUTE};
            const detail = Array.isArray(answer.detail) ? answer.detail[0]?.msg : answer.detail;
            return {said: `The server answered ${response.status}: ${detail ?? response.statusText}`};
        } catch {
            return {said: SILENT};
        }
    }

    const get = what => request(what, {});
    const ask = (what, question) => request(what, {
        method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(question),
    });

    // Puts what the server says into an element.
    async function show(element, what, question) {
        const {answer, said} = await ask(what, question);
        if (answer) element.innerHTML = answer.html;
        else element.replaceChildren(Object.assign(lbwDom.said(), {textContent: said}));
    }

    return {get, ask, show};
})();
