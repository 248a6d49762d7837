(() => {
  "use strict";

  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };

  // How everything stands after each step: the first state in full, then what each step changed.
  const statesOf = (data) => {
    const states = [];
    let state = new Array(data.keys.length).fill(null);
    for (const changes of data.steps) {
      state = state.slice();
      for (const [key, text] of changes) state[key] = text;
      states.push(state);
    }
    return states;
  };

  // The facts of one process, lock, device or disk, with the numbers of their keys.
  const thingsOf = (data) => {
    const things = new Map();
    data.keys.forEach(([kind, name], key) => {
      const at = kind + " " + name;
      if (!things.has(at)) things.set(at, { kind, name, keys: [] });
      things.get(at).keys.push(key);
    });
    return [...things.values()];
  };

  const thingCard = (thing, data, now, before) => {
    const there = thing.keys.some((key) => now[key] !== null);
    const wasThere = before !== null && thing.keys.some((key) => before[key] !== null);
    if (!there && !wasThere) return null;
    const card = make("div", "thing " + thing.kind + (there ? "" : " gone"));
    const heading = make("h5", "", thing.name);
    card.append(heading);
    if (before !== null && there !== wasThere) heading.append(" ", make("span", "news", there ? "new" : "is gone"));
    if (!there) return card;
    const list = make("dl");
    for (const key of thing.keys) {
      const changed = wasThere && before[key] !== now[key];
      if (now[key] === null && !changed) continue;
      const text = make("dd", changed ? "changed" : "", now[key] === null ? "none" : now[key]);
      if (changed) {
        text.append(make("br"), make("span", "was", "was " + (before[key] ?? "none").replaceAll("\n", "; ")));
      }
      const label = make("dt", changed ? "changed" : "", data.keys[key][2]);
      if (changed) label.append(make("span", "hidden", " changed to"));
      list.append(label, text);
    }
    card.append(list);
    return card;
  };

  const showState = (pane, data, things, now, before) => {
    const parts = [];
    for (const [kind, title] of Object.entries(data.kinds)) {
      const cards = things.filter((thing) => thing.kind === kind)
        .map((thing) => thingCard(thing, data, now, before)).filter((card) => card !== null);
      if (!cards.length) continue;
      const group = make("div", "things");
      group.append(...cards);
      parts.push(make("h4", "", title), group);
    }
    pane.replaceChildren(...parts);
  };

  // The spec beside the steps: the same lines as at the end of the page.
  const sourceLines = (pane) => [...document.querySelectorAll(".sources .source")].map((list) => {
    const copy = list.cloneNode(true);
    pane.append(make("h4", "", list.dataset.name), copy);
    return [...copy.children];
  });

  const showPlaces = (files, where) => {
    for (const line of files.flat()) {
      line.classList.remove("ran", "stand");
      line.removeAttribute("aria-current");
      line.querySelector(".chips")?.remove();
    }
    const chip = (file, number, text, kind) => {
      const line = files[file]?.[number - 1];
      if (!line) return;
      let chips = line.querySelector(".chips");
      if (!chips) line.append(chips = make("span", "chips"));
      chips.append(make("span", kind, text));
      if (kind === "") line.classList.add("stand");
    };
    let ran = null;
    if (where.ran) {
      ran = files[where.ran[0]]?.[where.ran[1] - 1] ?? null;
      ran?.classList.add("ran");
      ran?.setAttribute("aria-current", "true");
      chip(...where.ran, "this step", "step");
    }
    for (const [name, file, number] of where.at) chip(file, number, name + " is here", "");
    for (const [name, file, number] of where.calls) chip(file, number, name + " is below", "call");
    return ran;
  };

  // Scrolls a pane, never the page, so that an element in it can be seen.
  const reveal = (pane, element, above) => {
    if (!element || pane.scrollHeight <= pane.clientHeight) return;
    const box = element.getBoundingClientRect(), frame = pane.getBoundingClientRect();
    if (box.top < frame.top + above) pane.scrollTop -= frame.top + above - box.top;
    else if (box.bottom > frame.bottom - 40) pane.scrollTop += box.bottom - frame.bottom + 40;
  };

  const makePlayer = (player) => {
    const find = (selector) => player.querySelector(selector);
    const data = JSON.parse(find(".data").textContent);
    const states = statesOf(data), things = thingsOf(data);
    const rows = [...player.querySelectorAll(".steps tbody tr")];
    const slider = find("input"), number = find("output"), now = find(".now");
    const statePane = find(".state-pane"), stepsPane = find(".steps-pane"), sourcePane = find(".source-pane");
    const files = sourcePane ? sourceLines(sourcePane) : [];
    const last = rows.length - 1;
    let at = -1;

    const go = (step, inAddress = true) => {
      step = Math.max(0, Math.min(last, step));
      if (step === at) return;
      at = step;
      rows.forEach((row, index) => {
        if (index === at) row.setAttribute("aria-current", "step"); else row.removeAttribute("aria-current");
        row.querySelector("a").tabIndex = index === at ? 0 : -1;
      });
      slider.value = at;
      slider.setAttribute("aria-valuetext", `step ${at} of ${last}`);
      number.value = `${at} / ${last}`;
      now.replaceChildren(...[...rows[at].querySelector(".happened").children].map((line) => line.cloneNode(true)));
      for (const button of player.querySelectorAll("button")) {
        const ends = ["first", "back"].includes(button.dataset.go) ? 0 : last;
        if (at === ends && button === document.activeElement) slider.focus({ preventScroll: true });
        button.disabled = at === ends;
      }
      showState(statePane, data, things, states[at], at ? states[at - 1] : null);
      const head = find(".steps thead th").offsetHeight;
      reveal(stepsPane, rows[at], head);
      if (sourcePane) reveal(sourcePane, showPlaces(files, data.where[at]), 60);
      if (inAddress) history.replaceState(null, "", "#" + rows[at].id);
    };

    const moves = { first: () => go(0), back: () => go(at - 1), on: () => go(at + 1), last: () => go(last) };
    for (const button of player.querySelectorAll("button")) button.addEventListener("click", moves[button.dataset.go]);
    slider.addEventListener("input", () => go(Number(slider.value)));
    rows.forEach((row, index) => row.addEventListener("click", (event) => {
      event.preventDefault();
      go(index);
    }));
    return { player, rows, go, moves };
  };

  const players = [...document.querySelectorAll(".player")].map(makePlayer);

  // Keys go to the counterexample that has the focus; without one, to the one in the middle of the window.
  const addressed = () => {
    const focused = players.find(({ player }) => player.contains(document.activeElement));
    if (focused) return focused;
    const middle = innerHeight / 2;
    const away = ({ player }) => {
      const box = player.getBoundingClientRect();
      return Math.max(0, box.top - middle, middle - box.bottom);
    };
    const nearest = players.reduce((one, other) => (away(other) < away(one) ? other : one), players[0]);
    return nearest && away(nearest) < middle ? nearest : null;
  };

  const keys = { ArrowLeft: "back", k: "back", ArrowRight: "on", j: "on", Home: "first", End: "last" };
  document.addEventListener("keydown", (event) => {
    const move = keys[event.key];
    if (!move || event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return;
    if (event.target instanceof HTMLInputElement && event.key.length > 1) return;
    const player = addressed();
    if (!player) return;
    event.preventDefault();
    player.moves[move]();
  });

  const fromAddress = () => {
    const id = decodeURIComponent(location.hash.slice(1));
    for (const { player, rows, go } of players) {
      const index = rows.findIndex((row) => row.id === id);
      if (index < 0) continue;
      go(index, false);
      player.scrollIntoView();
    }
  };

  document.documentElement.classList.add("js");
  for (const { go } of players) go(0, false);
  fromAddress();
  addEventListener("hashchange", fromAddress);
})();
