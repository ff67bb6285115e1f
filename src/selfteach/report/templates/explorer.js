"use strict";
// The token view. Whatever models and data wrote reaches the page as textContent, never as markup.
(() => {
  const source = document.getElementById("explorer-data");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const root = document.getElementById("explorer");
  const control = (name) => root.querySelector(`[name=${name}]`);
  const LISTED = 200;
  const STEPS = 65534;
  const MISSING = 65535;
  const PER_NAT = 2500;

  const make = (tag, kind, text) => {
    const element = document.createElement(tag);
    if (kind) element.className = kind;
    if (text !== undefined) element.textContent = text;
    return element;
  };

  // --- numbers and texts

  const buffer = (coded) => Uint8Array.from(atob(coded), (c) => c.charCodeAt(0)).buffer;
  const shorts = (coded) => new Uint16Array(buffer(coded));
  const places = (coded) => (data.wide ? new Uint32Array(buffer(coded)) : shorts(coded));
  const number = (x) => {
    if (x === null || x === undefined || Number.isNaN(x)) return "–";
    const size = Math.abs(x);
    const text = size >= 1000 ? x.toFixed(0) : size > 0 && size < 0.001 ? x.toExponential(1) : Number(x.toPrecision(3));
    return String(text).replaceAll("-", "−");
  };
  const percent = (p) => `${p >= 0.0995 ? (100 * p).toFixed(1) : number(100 * p)} %`;
  const text = (i) => (i === null ? "" : data.texts[i]);
  const spelled = (word) =>
    word.replace(/^ +| +$/g, (spaces) => "␣".repeat(spaces.length)).replace(/\n/g, "↵").replace(/\t/g, "⇥") || "(part of a character)";

  // A column of a rollout as a function of the token's place; NaN where there is no value.
  const column = (rollout, name) => {
    const packed = rollout.columns?.[name];
    if (packed === undefined) return () => NaN;
    if (typeof packed === "number") return () => packed;
    const [low, high, coded] = packed;
    const values = shorts(coded);
    return (t) => (values[t] === MISSING ? NaN : low + (values[t] / STEPS) * (high - low));
  };

  const pieces = (rollout) => Array.from(places(rollout.pieces), (i) => data.words[i]);
  const replied = (rollout) => (rollout.turns ?? []).flatMap((turn) => turn.reply.map(([, said]) => text(said)));
  const written = (rollout) => (rollout.pieces === undefined ? text(rollout.answer) : pieces(rollout).join(""));
  const answer = (rollout) => (rollout.written ??= [written(rollout), ...replied(rollout)].join("\n"));
  // The beginning of a text on one line; no character is cut in two.
  const opening = (words) => Array.from(words.slice(0, 400).replace(/\s+/g, " ").trim()).slice(0, 160).join("");

  const verdict = (rollout) => {
    if (rollout.outcome === "right") return ["✓ right", "good"];
    return ["ungraded", "no reward"].includes(rollout.outcome) ? [rollout.outcome, "soft"] : [`✗ ${rollout.outcome}`, "bad"];
  };

  // What was read out of the answer, what it was compared with, and why it is not right.
  const reason = (rollout) => {
    const parts = [];
    const add = (label, i) => {
      parts.push(make("span", "soft", parts.length ? ` · ${label}: ` : `${label}: `));
      parts.push(i === undefined ? "nothing" : make("code", "", text(i)));
    };
    if (rollout.reference !== undefined) add("reference", rollout.reference);
    // Of an episode's turns no single one is compared with anything.
    if (!rollout.turns && (rollout.reference !== undefined || rollout.claim !== undefined)) add("read out", rollout.claim);
    const said = rollout.outcome === "right" ? [] : [text(rollout.why)];
    // What an environment says last stands in its turn.
    if (rollout.feedback !== undefined && !rollout.turns) said.push(text(rollout.feedback));
    if (said.length) parts.push(make("span", "soft", `${parts.length ? " · " : ""}${said.join(" ")}`));
    return parts;
  };

  // --- one rollout

  class Viewer {
    constructor(onKeep, onClose) {
      this.root = document.getElementById("viewer").content.cloneNode(true).firstElementChild;
      this.said = this.root.querySelector(".said");
      this.detail = this.root.querySelector(".detail");
      this.slider = this.root.querySelector(".steps input");
      this.held = false;
      this.root.querySelector(".keep").addEventListener("click", () => onKeep(this));
      this.root.querySelector(".close").addEventListener("click", () => onClose(this));
      this.slider.addEventListener("input", () => this.show(this.versions[this.slider.value]));
      this.said.addEventListener("pointerover", (event) => this.point(event));
      this.said.addEventListener("click", (event) => this.hold(event));
      this.said.addEventListener("keydown", (event) => this.key(event));
      this.all = this.root.querySelector(".all");
      this.all.addEventListener("click", () => this.unfold(this.folds().some((fold) => !fold.open)));
      this.said.addEventListener("toggle", () => this.nameAll(), true);
    }

    show(rollout) {
      const kept = rollout.key === this.rollout?.key ? this.folds().filter((fold) => fold.open) : [];
      const open = new Set(kept.map((fold) => fold.dataset.turn));
      this.rollout = rollout;
      const same = (other) =>
        other.run === rollout.run && other.key === rollout.key && other.problem === rollout.problem;
      this.versions = data.rollouts.filter(same).sort((a, b) => a.step - b.step);
      this.root.querySelector(".steps").hidden = this.versions.length < 2;
      this.slider.max = this.versions.length - 1;
      this.slider.value = this.versions.indexOf(rollout);
      const [words, mood] = verdict(rollout);
      const set = (selector, content) => (this.root.querySelector(selector).textContent = content);
      set(".key", rollout.key);
      this.root.querySelector(".key").title = rollout.key;
      set(".verdict", words);
      this.root.querySelector(".verdict").className = `verdict ${mood}`;
      set(".where", described(rollout));
      const [what, which] = this.version();
      set(".steps span", what);
      set(".steps output", which);
      this.slider.setAttribute("aria-valuetext", which);
      set(".problem", text(rollout.problem));
      this.root.querySelector(".why").replaceChildren(...reason(rollout));
      this.write();
      this.prompts();
      this.held = false;
      this.place = null;
      this.choose(this.loudest());
      const [first] = this.folds();
      const loud = this.at(this.place)?.box.closest(".turn") ?? first;
      this.folds().forEach((fold) => (fold.open = fold === loud || open.has(fold.dataset.turn)));
      this.nameAll();
    }

    // What the slider moves along, and where it is: the steps at which the prompt was answered, the answers of a step.
    version() {
      const { step } = this.rollout;
      const there = this.versions.filter((one) => one.step === step);
      const nth = `${there.indexOf(this.rollout) + 1} of ${there.length}`;
      if (there.length === this.versions.length) return ["Answer", nth];
      return ["Training step", there.length > 1 ? `${number(step)}, ${nth}` : number(step)];
    }

    write() {
      const { rollout } = this;
      const bare = rollout.pieces === undefined;
      this.pieces = bare ? [] : pieces(rollout);
      this.spans = this.pieces.map((piece) => make("span", "token", piece.replace(/\n/g, "↵\n") || "◌"));
      this.boxes = [];
      const parts = rollout.turns?.map((turn) => this.turn(turn)) ?? [
        this.box("Tokens", 0, this.spans.length, bare ? [answer(rollout)] : this.spans),
      ];
      if (rollout.moreTurns) parts.push(make("p", "empty", `${number(rollout.moreTurns)} more turns are in samples.jsonl.`));
      this.said.replaceChildren(...parts);
      this.root.querySelector(".reading").classList.toggle("episode", rollout.turns !== undefined);
      this.shade();
    }

    // Tokens begin to end in a box of their own, which the arrow keys do not leave.
    box(label, begin, end, content) {
      const box = make("div", "tokens");
      box.dir = "auto";
      box.tabIndex = 0;
      box.setAttribute("role", "group");
      box.setAttribute("aria-label", `${label}; arrow keys move, Enter holds one, Escape lets go`);
      box.append(...content);
      this.boxes.push({ box, begin, end, label });
      return box;
    }

    at(t) {
      return this.boxes.find(({ begin, end }) => t !== null && t >= begin && t < end);
    }

    // A turn of an episode, folded: a line about it, its tokens, and what the environment answered.
    turn(turn) {
      const { begin = 0, end = 0 } = turn;
      const words = turn.text === undefined ? this.pieces.slice(begin, end).join("") : text(turn.text);
      const fold = make("details", "turn");
      fold.dataset.turn = turn.number;
      const line = make("summary");
      const [beginning, facts] = [make("span", "words", opening(words) || "(nothing)"), make("span", "about")];
      beginning.dir = "auto";
      facts.append(...told(turn));
      line.append(make("span", "number", `turn ${turn.number}`), beginning, facts);
      fold.append(line);
      if (turn.prompt !== undefined) fold.append(...readings(turn, "before this turn"));
      const content = turn.text === undefined ? this.spans.slice(begin, end) : [text(turn.text)];
      fold.append(this.box(`Tokens of turn ${turn.number}`, begin, end, content), ...turn.reply.map(reply));
      return fold;
    }

    folds() {
      return [...this.said.querySelectorAll(".turn")];
    }

    unfold(open) {
      this.folds().forEach((fold) => (fold.open = open));
      this.nameAll();
    }

    nameAll() {
      const folds = this.folds();
      this.all.hidden = folds.length < 2;
      this.all.textContent = folds.some((fold) => !fold.open) ? "Open all turns" : "Fold all turns";
    }

    shade() {
      const shown = data.columns.find((one) => one.name === control("column").value);
      if (!shown) return;
      const value = column(this.rollout, shown.name);
      this.spans.forEach((span, t) => {
        const x = value(t);
        const route = shown.kind === "route" && !Number.isNaN(x);
        const strength = Number.isNaN(x) ? 0 : route ? 0.55 : Math.min(1, Math.abs(x) / shown.scale);
        span.className = route ? `token c${Math.round(x) % 8} routed` : x < 0 ? "token below" : "token";
        span.classList.toggle("chosen", t === this.place);
        span.style.setProperty("--x", strength.toFixed(3));
      });
    }

    // The token that says most under the chosen column: where the eye should begin.
    loudest() {
      const value = column(this.rollout, control("column").value);
      const loud = (t) => (Number.isNaN(value(t)) ? -1 : Math.abs(value(t)));
      const shown = this.boxes.flatMap(({ begin, end }) => this.spans.map((_, t) => t).slice(begin, end));
      return shown.reduce((best, t) => (best === null || loud(t) > loud(best) ? t : best), null);
    }

    point(event) {
      const t = this.spans.indexOf(event.target);
      if (t >= 0 && !this.held) this.choose(t);
    }

    hold(event) {
      const t = this.spans.indexOf(event.target);
      if (t < 0) return;
      this.held = !(this.held && t === this.place);
      this.choose(t);
    }

    key(event) {
      const own = this.boxes.find(({ box }) => box === event.target);
      if (!own || own.begin >= own.end || !this.spans.length) return;
      const { begin, end } = own;
      const inside = this.at(this.place) === own;
      const moves = { ArrowLeft: inside ? this.place - 1 : begin, ArrowRight: inside ? this.place + 1 : begin, Home: begin, End: end - 1 };
      if (event.key === "Escape") this.held = false;
      if (event.key === "Enter") this.held = !this.held;
      if (!(event.key in moves)) {
        this.said.classList.toggle("held", this.held);
        return;
      }
      event.preventDefault();
      this.held = true;
      this.choose(Math.min(end - 1, Math.max(begin, moves[event.key])));
      this.spans[this.place].scrollIntoView({ block: "nearest" });
    }

    choose(t) {
      this.said.classList.toggle("held", this.held);
      this.spans[this.place]?.classList.remove("chosen");
      this.place = t;
      if (t === null) {
        this.detail.replaceChildren(make("p", "empty", "Of this rollout no token columns were written."));
        return;
      }
      this.spans[t].classList.add("chosen");
      const name = make("p", "chosen-token");
      const { begin, end } = this.at(t);
      const which = this.rollout.turns ? ` of turn ${this.rollout.turns[this.boxes.indexOf(this.at(t))].number}` : "";
      name.append(make("code", "", spelled(this.pieces[t])), make("span", "soft", ` token ${t - begin + 1} of ${end - begin}${which}`));
      this.detail.replaceChildren(name, this.tops(t), this.values(t));
    }

    tops(t) {
      const box = make("div", "tops");
      for (const [role, [words, surprisals]] of Object.entries(this.rollout.tops)) {
        const k = places(words).length / this.spans.length;
        const own = Array.from(places(words).slice(t * k, t * k + k), (i) => data.words[i]);
        const probability = Array.from(shorts(surprisals).slice(t * k, t * k + k), (s) => Math.exp(-s / PER_NAT));
        const side = make("div", "top");
        const list = make("ol");
        side.append(make("h4", "", role), list);
        own.forEach((word, i) => list.append(bar(word, probability[i], word === this.pieces[t])));
        const p = this.probability(role, t);
        if (!own.includes(this.pieces[t]) && !Number.isNaN(p)) list.append(bar(this.pieces[t], p, true));
        box.append(side);
      }
      return box;
    }

    // The written token's probability: the student's from its surprisal, a teacher's from the log-ratio to it.
    probability(role, t) {
      const ratio = role === "student" ? 0 : column(this.rollout, `log_ratio/${role}`)(t);
      return Math.exp(ratio - column(this.rollout, "surprisal/student")(t));
    }

    values(t) {
      const table = make("table", "values");
      for (const { name, label, unit, kind } of data.columns) {
        const x = column(this.rollout, name)(t);
        if (Number.isNaN(x)) continue;
        const row = table.insertRow();
        row.append(make("td", "", label));
        row.append(make("td", "figure", kind === "route" ? data.routes[Math.round(x)] : number(x)), make("td", "soft", unit));
      }
      return table;
    }

    prompts() {
      const box = this.root.querySelector(".readers");
      const open = new Set([...box.querySelectorAll("details[open]")].map((one) => one.dataset.reader));
      box.replaceChildren(...readings(this.rollout, "", open));
    }
  }

  // What the student and each teacher read before an answer, or before a turn that does not extend those before it.
  const readings = ({ prompt, readers }, when, open = new Set()) =>
    [["student", prompt], ...readers].map(([name, read]) => {
      if (read === null) return make("p", "empty", `${name} had nothing to see here.`);
      const fold = make("details");
      fold.dataset.reader = name;
      fold.open = open.has(name);
      const body = make("pre", "", text(read));
      body.dir = "auto";
      fold.append(make("summary", "", `What ${name === "student" ? "the student" : name} reads ${when}`.trim()), body);
      return fold;
    });

  // What is known of a turn besides its words.
  const told = (turn) => {
    const parts = [];
    if (turn.author !== "student") parts.push(make("span", "", `by ${turn.author}`));
    if (!turn.trains) parts.push(make("span", "", "not trained on"));
    if (turn.illegal) parts.push(make("span", "bad", "illegal"));
    if (turn.reward !== null) parts.push(make("span", "", `reward ${number(turn.reward)}`));
    for (const [name, mean] of turn.means) parts.push(make("span", "", `${name} ${number(mean)} nats`));
    return parts;
  };

  // What somebody else than the policy said.
  const reply = ([who, said]) => {
    const box = make("div", "reply");
    const body = make("pre", "", text(said) || "(nothing)");
    body.dir = "auto";
    box.append(make("span", "by", who), body);
    return box;
  };

  const bar = (word, p, written) => {
    const item = make("li", written ? "written" : "");
    item.append(make("span", "word", spelled(word)), make("span", "share", percent(p)));
    item.style.setProperty("--p", p.toFixed(4));
    return item;
  };

  const described = (rollout) => {
    const facts = [rollout.phase === "probe" ? "probe" : "in training", `step ${number(rollout.step)}`];
    if (data.runs.length > 1) facts.unshift(data.runs[rollout.run]);
    if (rollout.length !== null) facts.push(`${number(rollout.length)} tokens`);
    if (rollout.turns) facts.splice(-1, 0, rollout.turns.length === 1 ? "1 turn" : `${number(rollout.turns.length + rollout.moreTurns)} turns`);
    if (rollout.cutOff && !rollout.turns) facts.push("cut off");
    return facts.join(" · ");
  };

  // --- the list

  const list = root.querySelector(".list");
  let found = [];
  let chosen = null;

  const up = (key) => (a, b) => (key(a) ?? Infinity) - (key(b) ?? Infinity);
  const down = (key) => (a, b) => (key(b) ?? -Infinity) - (key(a) ?? -Infinity);
  const orders = {
    newest: down((one) => one.step),
    oldest: up((one) => one.step),
    wrong: up((one) => one.reward),
    right: down((one) => one.reward),
    divergent: down((one) => one.divergence),
    long: down((one) => one.length),
  };

  const search = () => {
    const query = control("query").value.toLowerCase();
    const phase = control("phase").value;
    const run = control("run").value;
    const outcome = control("outcome").value;
    const step = control("step").value;
    const holds = (words) => words.toLowerCase().includes(query);
    found = data.rollouts.filter(
      (one) =>
        (!phase || one.phase === phase) &&
        (!run || one.run === Number(run)) &&
        (!outcome || one.outcome === outcome) &&
        (!step || one.step === Number(step)) &&
        (!query || holds(one.key) || holds(text(one.problem)) || holds(answer(one))),
    );
    found.sort(orders[control("sort").value]);
    list.replaceChildren(...found.slice(0, LISTED).map(entry));
    list.scrollTop = 0;
    const more = found.length > LISTED ? `; the first ${LISTED} are listed, search to narrow them` : "";
    root.querySelector(".count").textContent = `${found.length} of ${data.rollouts.length} rollouts${more}`;
    mark();
  };

  const entry = (rollout, i) => {
    const item = make("div", "entry");
    item.id = `rollout-${i}`;
    item.setAttribute("role", "option");
    const [words, mood] = verdict(rollout);
    item.append(make("span", mood, words), make("span", "name", text(rollout.problem) || rollout.key));
    const facts = described(rollout);
    item.append(make("span", "soft", rollout.divergence === undefined || rollout.divergence === null ? facts : `${facts} · ${number(rollout.divergence)} nats`));
    item.addEventListener("click", () => select(rollout));
    return item;
  };

  const mark = () => {
    const at = found.indexOf(chosen);
    [...list.children].forEach((item, i) => item.setAttribute("aria-selected", String(i === at)));
    if (at >= 0 && at < LISTED) list.setAttribute("aria-activedescendant", `rollout-${at}`);
    else list.removeAttribute("aria-activedescendant");
  };

  const select = (rollout) => {
    chosen = rollout;
    viewers.at(-1).show(rollout);
    mark();
  };

  list.addEventListener("keydown", (event) => {
    const at = found.indexOf(chosen);
    const last = Math.min(found.length, LISTED) - 1;
    const moves = { ArrowUp: at - 1, ArrowDown: at + 1, Home: 0, End: last };
    if (!(event.key in moves) || last < 0) return;
    event.preventDefault();
    const next = Math.min(last, Math.max(0, moves[event.key]));
    select(found[next]);
    list.children[next].scrollIntoView({ block: "nearest" });
  });

  // --- side by side: the last viewer follows the list, those before it were kept

  const viewers = [];
  const place = () => {
    root.querySelector(".viewers").replaceChildren(...viewers.map((one) => one.root));
    viewers.forEach((one) => {
      one.root.querySelector(".close").hidden = viewers.length === 1;
      one.root.querySelector(".keep").hidden = viewers.length > 1;
    });
  };
  const add = (rollout) => {
    const viewer = new Viewer(
      (one) => add(one.rollout),
      (one) => {
        viewers.splice(viewers.indexOf(one), 1);
        place();
      },
    );
    viewers.push(viewer);
    place();
    viewer.show(rollout);
  };

  // --- shading

  const scale = () => {
    const { kind, scale, unit } = data.columns.find((one) => one.name === control("column").value);
    const box = root.querySelector(".scale");
    if (kind === "route") {
      box.replaceChildren(...data.routes.map((label, i) => make("span", `token c${i % 8} routed`, label)));
      [...box.children].forEach((one) => one.style.setProperty("--x", "0.55"));
      return;
    }
    const ends = kind === "signed" ? [`−${number(scale)}`, number(scale)] : ["0", number(scale)];
    box.replaceChildren(make("span", "", ends[0]), make("span", `ramp ${kind}`), make("span", "", `${ends[1]} ${unit}`));
  };

  const option = (value, label) => {
    const one = make("option", "", label);
    one.value = value;
    return one;
  };
  control("column").append(...data.columns.map((one) => option(one.name, one.label)));
  control("run").append(...data.runs.map((label, i) => option(i, label)));
  const counted = (name) => {
    const counts = new Map();
    data.rollouts.forEach((one) => counts.set(one[name], (counts.get(one[name]) ?? 0) + 1));
    return counts;
  };
  control("outcome").append(...[...counted("outcome")].map(([name, count]) => option(name, `${name} (${count})`)));
  control("step").append(...[...counted("step").keys()].sort((a, b) => a - b).map((step) => option(step, number(step))));
  root.querySelector(".runs").hidden = data.runs.length < 2;
  root.querySelector(".shading").hidden = !data.columns.length;
  control("column").addEventListener("change", () => {
    scale();
    viewers.forEach((one) => one.shade());
  });
  for (const name of ["query", "phase", "outcome", "step", "run", "sort"]) control(name).addEventListener("input", search);

  // To begin with, the newest probe that the teachers disagree with most; of several runs, that one in the first two.
  const openings = [];
  for (const run of data.runs.keys()) {
    const own = data.rollouts.filter((one) => one.run === run).sort(orders.newest);
    const newest = own.filter((one) => one.phase === "probe" && one.step === own[0].step).sort(orders.divergent);
    const same = own.find((one) => one.key === openings[0]?.key && one.problem === openings[0]?.problem);
    openings.push(...[same ?? newest[0] ?? own[0]].filter(Boolean));
  }
  root.hidden = false;
  if (data.columns.length) scale();
  openings.slice(0, 2).forEach(add);
  chosen = viewers.at(-1).rollout;
  search();
})();
