/* The page's interactive parts: sorting, the viewer of single drawings, and the blind review. The page sends nothing;
   the only output is a file that the reader saves. */
"use strict";

const byId = (id) => document.getElementById(id);
document.querySelectorAll(".needs-script").forEach((element) => { element.hidden = false; });
document.querySelectorAll(".without-script").forEach((element) => { element.hidden = true; });

/* --- Sorting --- */

const classes = byId("classes");
const contents = document.querySelector(".contents ul");

function sortClasses() {
  const select = byId("sort");
  const reversed = byId("reverse").getAttribute("aria-pressed") === "true";
  const key = select.value.replace(/_(.)/g, (_, letter) => letter.toUpperCase());
  const compare = (a, b) => key === "name"
    ? a.dataset.name.localeCompare(b.dataset.name, "en")
    : Number(a.dataset[key]) - Number(b.dataset[key]);
  const articles = [...classes.children].sort((a, b) => a.dataset.classIndex - b.dataset.classIndex).sort(compare);
  if (reversed) articles.reverse();
  const links = new Map([...contents.children].map((link) => [link.dataset.classIndex, link]));
  for (const article of articles) {
    classes.append(article);
    contents.append(links.get(article.dataset.classIndex));
  }
  byId("sort-status").textContent = `Sorted by ${select.selectedOptions[0].textContent}${reversed ? ", reversed" : ""}.`;
}

byId("sort").addEventListener("change", sortClasses);
byId("reverse").addEventListener("click", () => {
  byId("reverse").setAttribute("aria-pressed", String(byId("reverse").getAttribute("aria-pressed") !== "true"));
  sortClasses();
});

/* --- Keyboard: each strip is one tab stop, and the arrow keys move along it --- */

const tilesOf = (strip) => [...strip.querySelectorAll(".tile")];

function makeTabStop(tile) {
  for (const sibling of tilesOf(tile.parentElement)) sibling.tabIndex = sibling === tile ? 0 : -1;
}

for (const strip of document.querySelectorAll(".strip:not(.in-progress)")) {
  makeTabStop(tilesOf(strip)[0]);
  strip.addEventListener("keydown", (event) => {
    const tiles = tilesOf(strip);
    const index = tiles.indexOf(document.activeElement);
    const next = { ArrowLeft: index - 1, ArrowRight: index + 1, Home: 0, End: tiles.length - 1 }[event.key];
    if (next === undefined || !tiles[next]) return;
    event.preventDefault();
    makeTabStop(tiles[next]);
    tiles[next].focus();
  });
}

/* --- The viewer: one drawing enlarged --- */

const viewer = byId("viewer");
let currentTile = null;

function openViewer(tile) {
  currentTile = tile;
  const { nearest, distance, predictions, bits } = tile.dataset;
  byId("viewer-title").textContent = tile.getAttribute("aria-label");
  byId("viewer-drawing").src = tile.querySelector("img").src;
  byId("viewer-caption").textContent = bits ? `${bits} bits per dimension` : "The drawing";
  byId("viewer-nearest-figure").hidden = nearest === undefined;
  if (nearest !== undefined) {
    byId("viewer-nearest").src = nearest;
    byId("viewer-distance").textContent = distance;
  }
  byId("viewer-predictions").textContent =
    predictions === undefined ? "Not evaluated." : `The judge predicts: ${predictions}.`;
  const tiles = [...classes.querySelectorAll(".tile")];
  /* Not `disabled`, which would move the focus out of the dialog, so that its keys stop working. */
  byId("viewer-previous").setAttribute("aria-disabled", String(tile === tiles[0]));
  byId("viewer-next").setAttribute("aria-disabled", String(tile === tiles[tiles.length - 1]));
  if (!viewer.open) viewer.showModal();
}

function moveViewer(offset) {
  const tiles = [...classes.querySelectorAll(".tile")];
  const tile = tiles[tiles.indexOf(currentTile) + offset];
  if (tile) openViewer(tile);
}

classes.addEventListener("click", (event) => {
  const tile = event.target.closest(".tile");
  if (tile) openViewer(tile);
});
viewer.addEventListener("keydown", (event) => {
  const offset = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (offset) moveViewer(offset);
});
/* Not on the event "close", which comes later and could take the focus from an element that the reader has moved to. */
function closeViewer() {
  viewer.close();
  makeTabStop(currentTile);
  currentTile.focus();
}

viewer.addEventListener("cancel", (event) => {
  event.preventDefault();
  closeViewer();
});
viewer.addEventListener("click", (event) => { if (event.target === viewer) closeViewer(); });
byId("viewer-previous").addEventListener("click", () => moveViewer(-1));
byId("viewer-next").addEventListener("click", () => moveViewer(1));
byId("viewer-close").addEventListener("click", closeViewer);

/* --- Blind review --- */

const { hash, questions } = JSON.parse(byId("review-data").textContent);
const storageKey = `review-${hash}`;
const review = { mode: "pairs", reviewer: "", answers: { pairs: [], singles: [] } };
let started = false;

/* The answers of the current mode. Each mode has its own, so that changing the mode loses none. */
const answers = () => review.answers[review.mode];

/* Browsers may refuse storage to a page that is a local file. The review then lasts until the page is closed. */
function saveProgress() {
  try { localStorage.setItem(storageKey, JSON.stringify(review)); } catch { /* no storage */ }
}

