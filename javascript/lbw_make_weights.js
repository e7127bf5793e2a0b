// Make Weights: a slider for each block, a picture of the model coloured by weight, and a text box that holds the weights.

const lbwMakeWeights = (() => {
    const LOWEST = -1;
    const HIGHEST = 1.5;
    const FORMS = {shorter: "shorter of both", number: "by number", name: "by name"};
    const {
        Unreadable, isNumber, isValue, isSame, isByName, lettersOf, ranges, membersOf, layoutOf, largestLayout, spread, gathered, unsaid,
        byNumber, byName,
    } = lbwBlockWeights;

    // Blue below 0, grey at 0, orange above; a value that is not known yet (R, U, X) has a colour of its own.
    function colourOf(value) {
        if (!isNumber(value)) return "var(--lbw-unknown)";
        const share = Math.min(Math.abs(Number(value)), 1) * 100;
        return `color-mix(in srgb, ${Number(value) < 0 ? "var(--lbw-negative)" : "var(--lbw-positive)"} ${share}%, var(--lbw-zero))`;
    }
