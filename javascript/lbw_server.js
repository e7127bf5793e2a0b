// What the page asks the server, and what its panel's sections do.

const lbwServer = (() => {
    // Relative, as the host's own questions, because a host may be served below another path.
    const ADDRESS = "./internal/lbw/panel";
    const NO_ROUTE = "The server has no answers for this panel; restart it if the extension was updated.";
    const SILENT = "The server does not answer.";

    // Sends a question, as JSON where it has content: {answer}; or {status, detail, isText, said} where it is refused, with
    // whether the detail is a text, and not a list of what is wrong with the question; or {} where the server is silent.
    async function send(address, content = null) {
        const options = content && {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(content)};
        try {
            const response = await fetch(address, {credentials: "same-origin", ...options});
            const answer = await response.json().catch(() => ({}));
            if (response.ok) return {answer};
            const detail = Array.isArray(answer.detail) ? answer.detail[0]?.msg : answer.detail;
            const isText = typeof answer.detail === "string";
            return {status: response.status, detail, isText, said: `The server answered ${response.status}: ${detail ?? response.statusText}`};
        } catch {
            return {};
        }
    }

    // {answer}, or {said} where there is none.
    async function ask(what, question = null) {
        const {answer, status, said = SILENT} = await send(`${ADDRESS}/${what}`, question);
        return answer ? {answer} : {said: status === 404 ? NO_ROUTE : said};
    }

    // Puts what the server says into an element.
    async function show(element, what, question) {
        const {answer, said} = await ask(what, question);
        if (answer) element.innerHTML = answer.html;
        else element.replaceChildren(lbwDom.said(said));
    }

    return {send, ask, show};
})();
