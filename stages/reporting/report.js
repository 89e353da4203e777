/* The page's interactive parts: sorting, the viewer of single drawings, and the blind review. The page sends nothing;
   the only output is a file that the reader saves. */
"use strict";

const byId = (id) => document.getElementById(id);
document.querySelectorAll(".needs-script").forEach((element) => { element.hidden = false; });
document.querySelectorAll(".without-script").forEach((element) => { element.hidden = true; });

/* --- Sorting --- */

const classes = byId("classes");

/* A class opens if the reader follows a link to it, prints the page, or leaves the viewer at one of its drawings. */
function openTarget() {
  const target = location.hash && byId(decodeURIComponent(location.hash.slice(1)));
  const details = target && target.closest("details");
  if (!details) return;
  details.open = true;
  target.scrollIntoView();
}

addEventListener("hashchange", openTarget);
addEventListener("beforeprint", () => classes.querySelectorAll(".class").forEach((element) => { element.open = true; }));
openTarget();

function sortClasses() {
  const select = byId("sort");
  const reversed = byId("reverse").getAttribute("aria-pressed") === "true";
  const key = select.value.replace(/_(.)/g, (_, letter) => letter.toUpperCase());
  const compare = (a, b) => key === "name"
    ? a.dataset.name.localeCompare(b.dataset.name, "en")
    : Number(a.dataset[key]) - Number(b.dataset[key]);
  const sorted = [...classes.children].sort((a, b) => a.dataset.classIndex - b.dataset.classIndex).sort(compare);
  if (reversed) sorted.reverse();
  classes.append(...sorted);
  const measured = !["name", "class_index"].includes(select.value);
  byId("reverse").textContent = !measured ? "Reverse" : reversed ? "Best first" : "Worst first";
  const order = measured ? (reversed ? ", worst first" : ", best first") : reversed ? ", reversed" : "";
  byId("sort-status").textContent = `Sorted by ${select.selectedOptions[0].textContent}${order}.`;
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

for (const strip of document.querySelectorAll(".strip:has(.tile)")) {
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
  const { nearest, nearness, predictions, bits } = tile.dataset;
  byId("viewer-title").textContent = tile.getAttribute("aria-label");
  byId("viewer-drawing").src = tile.querySelector("img").src;
  byId("viewer-caption").textContent = bits ? `${bits} bits per dimension` : "The drawing";
  byId("viewer-nearest-figure").hidden = nearest === undefined;
  if (nearest !== undefined) {
    byId("viewer-nearest").src = nearest;
    byId("viewer-nearness").textContent = nearness;
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
  currentTile.closest(".class").open = true;
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

const { hash, first, run, questions, earlier } = JSON.parse(byId("review-data").textContent);
const storageKey = `review-${hash}`;
const review = { mode: "pairs", reviewer: "", answers: { pairs: [], singles: [] } };
let started = false;
let wanted = first; /* the number of answers after which the answers are revealed */

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
  if (index > wanted) wanted = questions.length;
  const finished = index === wanted;
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
    showScore();
    return;
  }
  const { name } = questions[index];
  const pairs = review.mode === "pairs";
  byId("review-progress").value = index;
  byId("review-progress").max = wanted;
  byId("review-prompt").textContent = `Question ${index + 1} of ${wanted}, ${name}: ` +
    (pairs ? "which one is generated?" : "is this one generated?");
  byId("review-left").src = shownDrawings(questions[index])[0];
  byId("review-right").hidden = !pairs;
  byId("review-right").src = questions[index].drawings[1];
  byId("review-first").querySelector("span").textContent = pairs ? "← this one" : "← generated";
  byId("review-second").querySelector("span").textContent = pairs ? "this one →" : "not generated →";
  byId("review-back").setAttribute("aria-disabled", String(index === 0));
  const focused = document.activeElement;
  if (focused === document.body || !focused.checkVisibility()) byId("review-first").focus({ preventScroll: true });
  byId("review-question").scrollIntoView({ block: "nearest", behavior: "instant" });
}

/* The drawings that a question shows: both, or the one whose kind the reader guesses. */
function shownDrawings({ drawings, leftIsGenerated, singleIsGenerated }) {
  return review.mode === "pairs" ? drawings : [drawings[singleIsGenerated === leftIsGenerated ? 0 : 1]];
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

/* A share in percent, rounded as by `format_share` of the pages and of the terminal. */
function formatShare(share) {
  if (share > 0 && share < 0.0005) return "<0.1%";
  if (share >= 0.9995 && share < 1) return ">99.9%";
  if ((share >= 0.0995 && share < 0.995) || share === 0 || share === 1) return `${Math.floor(100 * share + 0.5)}%`;
  return `${(Math.floor(1000 * share + 0.5) / 10).toFixed(1)}%`;
}

const isCorrect = (answer, index) => answer === truth(questions[index]);

/* The score, a line to send on, and the drawings: those that have deceived the reader come first. */
function showScore() {
  const number = answers().length;
  const correct = answers().filter(isCorrect).length;
  const [low, high] = wilsonInterval(correct, number);
  const conclusion = low > 0.5 ? "You recognise generated drawings."
    : high < 0.5 ? "You take generated drawings for real ones."
    : "This may be chance: you may not be able to recognise generated drawings.";
  byId("review-score").textContent = `You answered ${correct} of ${number} questions correctly, ` +
    `${formatShare(correct / number)} (95% interval ${formatShare(low)} to ${formatShare(high)}). ` +
    `Guessing gives 50%. ${conclusion}${comparison(correct / number)}`;
  byId("review-line").value =
    `I recognised ${correct} of ${number} generated drawings (${run}); guessing gives ${number / 2}.`;
  byId("review-more").hidden = number === questions.length;
  byId("review-more").textContent = `Go on: ${questions.length - number} more`;
  const all = answers().map((answer, index) => index);
  byId("review-reveal").replaceChildren(
    ...revealed("These deceived you", all.filter((index) => !isCorrect(answers()[index], index))),
    ...revealed("These did not", all.filter((index) => isCorrect(answers()[index], index))));
  byId("review-score").focus({ preventScroll: true });
  byId("review-end").scrollIntoView({ block: "nearest", behavior: "instant" });
  byId("review-score").scrollIntoView({ block: "nearest", behavior: "instant" });
}

/* How a share of correct answers compares with that of the earlier reviewers in the same mode. */
function comparison(share) {
  const shares = earlier.filter(([mode]) => mode === review.mode).map(([, other]) => other);
  const reviewers = shares.length === 1 ? "earlier reviewer" : "earlier reviewers";
  return shares.length
    ? ` You did better than ${shares.filter((other) => other < share).length} of ${shares.length} ${reviewers}.` : "";
}

/* A heading and the drawings of some questions, the generated one of a pair first and framed. */
function revealed(title, indices) {
  if (!indices.length) return [];
  const heading = document.createElement("h3");
  heading.textContent = title;
  return [heading, ...indices.map((index) => {
    const { name, drawings, leftIsGenerated, judge } = questions[index];
    const generatedFirst = leftIsGenerated ? drawings : [drawings[1], drawings[0]];
    const single = shownDrawings(questions[index])[0];
    const figure = document.createElement("figure");
    for (const drawing of review.mode === "pairs" ? generatedFirst : [single]) {
      const image = document.createElement("img");
      image.src = drawing;
      image.alt = drawing === generatedFirst[0] ? `generated ${name}` : `not generated ${name}`;
      if (drawing === generatedFirst[0]) image.className = "generated";
      figure.append(image);
    }
    const caption = document.createElement("figcaption");
    const generated = review.mode === "pairs" || single === generatedFirst[0];
    caption.textContent = !generated ? `${name}, not generated` : judge ? `${name}; judge: ${judge}` : name;
    figure.append(caption);
    return figure;
  })];
}

function readForm() {
  review.mode = document.querySelector('input[name="mode"]:checked').value;
  review.reviewer = byId("reviewer").value;
  wanted = first;
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
byId("review-back").addEventListener("click", removeLastAnswer);
byId("review-stop").addEventListener("click", stopReview);
byId("review-more").addEventListener("click", () => {
  wanted = questions.length;
  showReview();
});
byId("review-copy").addEventListener("click", () => {
  byId("review-line").select();
  /* Some browsers refuse the clipboard to a page that is a local file. The line is then selected. */
  const copied = navigator.clipboard ? navigator.clipboard.writeText(byId("review-line").value) : Promise.reject();
  copied.then(() => { byId("review-copy").textContent = "Copied"; }, () => document.execCommand("copy"));
});
byId("review-again").addEventListener("click", () => {
  review.answers[review.mode] = [];
  wanted = first;
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
