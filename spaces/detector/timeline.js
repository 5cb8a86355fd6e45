// A press on a window asks for its sound; arrow keys move between windows; the window's extent is shown above.
const windows = () => Array.from(element.querySelectorAll(".st-window"));
const show = (button) => {
  element.querySelectorAll(".st-extent").forEach((extent) => {
    extent.style.left = button.dataset.left;
    extent.style.width = button.dataset.width;
    extent.hidden = false;
  });
};
const over = (event) => {
  const button = event.target.closest(".st-window");
  if (button) show(button);
};
element.addEventListener("mouseover", over);
element.addEventListener("focusin", over);
element.addEventListener("click", (event) => {
  const button = event.target.closest(".st-window");
  if (!button) return;
  windows().forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
  show(button);
  trigger("select", { index: Number(button.dataset.window) });
});
element.addEventListener("keydown", (event) => {
  const all = windows();
  const at = all.indexOf(event.target.closest(".st-window"));
  const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: all.length - 1 }[event.key];
  if (at < 0 || to === undefined || !all[to]) return;
  event.preventDefault();
  all[at].tabIndex = -1;
  all[to].tabIndex = 0;
  all[to].focus();
});