function restoreProgress() {
  try {
    const saved = JSON.parse(localStorage.getItem(storageKey));
    if (!["pairs", "singles"].includes(saved.mode)) return;
    const validate = (savedAnswers) => savedAnswers.slice(0, questions.length).map(Boolean);
    review.answers = { pairs: validate(saved.answers.pairs), singles: validate(saved.answers.singles) };
    review.mode = saved.mode;
    review.reviewer = String(saved.reviewer);
  } catch { /* nothing saved, or no storage */ }
}

function showReview() {
  const index = answers().length;
  const finished = index === questions.length;
  byId("review-form").hidden = started;
  byId("review-question").hidden = !started || finished;
  byId("review-end").hidden = !started || !finished;
  if (!started) {
    document.querySelector(`input[name="mode"][value="${review.mode}"]`).checked = true;
    byId("reviewer").value = review.reviewer;
    byId("review-start").textContent =
      !index ? "Start" : finished ? "Show the score" : `Continue from question ${index + 1}`;
    return;
  }
  if (finished) {
    byId("review-score").textContent = scoreText();
    byId("review-score").focus();
    return;
  }
  const { name, drawings, leftIsGenerated, singleIsGenerated } = questions[index];
  const pairs = review.mode === "pairs";
  byId("review-prompt").textContent = `Question ${index + 1} of ${questions.length}, ${name}: ` +
    (pairs ? "which one is generated?" : "is this one generated?");
  byId("review-left").src = pairs ? drawings[0] : drawings[singleIsGenerated === leftIsGenerated ? 0 : 1];
  byId("review-right").hidden = !pairs;
  byId("review-right").src = drawings[1];
  byId("review-first").querySelector("span").textContent = pairs ? "← this one" : "← generated";
  byId("review-second").querySelector("span").textContent = pairs ? "this one →" : "not generated →";
  const focused = document.activeElement;
  if (focused === document.body || !focused.checkVisibility()) byId("review-first").focus({ preventScroll: true });
}

/* An answer is true if the reader takes the left drawing of a pair, or the single drawing, for generated. */
function addAnswer(answer) {
  answers().push(answer);
  saveProgress();
  showReview();
}

const truth = (question) => (review.mode === "pairs" ? question.leftIsGenerated : question.singleIsGenerated);

/* The 95% interval of a share (Wilson 1927). */
function wilsonInterval(correct, number) {
  const z = 1.959964, share = correct / number, scale = 1 + z * z / number;
  const centre = (share + z * z / (2 * number)) / scale;
  const margin = z * Math.sqrt(share * (1 - share) / number + z * z / (4 * number * number)) / scale;
  return [centre - margin, centre + margin];
}

function scoreText() {
  const correct = answers().filter((answer, index) => answer === truth(questions[index])).length;
  const number = questions.length;
  const [low, high] = wilsonInterval(correct, number);
  const percent = (share) => `${Math.round(100 * share)}%`;
  const conclusion = low > 0.5 ? "You recognise generated drawings."
    : high < 0.5 ? "You take generated drawings for real ones."
    : "This may be chance: you may not be able to recognise generated drawings.";
  return `You answered ${correct} of ${number} questions correctly, ${percent(correct / number)} ` +
    `(95% interval ${percent(low)} to ${percent(high)}). Guessing gives 50%. ${conclusion}`;
}

function readForm() {
  review.mode = document.querySelector('input[name="mode"]:checked').value;
  review.reviewer = byId("reviewer").value;
  saveProgress();
  showReview();
}

byId("review-form").addEventListener("input", readForm);
byId("review-form").addEventListener("submit", (event) => {
  event.preventDefault();
  started = true;
  readForm();
});
byId("review-first").addEventListener("click", () => addAnswer(true));
byId("review-second").addEventListener("click", () => addAnswer(false));
byId("review-again").addEventListener("click", () => {
  review.answers[review.mode] = [];
  stopReview();
});
byId("review-save").addEventListener("click", () => {
  const { mode, reviewer } = review;
  const file = { questions: hash, mode, reviewer, answers: answers().map((answer, index) => [index, answer]) };
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(file, null, 1) + "\n"], { type: "application/json" }));
  const suffix = reviewer.replace(/[^A-Za-z0-9]+/g, "-").replace(/^-|-$/g, "").toLowerCase();
  link.download = `${hash.slice(0, 8)}-${mode}${suffix ? `-${suffix}` : ""}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); /* some browsers read the file long after the click */
});

function removeLastAnswer() {
  answers().pop();
  saveProgress();
  showReview();
}

function stopReview() {
  started = false;
  saveProgress();
  showReview();
  byId("review-start").focus();
}

document.addEventListener("keydown", (event) => {
  const { key, target, repeat } = event;
  if (byId("review-question").hidden || viewer.open || event.altKey || event.ctrlKey || event.metaKey) return;
  if (target !== document.body && !byId("review-section").contains(target)) return;
  const action = {
    ArrowLeft: () => addAnswer(true),
    ArrowRight: () => addAnswer(false),
    Backspace: removeLastAnswer,
    Escape: stopReview,
  }[key];
  /* A key that is held down answers once. Enter may have started the review, and must not answer by repeating. */
  if (action || (key === "Enter" && repeat)) event.preventDefault();
  if (action && !repeat) action();
});

restoreProgress();
showReview();
