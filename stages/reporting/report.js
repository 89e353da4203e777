/* What the page does beyond being read: sorting, looking closer, and the blind review. Nothing leaves the browser but a
   file that the reader saves. */
"use strict";

const by = (id) => document.getElementById(id);
document.querySelectorAll(".needs-script").forEach((element) => { element.hidden = false; });
document.querySelectorAll(".without-script").forEach((element) => { element.hidden = true; });

/* --- Sorting --- */

const classes = by("classes");
const contents = document.querySelector(".contents ul");

function sort() {
  const select = by("sort");
  const backwards = by("reverse").getAttribute("aria-pressed") === "true";
  const key = select.value.replace(/_(.)/g, (_, letter) => letter.toUpperCase());
  const compare = (one, other) => key === "name"
    ? one.dataset.name.localeCompare(other.dataset.name, "en")
    : Number(one.dataset[key]) - Number(other.dataset[key]);
  const articles = [...classes.children].sort((one, other) => one.dataset.place - other.dataset.place).sort(compare);
  if (backwards) articles.reverse();
  const links = new Map([...contents.children].map((link) => [link.dataset.place, link]));
  for (const article of articles) {
    classes.append(article);
    contents.append(links.get(article.dataset.place));
  }
  by("sorted").textContent = `Sorted by ${select.selectedOptions[0].textContent}${backwards ? ", reversed" : ""}.`;
}

by("sort").addEventListener("change", sort);
by("reverse").addEventListener("click", () => {
  by("reverse").setAttribute("aria-pressed", String(by("reverse").getAttribute("aria-pressed") !== "true"));
  sort();
});

/* --- A strip is one stop of the Tab key; the arrows go along it --- */

const tilesOf = (strip) => [...strip.querySelectorAll(".tile")];

function stopAt(tile) {
  for (const other of tilesOf(tile.parentElement)) other.tabIndex = other === tile ? 0 : -1;
}

for (const strip of document.querySelectorAll(".strip:not(.film)")) {
  stopAt(tilesOf(strip)[0]);
  strip.addEventListener("keydown", (event) => {
    const tiles = tilesOf(strip);
    const place = tiles.indexOf(document.activeElement);
    const next = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: tiles.length - 1 }[event.key];
    if (next === undefined || !tiles[next]) return;
    event.preventDefault();
    stopAt(tiles[next]);
    tiles[next].focus();
  });
}

/* --- Looking closer --- */

const closer = by("closer");
let looked = null;

function look(tile) {
  looked = tile;
  const { nearest, distance, judge, bits } = tile.dataset;
  by("closer-title").textContent = tile.getAttribute("aria-label");
  by("closer-drawing").src = tile.querySelector("img").src;
  by("closer-what").textContent = bits ? `${bits} bits per dimension` : "The drawing";
  by("closer-other").hidden = nearest === undefined;
  if (nearest !== undefined) {
    by("closer-nearest").src = nearest;
    by("closer-distance").textContent = distance;
  }
  by("closer-judge").textContent = judge === undefined ? "Not measured." : `The judge says: ${judge}.`;
  const tiles = [...classes.querySelectorAll(".tile")];
  /* Not `disabled`, which would take the focus from the button, and with it the keys from the dialog. */
  by("closer-before").setAttribute("aria-disabled", String(tile === tiles[0]));
  by("closer-after").setAttribute("aria-disabled", String(tile === tiles[tiles.length - 1]));
  if (!closer.open) closer.showModal();
}

function step(by) {
  const tiles = [...classes.querySelectorAll(".tile")];
  const tile = tiles[tiles.indexOf(looked) + by];
  if (tile) look(tile);
}

classes.addEventListener("click", (event) => {
  const tile = event.target.closest(".tile");
  if (tile) look(tile);
});
closer.addEventListener("keydown", (event) => {
  const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (move) step(move);
});
/* Not in the event "close": that one comes later, and would take the focus from a reader who has gone on. */
function shut() {
  closer.close();
  stopAt(looked);
  looked.focus();
}

closer.addEventListener("cancel", (event) => {
  event.preventDefault();
  shut();
});
closer.addEventListener("click", (event) => { if (event.target === closer) shut(); });
by("closer-before").addEventListener("click", () => step(-1));
by("closer-after").addEventListener("click", () => step(1));
by("closer-close").addEventListener("click", shut);

/* --- Blind review --- */

const { hash, questions } = JSON.parse(by("blind").textContent);
const store = `review-${hash}`;
const review = { mode: "pairs", reviewer: "", answers: { pairs: [], singles: [] } };
let started = false;

/* Those of the mode at hand; a reader who tries the other one keeps them. */
const answers = () => review.answers[review.mode];

/* Browsers may refuse to keep anything for a page that is a file: then the review lasts as long as the page is open. */
function keep() {
  try { localStorage.setItem(store, JSON.stringify(review)); } catch { /* it is not kept */ }
}

