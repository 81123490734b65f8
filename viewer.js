// How are two pictures compared? Drag over them, or use the slider's keys; a click shows 100 %.
//
// Gradio runs this once for the page's HTML element. The pictures come and go in it, so that all
// handlers belong to the element itself.

const place = (event) => {
  const box = element.querySelector(".pair").getBoundingClientRect();
  return Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
};

const split = (share) => {
  element.style.setProperty("--split", `${100 * share}%`);
  const slider = element.querySelector(".split");
  if (slider) slider.value = Math.round(100 * share);
};

const zoom = (event) => {
  const frame = element.querySelector(".frame");
  const box = element.querySelector(".pair").getBoundingClientRect();
  const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  const zoomed = element.classList.toggle("zoomed");
  if (!zoomed) return;
  const pair = element.querySelector(".pair");
  frame.scrollLeft = x * pair.scrollWidth - frame.clientWidth / 2;
  frame.scrollTop = y * pair.scrollHeight - frame.clientHeight / 2;
};

let start = null;
split(0.5);
element.addEventListener("pointerdown", (event) => {
  if (!event.target.closest(".pair") || event.target.closest(".split")) return;
  start = event.clientX;
});
element.addEventListener("pointermove", (event) => {
  if (start !== null && Math.abs(event.clientX - start) > 3) split(place(event));
});
element.addEventListener("pointerup", (event) => {
  if (start !== null && Math.abs(event.clientX - start) <= 3) zoom(event);
  start = null;
});
element.addEventListener("pointerleave", () => (start = null));
element.addEventListener("dragstart", (event) => event.preventDefault());
element.addEventListener("input", (event) => {
  if (event.target.matches(".split")) split(event.target.value / 100);
});
