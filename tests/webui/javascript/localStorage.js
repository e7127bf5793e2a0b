// What the browser keeps for the pages of this host. A browser may refuse to keep anything.

function orWarn(what, action) {
    try {
        return action();
    } catch (error) {
        console.warn(`${what} in localStorage failed:`, error.message);
        return undefined;
    }
}

function localSet(key, value) {
    orWarn(`keeping ${key}`, () => localStorage.setItem(key, value));
}

function localGet(key, otherwise) {
    return orWarn(`finding ${key}`, () => localStorage.getItem(key)) ?? otherwise;
}

function localRemove(key) {
    orWarn(`removing ${key}`, () => localStorage.removeItem(key));
}
