// Pictures that the server draws when they are asked for: the schedule of the prompt, the strength of a LoRA file.

const lbwPictures = (() => {
    const result = id => lbwDom.setAttributes(lbwDom.element("div", {id}), {role: "status"});

    // `question` says what the page is set to; `bind` joins a field to an argument.
    function buildSchedule({frame, id, bind, question}) {
        const {element, button, tick} = lbwDom;
        const picture = result(id("lbw_schedule_preview"));
        const show = button("Show the prompt's schedule", () => lbwServer.show(picture, "schedule", question()));
        show.id = id("lbw_schedule_show");
        frame.replaceChildren(
            element("div", {className: "lbw-tools"}, show), picture,
            tick("Add this picture to the images", bind("schedule_picture", element("input", {type: "checkbox"})), id("lbw_schedule_picture")),
        );
    }

    // The names are asked for now: there may be thousands.
    function buildStrength({frame, id, theme}) {
        const {element, button, labelled} = lbwDom;
        const names = element("datalist", {id: id("lbw_strength_names")});
        const name = lbwDom.setAttributes(element("input", {type: "text", autocomplete: "off"}), {list: names.id});
        const picture = result(id("lbw_strength_picture"));
        const show = button("Show its strength", () => lbwServer.show(picture, "strengths", {name: name.value, theme: theme()}));
        const renew = button("List LoRAs again", () => list(true));
        show.id = id("lbw_strength_show");
        renew.id = id("lbw_strength_renew");

        async function list(isRenewed) {
            const {answer, said} = await lbwServer.ask("networks", {renewed: isRenewed});
            if (answer) names.replaceChildren(...answer.names.map(value => element("option", {value})));
            else picture.replaceChildren(lbwDom.said(said));
        }

        frame.replaceChildren(
            element("div", {className: "lbw-tools lbw-name-row"}, labelled("LoRA", name, id("lbw_strength_name")), names, show, renew), picture,
        );
        list(false);
    }

    return {buildSchedule, buildStrength};
})();