function restore() {
  try {
    const kept = JSON.parse(localStorage.getItem(store));
    if (!["pairs", "singles"].includes(kept.mode)) return;
    const whole = (said) => said.slice(0, questions.length).map(Boolean);
    review.answers = { pairs: whole(kept.answers.pairs), singles: whole(kept.answers.singles) };
    review.mode = kept.mode;
    review.reviewer = String(kept.reviewer);
  } catch { /* nothing is kept */ }
}

function show() {
  const number = answers().length;
  const done = number === questions.length;
  by("review-form").hidden = started;
  by("review-question").hidden = !started || done;
  by("review-end").hidden = !started || !done;
  if (!started) {
    document.querySelector(`input[name="mode"][value="${review.mode}"]`).checked = true;
    by("reviewer").value = review.reviewer;
    by("review-start").textContent = !number ? "Start" : done ? "Show the score" : `Go on from question ${number + 1}`;
    return;
  }
  if (done) {
    by("review-score").textContent = verdict();
    by("review-score").focus();
    return;
  }
  const { name, drawings, left, single } = questions[number];
  const pairs = review.mode === "pairs";
  by("review-asks").textContent = `Question ${number + 1} of ${questions.length}, ${name}: ` +
    (pairs ? "which one is generated?" : "is this one generated?");
  by("review-left").src = pairs ? drawings[0] : drawings[single === left ? 0 : 1];
  by("review-right").hidden = !pairs;
  by("review-right").src = drawings[1];
  by("review-first").querySelector("span").textContent = pairs ? "← this one" : "← generated";
  by("review-second").querySelector("span").textContent = pairs ? "this one →" : "not generated →";
  const focused = document.activeElement;
  if (focused === document.body || !focused.checkVisibility()) by("review-first").focus({ preventScroll: true });
}

/* By pairs an answer says whether the left one is generated, one by one whether the one shown is. */
function answer(said) {
  answers().push(said);
  keep();
  show();
}

const truth = (question) => (review.mode === "pairs" ? question.left : question.single);

/* The 95% interval of a share (Wilson 1927). */
function wilson(right, number) {
  const z = 1.959964, share = right / number, wide = 1 + z * z / number;
  const middle = (share + z * z / (2 * number)) / wide;
  const reach = z * Math.sqrt(share * (1 - share) / number + z * z / (4 * number * number)) / wide;
  return [middle - reach, middle + reach];
}

function verdict() {
  const right = answers().filter((said, place) => said === truth(questions[place])).length;
  const number = questions.length;
  const [low, high] = wilson(right, number);
  const percent = (share) => `${Math.round(100 * share)}%`;
  const chance = low > 0.5 ? "You tell them apart." : high < 0.5 ? "You take one for the other." : "That may be chance: you may not be able to tell them apart.";
  return `You were right ${right} times of ${number}, ${percent(right / number)}; between ${percent(low)} and ${percent(high)} with 95% confidence, where guessing is 50%. ${chance}`;
}

function choose() {
  review.mode = document.querySelector('input[name="mode"]:checked').value;
  review.reviewer = by("reviewer").value;
  keep();
  show();
}

by("review-form").addEventListener("input", choose);
by("review-form").addEventListener("submit", (event) => {
  event.preventDefault();
  started = true;
  choose();
});
by("review-first").addEventListener("click", () => answer(true));
by("review-second").addEventListener("click", () => answer(false));
by("review-again").addEventListener("click", () => {
  review.answers[review.mode] = [];
  stop();
});
by("review-save").addEventListener("click", () => {
  const { mode, reviewer } = review;
  const saved = { questions: hash, mode, reviewer, answers: answers().map((said, place) => [place, said]) };
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(saved, null, 1) + "\n"], { type: "application/json" }));
  const who = reviewer.replace(/[^A-Za-z0-9]+/g, "-").replace(/^-|-$/g, "").toLowerCase();
  link.download = `${hash.slice(0, 8)}-${mode}${who ? `-${who}` : ""}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); /* some browsers read it well after the click */
});

function back() {
  answers().pop();
  keep();
  show();
}

function stop() {
  started = false;
  keep();
  show();
  by("review-start").focus();
}

document.addEventListener("keydown", (event) => {
  const { key, target, repeat } = event;
  if (by("review-question").hidden || closer.open || event.altKey || event.ctrlKey || event.metaKey) return;
  if (target !== document.body && !by("review-part").contains(target)) return;
  const act = { ArrowLeft: () => answer(true), ArrowRight: () => answer(false), Backspace: back, Escape: stop }[key];
  /* A key that is held down answers once; Enter, which may have started the review, does not answer as well. */
  if (act || (key === "Enter" && repeat)) event.preventDefault();
  if (act && !repeat) act();
});

restore();
show();
